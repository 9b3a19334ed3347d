"""Trains the faithfulness heads: `python -m detectors.training.faithfulness --data DIR --read WORK/logits.npz`.

DIR holds train.jsonl.gz and dev.jsonl.gz with `dataset, group, question, context (a list), response, label` (1: not
supported); `logits.npz` is what `detectors.training.reader` wrote. A label belongs to a whole response, so each of its claims is
a training row with 1/n of the response's weight. The four sources, and the two labels inside each, weigh equally. There is a head
for each stage of the cascade, trained on what that stage sees: of train the second sees what readers say that never saw the
claim's group (stacking; Wolpert 1992), else it would trust the reader more than it should. Made-up contrasts (see `contrasts`)
weigh a quarter of a source each in the first head and are left out of every figure but their own. Takes minutes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from detectors.contract import ClaimReader
from detectors.faithfulness import READING, Faithfulness, Head, Heads, reaches, unclear
from detectors.reader import Reader
from detectors.static import StaticEncoder
from detectors.support import FEATURES
from detectors.training.bands import auroc, losses
from detectors.training.figures import (
    best_threshold,
    by_source,
    calibration_error,
    figures,
    flag_at,
    interval,
    lead,
    macro,
    reliability,
    rounded,
)
from detectors.training.table import CONTRAST_WEIGHT, FloatArray, Read, Table, balance, tabulate

SEED = 0
L2 = 0.01
L2_READ = 0.1  # best out of fold on train
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
    parser.add_argument("--read", type=Path, required=True, help="logits.npz, as written by detectors.training.reader")
    options = parser.parse_args(arguments)
    card = train(options.data, options.out, Read.of(options.read), Reader())
    print(json.dumps({key: card[key] for key in ("auroc", "cascade", "best_single_rule", "length_alone", "flag")}, indent=1))
    return 0


def train(data: Path, out: Path, read: Read, reader: ClaimReader, bootstraps: int = BOOTSTRAPS) -> dict[str, Any]:
    """Fit on train, measure on dev, write heads and card to `out`; the card."""
    static = StaticEncoder()
    known = tabulate(data / "train.jsonl.gz", static, SEED, read=read)
    unseen = tabulate(data / "dev.jsonl.gz", static, SEED, read=read, reader=reader)
    heads = fit_both(known, static.name, reader.name)
    return write(heads, out, evaluate(heads, known, unseen, bootstraps))


# --- fitting ---------------------------------------------------------------------------------------------------------


def fit_both(table: Table, static: str, reader: str) -> Heads:
    real = table.where(~table.made_up)  # the others were not read
    return Heads(fit(table, table.features, FEATURES, static, L2), fit(real, real.closer, READING, reader, L2_READ))


def fit(table: Table, features: FloatArray, signs: Mapping[str, int], model: str, l2: float) -> Head:
    """Logistic regression under the signs of its features; convex, so there is one answer and no seed in it.

    `features` is one of the table's views of its claims.
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

    bounds = [(None, None)] + [(0.0 if s > 0 else None, 0.0 if s < 0 else None) for s in signs.values()]
    start = np.zeros(x.shape[1] + 1)
    found = minimize(loss, start, jac=True, bounds=bounds, method="L-BFGS-B", options={"maxiter": 2_000}).x
    # The penalty draws all values to the middle: they are spread out again as the labels of train say (Platt, 1999).
    margin = x @ found[1:] + found[0]

    def spread(theta: FloatArray) -> float:
        return float(weight @ np.logaddexp(0.0, -(theta[0] * margin + theta[1]) * sign))

    by, shift = minimize(spread, np.array([1.0, 0.0]), method="Nelder-Mead").x
    return Head(mean, scale, np.asarray(by * found[1:]), float(by * found[0] + shift), model)


# --- figures ---------------------------------------------------------------------------------------------------------


def evaluate(heads: Heads, train: Table, dev: Table, bootstraps: int) -> dict[str, Any]:
    """What the card says. Dev chose nothing but `flag` and the weight of the contrasts."""
    changed, dev = dev.where(dev.made_up), dev.where(~dev.made_up)
    whole = dev.mean(heads.cross_encoder.probabilities(dev.closer))
    first, second = staged(heads, dev)
    around = settled(dev, first, second)
    score = cascaded(heads, dev, around)
    flag = flag_at(dev, score, FALSE_FLAGS)
    rules = {name: dev.mean(sign * dev.features[:, i]) for i, (name, sign) in enumerate(FEATURES.items()) if sign}
    best = max(rules, key=lambda name: macro(dev, rules[name]))
    real, folds = out_of_fold(train, heads, around)
    left_out = leave_one_source_out(train, dev, heads, around)
    loss = losses(dev.supported, dev.source, dev.group, whole, score, draws=min(bootstraps, 300))
    flagged = {
        str(s): {
            "supported": rounded(float((score[(dev.source == s) & dev.supported] <= flag).mean())),
            "unsupported": rounded(float((score[(dev.source == s) & ~dev.supported] <= flag).mean())),
        }
        for s in np.unique(dev.source)
    }
    return {
        "auroc": figures(dev, score, bootstraps, SEED),
        "over_best_single_rule": lead(dev, score, rules[best], bootstraps),
        "cascade": {
            "unsure_around": around,
            "unsure_width": Faithfulness.Config().unsure_width,
            "closer_claims": Faithfulness.Config().closer_claims,
            "most_loss": MOST_LOSS,
            "share_closer": rounded(float(goes_on(dev, first, around).mean())),
            "loss_macro": [rounded(v, 4) for v in loss.macro],
            "loss_pooled": [rounded(v, 4) for v in loss.pooled],
            "static_alone": rounded(macro(dev, first)),
            "every_claim_read": rounded(macro(dev, whole)),
        },
        "auroc_out_of_fold_train": {"macro": rounded(macro(real, folds)), **by_source(real, folds)},
        "auroc_out_of_fold_train_and_dev": both(real, folds, dev, score, bootstraps),
        "auroc_leave_one_source_out": {"macro": rounded(float(np.mean(list(left_out.values())))), **left_out},
        "auroc_contrasts": by_source(changed, cascaded(heads, changed, around)),
        "best_single_rule": {"rule": best, **figures(dev, rules[best], bootstraps, SEED)},
        "length_alone": figures(dev, -dev.characters, bootstraps, SEED),
        "calibration_error": rounded(calibration_error(dev, score)),
        "reliability": reliability(dev, score),
        "claim_threshold": best_threshold(real, folds),
        "flag": flag,
        "false_flags": FALSE_FLAGS,
        "flagged": flagged,
        "rows": {"train": len(real.source), "dev": len(dev.source), "contrasts_train": int(train.made_up.sum())},
        "skipped": {"train": train.skipped, "dev": dev.skipped},
        "weights": {
            "static": {name: rounded(float(w)) for name, w in zip(FEATURES, heads.static.weights, strict=True)},
            "cross_encoder": {name: rounded(float(w)) for name, w in zip(READING, heads.cross_encoder.weights, strict=True)},
        },
    }


