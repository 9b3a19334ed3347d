"""Labelled answers as a table of claims, and what each weighs."""

from __future__ import annotations

import gzip
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from detectors.contract import ClaimReader, Encoder
from detectors.faithfulness import Case, Faithfulness, look_up, read_row, with_reading
from detectors.training.contrasts import PREFIX, contrasts

FloatArray = NDArray[np.float64]

# Heavier contrasts find more changed facts and cost real answers: at 0.25 dev's macro AUROC is 0.001 lower, at 1 it is 0.011.
CONTRAST_WEIGHT = 0.25


@dataclass(frozen=True)
class Table:
    """Claims with their features, and the responses they belong to. Only responses with a claim are in it."""

    features: FloatArray  # (claims, features): as the first stage sees them, all sentences through the static encoder
    closer: FloatArray  # (claims, features of `READING`): as the second does, each claim read with the nearest sentences
    away: FloatArray  # (claims, features of `READING`): ... by a reader that saw nothing of the claim's source; NaN where unknown
    response: NDArray[np.int64]  # (claims,): index of the response
    source: NDArray[np.str_]  # (responses,)
    origin: NDArray[np.str_]  # (responses,): the source, or the one a contrast was made from
    group: NDArray[np.str_]  # (responses,): rows of a group stay on one side of a split
    supported: NDArray[np.bool_]  # (responses,)
    characters: FloatArray  # (responses,)
    skipped: int
    """Responses that cannot be scored, mostly lone questions; contrasts among them."""

    @property
    def made_up(self) -> NDArray[np.bool_]:
        return np.char.startswith(self.source, PREFIX)

    def where(self, keep: NDArray[np.bool_]) -> Table:
        """The responses marked in `keep`."""
        claims = keep[self.response]
        renumbered = np.cumsum(keep) - 1
        return replace(
            self,
            features=self.features[claims],
            closer=self.closer[claims],
            away=self.away[claims],
            response=renumbered[self.response[claims]],
            source=self.source[keep],
            origin=self.origin[keep],
            group=self.group[keep],
            supported=self.supported[keep],
            characters=self.characters[keep],
        )

    def mean(self, per_claim: FloatArray) -> FloatArray:
        """From claims to responses, as the detector does it."""
        n = len(self.source)
        return np.asarray(np.bincount(self.response, per_claim, n) / np.bincount(self.response, minlength=n))


@dataclass(frozen=True)
class Read:
    """What readers said of claims, by row and claim: (3,) logits each. Made by `detectors.training.reader`."""

    folds: dict[tuple[str, str], FloatArray]
    """By readers that saw nothing of the claim's group."""
    source: dict[tuple[str, str], FloatArray]
    """By readers that saw nothing of the claim's source."""

    @classmethod
    def of(cls, path: Path) -> Read:
        found = np.load(path)
        keys = list(zip(found["row"].tolist(), found["claim"].tolist(), strict=True))
        return cls(*(dict(zip(keys, found[name], strict=True)) for name in ("folds", "source")))


UNREAD = np.full(3, np.nan)


def tabulate(
    path: Path,
    static: Encoder,
    seed: int,
    *,
    read: Read | None = None,
    reader: ClaimReader | None = None,
    made_up: bool = True,
    batch: int = 64,
) -> Table:
    """`reader` reads every claim; without one what `read` holds is taken, and made-up claims stay unread (NaN)."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    rows += contrasts(rows, seed) if made_up else []
    config = Faithfulness.Config()
    kept: list[dict[str, Any]] = []
    features: list[FloatArray] = []
    closer: list[FloatArray] = []
    away: list[FloatArray] = []
    for at in tqdm(range(0, len(rows), batch), desc=path.name, unit="batch", file=sys.stderr):
        part = rows[at : at + batch]
        found = [(row, read_row({**row, "contexts": row["context"]}, config)) for row in part]
        scored = [(row, case) for row, case in found if isinstance(case, Case)]
        looks = look_up([case for _, case in scored], static)
        pairs = [
            (claim, case.evidence.passage(look.near))
            for (_, case), of_case in zip(scored, looks, strict=True)
            for claim, look in zip(case.claims, of_case, strict=True)
        ]
        keys = [
            (row["id"] if row["dataset"] == row.get("origin", row["dataset"]) else "", claim)
            for row, case in scored
            for claim in case.claims
        ]
        features += [np.array([look.features for look in of_case]) for of_case in looks]
        logits = (
            reader.read(pairs).astype(np.float64)
            if reader
            else np.array([(read.folds if read else {}).get(key, UNREAD) for key in keys])
        )
        closer.append(logits)
        away.append(np.array([(read.source if read else {}).get(key, UNREAD) for key in keys]))
        kept += [row for row, _ in scored]
    quick = np.concatenate(features)
    return Table(
        features=quick,
        closer=with_reading(quick, np.concatenate(closer)),
        away=with_reading(quick, np.concatenate(away)),
        response=np.repeat(np.arange(len(kept)), [len(f) for f in features]),
        source=np.array([row["dataset"] for row in kept]),
        origin=np.array([row.get("origin", row["dataset"]) for row in kept]),
        group=np.array([f"{row.get('origin', row['dataset'])} {row['group']}" for row in kept]),
        supported=np.array([row["label"] == 0 for row in kept]),
        characters=np.array([len(row["response"]) for row in kept], dtype=np.float64),
        skipped=len(rows) - len(kept),
    )


def balance(table: Table) -> FloatArray:
    """A weight for each response: every label of every source weighs the same."""
    weights = np.zeros(len(table.source))
    for source in np.unique(table.source):
        for label in (False, True):
            cell = (table.source == source) & (table.supported == label)
            weights[cell] = 1.0 / max(1, cell.sum())
    return np.where(table.made_up, CONTRAST_WEIGHT * weights, weights)
