"""Trains the faithfulness heads and writes them with their card: `python -m detectors.training.faithfulness --data DIR`.

DIR holds train.jsonl.gz and dev.jsonl.gz with `dataset, group, question, context (a list), response, label` (1: not
supported). A label belongs to a whole response, so each of its claims is a training row with 1/n of the response's weight.
The four sources, and the two labels inside each, weigh equally; made-up contrasts (see `contrasts`) weigh a quarter of a
source each and are left out of every figure but their own. There is a head for each stage of the cascade, trained on what that
stage sees, and one on all sentences through MiniLM, which is not shipped: it is what the cascade is measured against. Takes about
four minutes on two cores, nearly all of it encoding.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize

from detectors.cascade import Band
from detectors.contract import Encoder
from detectors.embedding import EncoderConfig, SentenceEncoder
from detectors.faithfulness import Faithfulness, Head, Heads, unclear
from detectors.static import StaticEncoder
from detectors.support import FEATURES
from detectors.training.bands import Chosen, auroc, choose
from detectors.training.figures import (
    best_threshold,
    by_source,
    calibration_error,
    figures,
    flag_at,
    macro,
    rounded,
)
from detectors.training.table import CONTRAST_WEIGHT, FloatArray, Table, balance, tabulate

SEED = 0
L2 = 0.01
FOLDS = 5
BOOTSTRAPS = 1_000
FALSE_FLAGS = 0.10
MOST_LOSS = 0.005  # half of what may be lost: the mean is held to it, and chance has the other half
SOURCES = {
    "fm2": "google-research/fool-me-twice, Apache-2.0 (evidence: Wikipedia, CC-BY-SA)",
    "factcheck_gpt": "yuxiaw/Factcheck-GPT, Apache-2.0",
    "begin_wow": "google/BEGIN-dataset, Wizard of Wikipedia part, CC-BY 4.0",
    "begin_cmu": "google/BEGIN-dataset, CMU-DoG part, CC-BY 4.0",
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Train the faithfulness head.")
    parser.add_argument("--data", type=Path, required=True, help="folder with train.jsonl.gz and dev.jsonl.gz")
    parser.add_argument("--out", type=Path, default=Path("detectors/weights"), help="where the head and its card go")
    options = parser.parse_args(arguments)
    card = train(options.data, options.out, SentenceEncoder(EncoderConfig(cache_bytes=2**28)))
    print(json.dumps({key: card[key] for key in ("auroc", "cascade", "best_single_rule", "length_alone", "flag")}, indent=1))
    return 0


def train(data: Path, out: Path, encoder: Encoder, bootstraps: int = BOOTSTRAPS) -> dict[str, Any]:
    """Fit on train, measure on dev, write head and card to `out`; the card."""
    static = StaticEncoder()
    known, unseen = (tabulate(data / f"{part}.jsonl.gz", static, encoder, SEED) for part in ("train", "dev"))
    heads = Heads(fit(known, known.features, static.name), fit(known, known.closer, encoder.name))
    return write(heads, out, evaluate(heads, known, unseen, bootstraps))


# --- fitting ---------------------------------------------------------------------------------------------------------


def fit(table: Table, features: FloatArray, encoder: str, l2: float = L2) -> Head:
    """Logistic regression under the signs of `FEATURES`; convex, so there is one answer and no seed in it.

    `features` is one of the table's three views of its claims.
    """
    weight = (balance(table) / np.bincount(table.response))[table.response]
    weight /= weight.sum()
    mean = weight @ features
    scale = np.sqrt(weight @ (features - mean) ** 2)
    scale[scale < 1e-6] = 1.0
    x = (features - mean) / scale
    sign = np.where(table.supported[table.response], 1.0, -1.0)

    def loss(theta: FloatArray) -> tuple[float, FloatArray]:
        margin = (x @ theta[1:] + theta[0]) * sign
        slope = -weight * sign * np.exp(-np.logaddexp(0.0, margin))
        value = weight @ np.logaddexp(0.0, -margin) + l2 * theta[1:] @ theta[1:]
        return float(value), np.concatenate([[slope.sum()], x.T @ slope + 2 * l2 * theta[1:]])

    bounds = [(None, None)] + [(0.0 if s > 0 else None, 0.0 if s < 0 else None) for s in FEATURES.values()]
    found = minimize(loss, np.zeros(x.shape[1] + 1), jac=True, bounds=bounds, method="L-BFGS-B", options={"maxiter": 2_000})
    return Head(mean, scale, np.asarray(found.x[1:]), float(found.x[0]), encoder)


# --- figures ---------------------------------------------------------------------------------------------------------


def evaluate(heads: Heads, train: Table, dev: Table, bootstraps: int) -> dict[str, Any]:
    """What the card says. Dev chose nothing but `flag`, the band of the cascade and the weight of the contrasts."""
    changed, dev = dev.where(dev.made_up), dev.where(~dev.made_up)
    whole = dev.mean(fit(train, train.full, heads.minilm.encoder).probabilities(dev.full))
    first, second = staged(heads, dev)
    band, around = settled(dev, first, second, whole, min(bootstraps, 300))
    score = cascaded(heads, dev, band.band)
    flag = flag_at(dev, score, FALSE_FLAGS)
    rules = {name: dev.mean(sign * dev.features[:, i]) for i, (name, sign) in enumerate(FEATURES.items()) if sign}
    best = max(rules, key=lambda name: macro(dev, rules[name]))
    real, folds = out_of_fold(train, heads, band.band)
    left_out = leave_one_source_out(train, dev, heads, band.band)
    flagged = {
        str(s): {
            "supported": rounded(float((score[(dev.source == s) & dev.supported] <= flag).mean())),
            "unsupported": rounded(float((score[(dev.source == s) & ~dev.supported] <= flag).mean())),
        }
        for s in np.unique(dev.source)
    }
    return {
        "auroc": figures(dev, score, bootstraps, SEED),
        "cascade": {
            "unsure_around": around,
            "unsure_width": rounded(band.width, 2),
            "most_loss": MOST_LOSS,
            "share_closer": rounded(band.share),
            "loss_macro": [rounded(v, 4) for v in band.loss.macro],
            "loss_pooled": [rounded(v, 4) for v in band.loss.pooled],
            "static_alone": rounded(macro(dev, first)),
            "closer_for_all": rounded(macro(dev, second)),
            "all_sentences_minilm": rounded(macro(dev, whole)),
        },
        "auroc_five_fold_train": {"macro": rounded(macro(real, folds)), **by_source(real, folds)},
        "auroc_leave_one_source_out": {"macro": rounded(float(np.mean(list(left_out.values())))), **left_out},
        "auroc_contrasts": by_source(changed, cascaded(heads, changed, band.band)),
        "best_single_rule": {"rule": best, **figures(dev, rules[best], bootstraps, SEED)},
        "length_alone": figures(dev, -dev.characters, bootstraps, SEED),
        "calibration_error": rounded(calibration_error(dev, score)),
        "claim_threshold": best_threshold(real, folds),
        "flag": flag,
        "false_flags": FALSE_FLAGS,
        "flagged": flagged,
        "rows": {"train": len(real.source), "dev": len(dev.source), "contrasts_train": int(train.made_up.sum())},
        "skipped": {"train": train.skipped, "dev": dev.skipped},
        "weights": {
            stage: {name: rounded(float(w)) for name, w in zip(FEATURES, head.weights, strict=True)}
            for stage, head in heads._asdict().items()
        },
    }


def settled(dev: Table, first: FloatArray, second: FloatArray, whole: FloatArray, draws: int) -> tuple[Chosen, float]:
    """The band, and the middle it lies around: the one nearest to the flag that the values of its own cascade would have.

    A band around a flag makes values that have another flag, so both are looked for together.
    """
    ends = sorted((flag_at(dev, first, FALSE_FLAGS), flag_at(dev, second, FALSE_FLAGS)))
    best: tuple[float, float, Chosen, float] | None = None
    for around in np.round(np.arange(ends[0], ends[1] + 0.005, 0.01), 2):
        values = {"first": first, "second": second, "full": whole}
        found = choose(dev.supported, dev.source, dev.group, **values, flag=float(around), most_loss=MOST_LOSS, draws=draws)
        mixed = np.where((first >= found.band.low) & (first <= found.band.high), second, first)
        off = abs(flag_at(dev, mixed, FALSE_FLAGS) - float(around))
        if best is None or (off, found.share) < best[:2]:
            best = (off, found.share, found, float(around))
    assert best is not None
    return best[2], best[3]


def staged(heads: Heads, table: Table) -> tuple[FloatArray, FloatArray]:
    """The value of each response by the first stage, and the one it has if it goes on to the second."""
    quick, closer = heads.static.probabilities(table.features), heads.minilm.probabilities(table.closer)
    config = Faithfulness.Config()
    mixed = quick.copy()
    ends = np.cumsum(np.bincount(table.response))
    for start, end in zip(np.concatenate([[0], ends[:-1]]), ends, strict=True):
        chosen = start + unclear(quick[start:end], config.claim_threshold, config.closer_claims)
        mixed[chosen] = closer[chosen]
    return table.mean(quick), table.mean(mixed)


def cascaded(heads: Heads, table: Table, band: Band) -> FloatArray:
    """The value of each response, as the detector gives it."""
    first, second = staged(heads, table)
    return np.where((first >= band.low) & (first <= band.high), second, first)


def fit_both(table: Table, names: Heads) -> Heads:
    return Heads(fit(table, table.features, names.static.encoder), fit(table, table.closer, names.minilm.encoder))


def out_of_fold(table: Table, names: Heads, band: Band) -> tuple[Table, FloatArray]:
    """The real responses, each with its score by heads that saw none of its group."""
    groups, member = np.unique(table.group, return_inverse=True)
    fold = np.random.default_rng(SEED).permutation(len(groups))[member] % FOLDS
    score = np.zeros(len(table.source))
    for k in range(FOLDS):
        score[fold == k] = cascaded(fit_both(table.where(fold != k), names), table.where(fold == k), band)
    return table.where(~table.made_up), score[~table.made_up]


def leave_one_source_out(train: Table, dev: Table, names: Heads, band: Band) -> dict[str, float]:
    """Each source of dev, judged by heads that saw nothing of that source, contrasts included."""
    out = {}
    for source in np.unique(dev.source):
        rest = dev.where(dev.source == source)
        score = cascaded(fit_both(train.where(train.origin != source), names), rest, band)
        out[str(source)] = rounded(auroc(rest.supported, score))
    return out


# --- writing ---------------------------------------------------------------------------------------------------------


def write(heads: Heads, out: Path, figures_: dict[str, Any]) -> dict[str, Any]:
    """The two files. Equal features give equal weights, byte for byte; another machine may differ in the last digits."""
    from safetensors.numpy import save

    content = save(
        {
            f"{stage}.{part}": values
            for stage, head in heads._asdict().items()
            for part, values in (
                ("mean", head.mean),
                ("scale", head.scale),
                ("weights", head.weights),
                ("bias", np.array([head.bias], dtype=np.float64)),
            )
        }
    )
    card = {
        "detector": Faithfulness.name,
        "version": Faithfulness.version,
        "file": "faithfulness.safetensors",
        "sha256": hashlib.sha256(content).hexdigest(),
        "trained": datetime.now(UTC).date().isoformat(),
        "encoders": {stage: head.encoder for stage, head in heads._asdict().items()},
        "model": "logistic regression over claim features, weights bounded by sign",
        "settings": {"seed": SEED, "l2": L2, "folds": FOLDS, "contrast_weight": CONTRAST_WEIGHT},
        "data": SOURCES,
        "split": "dev is 20 % of the groups of each source (Wikipedia page, source response or knowledge snippet)",
        "features": list(FEATURES),
        **figures_,
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "faithfulness.safetensors").write_bytes(content)
    (out / "faithfulness.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    return card


if __name__ == "__main__":
    sys.exit(main())
