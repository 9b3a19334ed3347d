"""Trains the relevance heads and writes them with their cards: `python -m detectors.training.relevance --data DIR`.

DIR holds train.jsonl.gz and dev.jsonl.gz with `dataset, group, question, context (a list), response, label, label_name`. Which
pairs are made of them stands in `detectors.training.pairs`. The sources, and the two labels inside each, weigh equally. There is
a head for each detector and stage. Takes about three minutes on two cores, nearly all of it encoding.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize

from detectors.answer_relevance import AnswerRelevance
from detectors.cascade import Band
from detectors.claims import sentences
from detectors.context_relevance import ContextRelevance, claims_of, used
from detectors.contract import Encoder
from detectors.embedding import EncoderConfig, SentenceEncoder
from detectors.faithfulness import Head
from detectors.relevance import CLOSER, FEATURES, FILE, Heads, digest, written
from detectors.static import StaticEncoder
from detectors.training.bands import Chosen, auroc, choose, macro_auroc
from detectors.training.faithfulness import L2, SOURCES
from detectors.training.figures import rounded
from detectors.training.pairs import NEGATIVES, FloatArray, Pairs, answers, passages, read, tabulate

SEED = 0
BOOTSTRAPS = 1_000
FALSE_FLAGS = 0.10
MOST_LOSS = 0.01
RULES = ("content", "content_best", "matched")  # overlap of keywords, in three ways
MAKE = {AnswerRelevance.name: answers, ContextRelevance.name: passages}
VERSIONS = {AnswerRelevance.name: AnswerRelevance.version, ContextRelevance.name: ContextRelevance.version}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Train the relevance heads.")
    parser.add_argument("--data", type=Path, required=True, help="folder with train.jsonl.gz and dev.jsonl.gz")
    parser.add_argument("--out", type=Path, default=Path("detectors/weights"), help="where the heads and their cards go")
    options = parser.parse_args(arguments)
    card = train(options.data, options.out, SentenceEncoder(EncoderConfig(cache_bytes=2**28)))
    print(json.dumps({"cards": card["cards"], "unused": card["unused"]}, indent=1))
    return 0


def train(data: Path, out: Path, encoder: Encoder, bootstraps: int = BOOTSTRAPS) -> dict[str, Any]:
    """Fit on train, measure on dev, write heads and cards to `out`; what was written."""
    static = StaticEncoder()
    rows = {part: read(data / f"{part}.jsonl.gz") for part in ("train", "dev")}
    heads: dict[str, Heads] = {}
    cards: dict[str, Any] = {}
    for name, make in MAKE.items():
        known, unseen = (tabulate(make(rows[part], SEED), static, encoder) for part in ("train", "dev"))
        heads[name] = fit_both(known, static.name, encoder.name)
        cards[name] = {"version": VERSIONS[name], **evaluate(heads[name], known, unseen, bootstraps)}
    return write(heads, out, cards, unused(rows["train"], rows["dev"]))


# --- fitting ---------------------------------------------------------------------------------------------------------


def fit(table: Pairs, features: FloatArray, signs: Mapping[str, int], encoder: str, l2: float = L2) -> Head:
    """Logistic regression under the signs of the features; convex, so there is one answer and no seed in it."""
    weight = table.balance()
    mean = weight @ features
    scale = np.sqrt(weight @ (features - mean) ** 2)
    scale[scale < 1e-6] = 1.0
    x = (features - mean) / scale
    sign = np.where(table.relevant, 1.0, -1.0)

    def loss(theta: FloatArray) -> tuple[float, FloatArray]:
        margin = (x @ theta[1:] + theta[0]) * sign
        slope = -weight * sign * np.exp(-np.logaddexp(0.0, margin))
        value = weight @ np.logaddexp(0.0, -margin) + l2 * theta[1:] @ theta[1:]
        return float(value), np.concatenate([[slope.sum()], x.T @ slope + 2 * l2 * theta[1:]])

    bounds = [(None, None)] + [(0.0 if s > 0 else None, 0.0 if s < 0 else None) for s in signs.values()]
    found = minimize(loss, np.zeros(x.shape[1] + 1), jac=True, bounds=bounds, method="L-BFGS-B", options={"maxiter": 2_000})
    return Head(mean, scale, np.asarray(found.x[1:]), float(found.x[0]), encoder)


def fit_both(table: Pairs, static: str, minilm: str) -> Heads:
    return Heads(fit(table, table.first, FEATURES, static), fit(table, table.second, FEATURES | CLOSER, minilm))


# --- figures ---------------------------------------------------------------------------------------------------------


def evaluate(heads: Heads, train: Pairs, dev: Pairs, bootstraps: int) -> dict[str, Any]:
    """What the card says. Dev chose nothing but `flag` and the band of the cascade."""
    first, second = heads.static.probabilities(dev.first), heads.minilm.probabilities(dev.second)
    chosen, around = settled(dev, first, second, min(bootstraps, 300))
    score = cascaded(heads, dev, chosen.band)
    flag = flag_at(dev, score)
    rules = {name: dev.first[:, list(FEATURES).index(name)] for name in RULES}
    best = max(rules, key=lambda name: macro(dev, rules[name]))
    length = dev.first[:, list(FEATURES).index("length")]
    left_out = leave_one_source_out(train, dev, heads, chosen.band)
    sources = [str(s) for s in np.unique(dev.source)]
    return {
        "auroc": figures(dev, score, bootstraps),
        "best_overlap_rule": {"rule": best, **figures(dev, rules[best], bootstraps)},
        "lead_over_rule": lead(dev, score, rules[best], bootstraps),
        "length_alone": figures(dev, length, bootstraps),
        "auroc_leave_one_source_out": {"macro": rounded(float(np.mean(list(left_out.values())))), **left_out},
        "cascade": {
            "unsure_around": around,
            "unsure_width": rounded(chosen.width, 2),
            "most_loss": MOST_LOSS,
            "share_closer": rounded(chosen.share),
            "loss_macro": [rounded(v, 4) for v in chosen.loss.macro],
            "loss_pooled": [rounded(v, 4) for v in chosen.loss.pooled],
            "static_alone": rounded(macro(dev, first)),
            "closer_for_all": rounded(macro(dev, second)),
        },
        "calibration_error": rounded(calibration_error(dev, score)),
        "flag": flag,
        "false_flags": FALSE_FLAGS,
        "flagged": {
            s: {
                label: rounded(float((score[(dev.source == s) & (dev.relevant == is_so)] <= flag).mean()))
                for label, is_so in (("relevant", True), ("other", False))
            }
            for s in sources
        },
        "pairs": {
            part: {s: [int(((t.source == s) & (t.relevant == is_so)).sum()) for is_so in (True, False)] for s in sources}
            for part, t in (("train", train), ("dev", dev))
        },
    }


def settled(dev: Pairs, first: FloatArray, second: FloatArray, draws: int) -> tuple[Chosen, float]:
    """The band, and the middle it lies around: the one nearest to the flag that the values of its own cascade would have."""
    ends = sorted((flag_at(dev, first), flag_at(dev, second)))
    best: tuple[float, float, Chosen, float] | None = None
    for around in np.round(np.arange(ends[0], ends[1] + 0.005, 0.01), 2):
        values = {"first": first, "second": second, "full": second}
        found = choose(dev.relevant, dev.source, dev.group, **values, flag=float(around), most_loss=MOST_LOSS, draws=draws)
        mixed = np.where((first >= found.band.low) & (first <= found.band.high), second, first)
        off = abs(flag_at(dev, mixed) - float(around))
        if best is None or (off, found.share) < best[:2]:
            best = (off, found.share, found, float(around))
    assert best is not None
    return best[2], best[3]


def cascaded(heads: Heads, table: Pairs, band: Band) -> FloatArray:
    """The value of each pair, as the detector gives it to a row of one passage."""
    first, second = heads.static.probabilities(table.first), heads.minilm.probabilities(table.second)
    return np.where((first >= band.low) & (first <= band.high), second, first)


def leave_one_source_out(train: Pairs, dev: Pairs, names: Heads, band: Band) -> dict[str, float]:
    """Each source of dev, judged by heads that saw nothing of that source."""
    out = {}
    for source in np.unique(dev.source):
        rest = dev.where(dev.source == source)
        heads = fit_both(train.where(train.source != source), names.static.model, names.minilm.model)
        out[str(source)] = rounded(auroc(rest.relevant, cascaded(heads, rest, band)))
    return out


def macro(table: Pairs, score: FloatArray) -> float:
    return macro_auroc(table.relevant, table.source, score)


def figures(table: Pairs, score: FloatArray, bootstraps: int) -> dict[str, Any]:
    """AUROC pooled, and its mean within sources, with bootstrap 95 % intervals over groups."""
    found = np.array(
        [
            (auroc(table.relevant[rows], score[rows]), macro_auroc(table.relevant[rows], table.source[rows], score[rows]))
            for rows in draws(table, bootstraps)
        ]
    )
    low, high = np.nanpercentile(found, [2.5, 97.5], axis=0)
    sources = {str(s): table.source == s for s in np.unique(table.source)}
    return {
        "pooled": rounded(auroc(table.relevant, score)),
        "pooled_95": [rounded(low[0]), rounded(high[0])],
        "macro": rounded(macro(table, score)),
        "macro_95": [rounded(low[1]), rounded(high[1])],
        **{s: rounded(auroc(table.relevant[mask], score[mask])) for s, mask in sources.items()},
    }


def lead(table: Pairs, score: FloatArray, rule: FloatArray, bootstraps: int) -> list[float]:
    """Macro AUROC less that of the rule on the same resampled rows: lower end, value and upper end of the 95 % interval."""
    found = [
        macro_auroc(table.relevant[r], table.source[r], score[r]) - macro_auroc(table.relevant[r], table.source[r], rule[r])
        for r in draws(table, bootstraps)
    ]
    low, high = np.nanpercentile(found, [2.5, 97.5])
    return [rounded(low), rounded(macro(table, score) - macro(table, rule)), rounded(high)]


def draws(table: Pairs, many: int) -> list[Any]:
    """Indices of rows, drawn by group with replacement."""
    rng = np.random.default_rng(SEED)
    names, member = np.unique(table.group, return_inverse=True)
    rows_of = np.split(np.argsort(member, kind="stable"), np.cumsum(np.bincount(member))[:-1])
    return [np.concatenate([rows_of[g] for g in rng.integers(len(names), size=len(names))]) for _ in range(many)]


def calibration_error(table: Pairs, score: FloatArray) -> float:
    """ECE over tenths of the scale (Naeini et al. 2015), the sources and labels weighing equally, as in training."""
    tenth = np.minimum((score * 10).astype(int), 9)
    return float(np.abs(np.bincount(tenth, table.balance() * (score - table.relevant), 10)).sum())


def flag_at(table: Pairs, score: FloatArray) -> float:
    """The highest score, to two digits, at or below which at most a share `FALSE_FLAGS` of the relevant pairs lie."""
    weights = table.balance() * table.relevant
    fine = [t for t in np.arange(0.0, 1.0, 0.01) if weights @ (score <= t) <= FALSE_FLAGS * weights.sum()]
    return rounded(float(max(fine)), 2)


def unused(train: Sequence[dict[str, Any]], dev: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """From which share of words on a passage counts as used: supported answers in their own passages, and in others."""
    known, unseen = (_shares(rows) for rows in (train, dev))
    grid = np.arange(0.1, 0.95, 0.05)
    hits = [known[2] @ ((known[0] >= t - 1e-9) == known[1]) for t in grid]
    threshold = rounded(float(grid[int(np.argmax(hits))]), 2)
    value, own, weight = unseen
    return {
        "threshold": threshold,
        "balanced_accuracy": rounded(float(weight @ ((value >= threshold) == own))),
        "own_passage_used": rounded(float((weight * own) @ (value >= threshold) / (weight * own).sum())),
        "other_passage_used": rounded(float((weight * ~own) @ (value >= threshold) / (weight * ~own).sum())),
        "auroc": rounded(auroc(own, value)),
        "pairs": len(value),
    }


def _shares(rows: Sequence[dict[str, Any]]) -> tuple[FloatArray, Any, FloatArray]:
    told = [row for row in rows if (row["label"] == 0 or row["label_name"] == "irrelevant") and claims_of(row["response"])]
    every = passages([{**row, "question": row["response"]} for row in told], SEED)
    shares = [used(claims_of(one.question), [one.text[a:b] for a, b in sentences(one.text)]) for one in every]
    table = Pairs(
        first=np.zeros((len(every), 0)),
        second=np.zeros((len(every), 0)),
        source=np.array([one.source for one in every]),
        group=np.array([one.group for one in every]),
        relevant=np.array([one.relevant for one in every]),
    )
    return np.array(shares), table.relevant, table.balance()


# --- writing ---------------------------------------------------------------------------------------------------------


def write(heads: dict[str, Heads], out: Path, cards: dict[str, Any], used_by: dict[str, Any]) -> dict[str, Any]:
    """One file of numbers and cards. Equal features give equal weights; another machine may differ in the last digits."""
    content = {name: {stage: written(head) for stage, head in both._asdict().items()} for name, both in heads.items()}
    card = {
        "detectors": list(heads),
        "sha256": digest(content),
        "trained": datetime.now(UTC).date().isoformat(),
        "model": "logistic regression over features of a question and a text, weights bounded by sign",
        "settings": {"seed": SEED, "l2": L2, "negatives": NEGATIVES},
        "data": SOURCES,
        "split": "dev is 20 % of the groups of each source (Wikipedia page, source response or knowledge snippet)",
        "features": [*FEATURES, *CLOSER],
        "cards": cards,
        "unused": used_by,
        "heads": content,
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / FILE).write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    return card


if __name__ == "__main__":
    sys.exit(main())