def settled(dev: Table, first: FloatArray, second: FloatArray) -> float:
    """The middle of the band: the value nearest to the flag that the values of its own cascade would have.

    A band around a flag makes values that have another flag, so both are looked for together.
    """
    ends = sorted((flag_at(dev, first, FALSE_FLAGS), flag_at(dev, second, FALSE_FLAGS)))

    def off(around: float) -> float:
        mixed = np.where(goes_on(dev, first, around), second, first)
        return abs(flag_at(dev, mixed, FALSE_FLAGS) - around)

    return min((rounded(float(around), 2) for around in np.arange(ends[0], ends[1] + 0.005, 0.01)), key=off)


def goes_on(table: Table, first: FloatArray, around: float) -> NDArray[np.bool_]:
    """Which responses are read closer, in the shipped settings."""
    config = Faithfulness.Config()
    claims = np.bincount(table.response).astype(np.float64)
    return np.asarray(np.abs(first - around) <= config.unsure_width * reaches(claims, config.closer_claims))


def staged(heads: Heads, table: Table) -> tuple[FloatArray, FloatArray]:
    """The value of each response by the first stage, and the one it has if it goes on to the second."""
    quick, closer = heads.static.probabilities(table.features), heads.cross_encoder.probabilities(table.closer)
    config = Faithfulness.Config()
    mixed = quick.copy()
    ends = np.cumsum(np.bincount(table.response))
    for start, end in zip(np.concatenate([[0], ends[:-1]]), ends, strict=True):
        chosen = start + unclear(quick[start:end], config.claim_threshold, config.closer_claims)
        mixed[chosen] = closer[chosen]
    return table.mean(quick), table.mean(mixed)


def cascaded(heads: Heads, table: Table, around: float) -> FloatArray:
    """The value of each response, as the detector gives it."""
    first, second = staged(heads, table)
    return np.where(goes_on(table, first, around), second, first)


def out_of_fold(table: Table, names: Heads, around: float) -> tuple[Table, FloatArray]:
    """The real responses, each with its score by heads that saw none of its group."""
    groups, member = np.unique(table.group, return_inverse=True)
    fold = np.random.default_rng(SEED).permutation(len(groups))[member] % FOLDS
    score = np.zeros(len(table.source))
    for k in range(FOLDS):
        heads = fit_both(table.where(fold != k), names.static.model, names.cross_encoder.model)
        score[fold == k] = cascaded(heads, table.where(fold == k), around)
    return table.where(~table.made_up), score[~table.made_up]


def both(train: Table, folds: FloatArray, dev: Table, score: FloatArray, bootstraps: int) -> dict[str, Any]:
    """Every labelled response, judged by heads and a reader that saw none of its group: train out of fold, and dev."""
    found: dict[str, Any] = {}
    for source in np.unique(dev.source):
        parts = [
            (table.where(table.source == source), values[table.source == source])
            for table, values in ((train, folds), (dev, score))
        ]
        table = replace(
            parts[0][0],
            source=np.concatenate([part.source for part, _ in parts]),
            group=np.concatenate([part.group for part, _ in parts]),
            supported=np.concatenate([part.supported for part, _ in parts]),
        )
        found[str(source)] = interval(table, np.concatenate([values for _, values in parts]), bootstraps, SEED)
    return found


def leave_one_source_out(train: Table, dev: Table, names: Heads, around: float) -> dict[str, float]:
    """Each source of dev, judged by a reader and heads that saw nothing of that source, contrasts included."""
    out = {}
    for source in np.unique(dev.source):
        rest = dev.where(dev.source == source)
        heads = fit_both(train.where(train.origin != source), names.static.model, names.cross_encoder.model)
        score = cascaded(heads, replace(rest, closer=rest.away), around)
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
        "models": {stage: head.model for stage, head in heads._asdict().items()},
        "model": "logistic regression over claim features, weights bounded by sign",
        "settings": {"seed": SEED, "l2": L2, "l2_read": L2_READ, "folds": FOLDS, "contrast_weight": CONTRAST_WEIGHT},
        "data": SOURCES,
        "split": "dev is 20 % of the groups of each source (Wikipedia page, source response or knowledge snippet)",
        "features": {"static": list(FEATURES), "cross_encoder": list(READING)},
        **figures_,
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "faithfulness.safetensors").write_bytes(content)
    (out / "faithfulness.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    return card


if __name__ == "__main__":
    sys.exit(main())
