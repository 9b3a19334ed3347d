"""Trains and calibrates the ways of `hallucination`: `python -m detectors.training.hallucination --data DIR`.

DIR holds train.jsonl.gz and dev.jsonl.gz as for `detectors.training.faithfulness`, which is trained first: the way `context` is
calibrated on what its shipped heads say of dev, whose answers they have not seen, and measured out of fold there. `samples` and
`logprobs` are trained on answers of a small LLM to questions with known answers (`detectors.training.closed_book`), `turns` on
FM2: its evidence stands for what the assistant said before, and a claim, written by a person to be true or false, for the answer.
All figures are out of fold, by groups; so are those that decide which way may alert.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from detectors.contract import Encoder, Outcome, Resources
from detectors.embedding import EncoderConfig, SentenceEncoder
from detectors.faithfulness import Faithfulness
from detectors.hallucination import Hallucination, Sampled, Told, Way, of_supports, read_samples, read_turns
from detectors.hallucination_head import FEATURES, FILE, LEAST, Head, digest, written
from detectors.training.contrasts import contrasts
from detectors.training.logistic import (
    Fitted,
    Labelled,
    calibration_error,
    figures,
    fit,
    lowest_flag,
    out_of_fold,
    reliability,
    without_source,
)
from detectors.ways import of_logprobs, of_samples, of_turns, tokens_of

SEED = 0
L2 = 0.001
FOLDS = 5
BOOTSTRAPS = 1_000
FALSE_FLAGS = 0.10
CLOSED_BOOK = Path("tests/data/closed_book.jsonl.gz")
LEFT_OUT = "sum"  # of its kinds: two of 47 are right, as it sets out to explain and is cut before the result
DATA = {
    "context": "dev of the data of faithfulness; its card names them",
    "samples": "answers of SmolLM2-135M-Instruct (Apache-2.0) on GeoNames (CC-BY 4.0), the periodic table and sums",
    "logprobs": "the same answers, with the log-probabilities of their tokens",
    "turns": "google-research/fool-me-twice, Apache-2.0 (evidence: Wikipedia, CC-BY-SA), which stands for earlier turns",
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Train and calibrate the ways of hallucination.")
    parser.add_argument("--data", type=Path, required=True, help="folder with train.jsonl.gz and dev.jsonl.gz")
    parser.add_argument("--closed-book", type=Path, default=CLOSED_BOOK, help="what detectors.training.closed_book wrote")
    parser.add_argument("--out", type=Path, default=Path("detectors/weights"), help="where the weights and their card go")
    options = parser.parse_args(arguments)
    encoder = SentenceEncoder(EncoderConfig(cache_bytes=2**28))
    train, dev = (read(options.data / f"{part}.jsonl.gz") for part in ("train", "dev"))
    tables = tabulate(train, dev, read(options.closed_book), encoder)
    card = write(tables, options.out)
    print(json.dumps(card["ways"], indent=1))
    return 0


def read(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


# --- tables ----------------------------------------------------------------------------------------------------------


def tabulate(
    train: Sequence[dict[str, Any]], dev: Sequence[dict[str, Any]], closed_book: Sequence[dict[str, Any]], encoder: Encoder
) -> dict[Way, Labelled]:
    """The labelled answers of each way, as the detector sees them."""
    closed_book = [row for row in closed_book if row["dataset"] != LEFT_OUT]
    return {
        "context": of_context(dev, encoder),
        "samples": of_sampled(closed_book, encoder),
        "logprobs": of_tokens(closed_book),
        "turns": of_told([row for row in (*train, *dev) if row["dataset"] == "fm2"]),
    }


def of_context(rows: Sequence[dict[str, Any]], encoder: Encoder) -> Labelled:
    detector = Faithfulness()
    detector.load(Resources(encoder=lambda: encoder))
    scores = [score for at in range(0, len(rows), 64) for score in detector.score([as_row(row) for row in rows[at : at + 64]])]
    found = [
        (row, of_supports(np.array([claim.support for claim in score.claims])))
        for row, score in zip(rows, scores, strict=True)
        if score.outcome is Outcome.OK
    ]
    return _table(found)


def as_row(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "record_id": row["id"], "contexts": row["context"]}


def of_sampled(rows: Sequence[dict[str, Any]], encoder: Encoder) -> Labelled:
    config = Hallucination.Config()
    cases = [(row, case) for row in rows if isinstance(case := read_samples(row, config), Sampled)]
    vectors = iter(encoder.encode([text for _, case in cases for text in case.texts]))
    found = []
    for row, case in cases:
        found.append((row, of_samples(case.texts, case.question, np.array([next(vectors) for _ in case.texts]))[0]))
    return _table(found)


def of_tokens(rows: Sequence[dict[str, Any]]) -> Labelled:
    most = Hallucination.Config().max_logprobs
    return _table([(row, of_logprobs(tokens[0])[0]) for row in rows if (tokens := tokens_of(row["logprobs"], most)) is not None])


def of_told(rows: Sequence[dict[str, Any]]) -> Labelled:
    """FM2's claims as answers after a turn that says the evidence for or against them, among other sentences of the page."""
    return _table([(row, _told(row, [*row["context"]])) for row in rows])


