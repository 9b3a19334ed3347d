"""Trains the faithfulness head and writes it with its card: `python -m detectors.training.faithfulness --data DIR`.

DIR holds train.jsonl.gz and dev.jsonl.gz with `dataset, group, question, context (a list), response, label` (1: not
supported). A label belongs to a whole response, so each of its claims is a training row with 1/n of the response's weight.
The four sources, and the two labels inside each, weigh equally; made-up contrasts (see `contrasts`) weigh a quarter of a
source each and are left out of every figure but their own. Takes about three minutes on two cores, nearly all of it encoding.
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

from detectors.contract import Encoder
from detectors.embedding import EncoderConfig, SentenceEncoder
from detectors.faithfulness import Faithfulness, Head
from detectors.support import FEATURES
from detectors.training.figures import (
    auroc,
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
    print(json.dumps({key: card[key] for key in ("auroc", "best_single_rule", "length_alone", "flag")}, indent=1))
    return 0


def train(data: Path, out: Path, encoder: Encoder, bootstraps: int = BOOTSTRAPS) -> dict[str, Any]:
    """Fit on train, measure on dev, write head and card to `out`; the card."""
    known, unseen = (tabulate(data / f"{part}.jsonl.gz", encoder, SEED) for part in ("train", "dev"))
    head = fit(known, encoder.name)
    return write(head, out, evaluate(head, known, unseen, bootstraps))


# --- fitting ---------------------------------------------------------------------------------------------------------


def fit(table: Table, encoder: str, l2: float = L2) -> Head:
    """Logistic regression under the signs of `FEATURES`; convex, so there is one answer and no seed in it."""
    weight = (balance(table) / np.bincount(table.response))[table.response]
    weight /= weight.sum()
    mean = weight @ table.features
    scale = np.sqrt(weight @ (table.features - mean) ** 2)
    scale[scale < 1e-6] = 1.0
    x = (table.features - mean) / scale
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


def evaluate(head: Head, train: Table, dev: Table, bootstraps: int) -> dict[str, Any]:
    """What the card says. Dev chose nothing but `flag` and the weight of the contrasts."""
    changed, dev = dev.where(dev.made_up), dev.where(~dev.made_up)
    score = dev.mean(head.probabilities(dev.features))
    rules = {name: dev.mean(sign * dev.features[:, i]) for i, (name, sign) in enumerate(FEATURES.items()) if sign}
    best = max(rules, key=lambda name: macro(dev, rules[name]))
    real, folds = out_of_fold(train, head.encoder)
    left_out = leave_one_source_out(train, dev, head.encoder)
    flag = flag_at(dev, score, FALSE_FLAGS)
    return {
        "auroc": figures(dev, score, bootstraps, SEED),
        "auroc_five_fold_train": {"macro": rounded(macro(real, folds)), **by_source(real, folds)},
        "auroc_leave_one_source_out": {"macro": rounded(float(np.mean(list(left_out.values())))), **left_out},
        "auroc_contrasts": by_source(changed, changed.mean(head.probabilities(changed.features))),
        "best_single_rule": {"rule": best, **figures(dev, rules[best], bootstraps, SEED)},
        "length_alone": figures(dev, -dev.characters, bootstraps, SEED),
        "calibration_error": rounded(calibration_error(dev, score)),
        "claim_threshold": best_threshold(real, folds),
        "flag": flag,
        "false_flags": FALSE_FLAGS,
        "flagged": {
            str(s): {
                "supported": rounded(float((score[(dev.source == s) & dev.supported] <= flag).mean())),
                "unsupported": rounded(float((score[(dev.source == s) & ~dev.supported] <= flag).mean())),
            }
            for s in np.unique(dev.source)
        },
        "rows": {"train": len(real.source), "dev": len(dev.source), "contrasts_train": int(train.made_up.sum())},
        "skipped": {"train": train.skipped, "dev": dev.skipped},
        "weights": {name: rounded(float(w)) for name, w in zip(FEATURES, head.weights, strict=True)},
    }


def out_of_fold(table: Table, encoder: str) -> tuple[Table, FloatArray]:
    """The real responses, each with its score by a head that saw none of its group."""
    groups, member = np.unique(table.group, return_inverse=True)
    fold = np.random.default_rng(SEED).permutation(len(groups))[member] % FOLDS
    score = np.zeros(len(table.source))
    for k in range(FOLDS):
        head = fit(table.where(fold != k), encoder)
        held = table.where(fold == k)
        score[fold == k] = held.mean(head.probabilities(held.features))
    return table.where(~table.made_up), score[~table.made_up]


def leave_one_source_out(train: Table, dev: Table, encoder: str) -> dict[str, float]:
    """Each source of dev, judged by a head that saw nothing of that source, contrasts included."""
    out = {}
    for source in np.unique(dev.source):
        head = fit(train.where(train.origin != source), encoder)
        rest = dev.where(dev.source == source)
        out[str(source)] = rounded(auroc(rest.supported, rest.mean(head.probabilities(rest.features))))
    return out


# --- writing ---------------------------------------------------------------------------------------------------------


def write(head: Head, out: Path, figures_: dict[str, Any]) -> dict[str, Any]:
    """The two files. Equal features give equal weights, byte for byte; another machine may differ in the last digits."""
    from safetensors.numpy import save

    bias = np.array([head.bias], dtype=np.float64)
    content = save({"mean": head.mean, "scale": head.scale, "weights": head.weights, "bias": bias})
    card = {
        "detector": Faithfulness.name,
        "version": Faithfulness.version,
        "file": "faithfulness.safetensors",
        "sha256": hashlib.sha256(content).hexdigest(),
        "trained": datetime.now(UTC).date().isoformat(),
        "encoder": head.encoder,
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