def of_changed(rows: Sequence[dict[str, Any]]) -> Labelled:
    """Supported answers, themselves and with one fact changed, after a turn that says what they were made from."""
    return _table([(row, _told(row, row["context"])) for row in contrasts(rows, SEED)])


def _told(row: dict[str, Any], turns: Sequence[str]) -> Any:
    messages = [{"role": "assistant", "parts": [{"type": "text", "content": turn}]} for turn in turns]
    case = read_turns({"response": row["response"], "messages": [*messages, {"role": "user", "content": "And?"}]}, 64)
    return of_turns(case.claims, case.statements)[0] if isinstance(case, Told) else np.zeros(len(FEATURES["turns"]))


def _table(found: Sequence[tuple[dict[str, Any], Any]]) -> Labelled:
    return Labelled(
        np.array([features for _, features in found]),
        np.array([row["dataset"] for row, _ in found]),
        np.array([f"{row.get('origin', row['dataset'])} {row['group']}" for row, _ in found]),
        np.array([row["label"] == 1 for row, _ in found]),
    )


# --- figures ---------------------------------------------------------------------------------------------------------


def fitter(way: Way) -> Any:
    signs = [*FEATURES[way].values()]
    return lambda table: fit(table, signs, L2)


def measured(way: Way, table: Labelled, bootstraps: int = BOOTSTRAPS) -> dict[str, Any]:
    """What the card says of a way, out of fold; `table` is all there is of it."""
    value = out_of_fold(table, FOLDS, SEED, fitter(way))
    flag = lowest_flag(table, value, FALSE_FLAGS)
    sources = [str(s) for s in np.unique(table.source)]
    found: dict[str, Any] = {
        "rows": len(table.bad),
        "bad": int(table.bad.sum()),
        "auroc": figures(table, value, bootstraps, SEED),
        "calibration_error": round(calibration_error(table, value), 3),
        "reliability": [one._asdict() for one in reliability(table, value)],
        "flag": flag,
        "flagged": {
            s: {
                name: round(float((value[(table.source == s) & (table.bad == bad)] >= flag).mean()), 3)
                for name, bad in (("supported", False), ("unsupported", True))
            }
            for s in sources
        },
    }
    if len(sources) > 1:
        found["auroc_leave_one_source_out"] = figures(table, without_source(table, fitter(way)), bootstraps, SEED)
    return found


def may_alert(found: dict[str, Any]) -> bool:
    """Where its AUROC is enough, and stays so without the own source where there are several: transfer is what counts."""
    figures_ = [found[name]["macro"] for name in ("auroc", "auroc_leave_one_source_out") if name in found]
    return bool(min(figures_) >= LEAST)


def write(tables: dict[Way, Labelled], out: Path) -> dict[str, Any]:
    """The weights and their card. Equal features give equal weights; another machine may differ in the last digits."""
    ways = {way: measured(way, table) for way, table in tables.items()}
    heads: dict[str, Any] = {}
    for way, table in tables.items():
        fitted: Fitted = fitter(way)(table)
        heads[way] = written(way, Head(*fitted, may_alert=may_alert(ways[way])))
    calibrated = (files("detectors") / "weights" / "faithfulness.safetensors").read_bytes()
    card = {
        "detector": Hallucination.name,
        "version": Hallucination.version,
        "sha256": digest(heads),
        "trained": datetime.now(UTC).date().isoformat(),
        "model": "for each way a logistic regression, weights bounded by sign",
        "settings": {"seed": SEED, "l2": L2, "folds": FOLDS, "least_auroc": LEAST},
        "faithfulness": {"version": Faithfulness.version, "sha256": hashlib.sha256(calibrated).hexdigest()},
        "data": DATA,
        "ways": ways,
        "heads": heads,
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / FILE).write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    return card


if __name__ == "__main__":
    sys.exit(main())
