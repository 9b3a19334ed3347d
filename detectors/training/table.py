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

from detectors.contract import Encoder
from detectors.faithfulness import Case, Faithfulness, Judged, look_closer, look_up, read_row
from detectors.training.contrasts import PREFIX, contrasts

FloatArray = NDArray[np.float64]

# Heavier contrasts find more changed facts and cost real answers: at 0.25 dev's macro AUROC is 0.001 lower, at 1 it is 0.011.
CONTRAST_WEIGHT = 0.25


@dataclass(frozen=True)
class Table:
    """Claims with their features, and the responses they belong to. Only responses with a claim are in it."""

    features: FloatArray  # (claims, features): as the first stage sees them, all sentences through the static encoder
    closer: FloatArray  # (claims, features): as the second does, the nearest sentences through the encoder
    full: FloatArray  # (claims, features): all sentences through the encoder, what the cascade is measured against
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
            full=self.full[claims],
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


def tabulate(path: Path, static: Encoder, encoder: Encoder, seed: int, batch: int = 64) -> Table:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    rows += contrasts(rows, seed)
    config = Faithfulness.Config()
    kept: list[dict[str, Any]] = []
    features: list[FloatArray] = []
    for at in tqdm(range(0, len(rows), batch), desc=path.name, unit="batch", file=sys.stderr):
        part = rows[at : at + batch]
        read = [read_row({**row, "contexts": row["context"]}, config) for row in part]
        found = [(row, case) for row, case in zip(part, read, strict=True) if isinstance(case, Case)]
        cases = [case for _, case in found]
        seen = [Judged(looks, np.zeros(len(looks))) for looks in look_up(cases, static)]
        every = [np.arange(len(case.claims)) for case in cases]
        views = ([one.looks for one in seen], look_closer(cases, seen, every, encoder), look_up(cases, encoder))
        features += [
            np.array([[look.features for look in view] for view in of_case]) for of_case in zip(*views, strict=True)
        ]  # (3, claims, features)
        kept += [row for row, _ in found]
    quick, closer, full = np.concatenate(features, axis=1)
    return Table(
        features=quick,
        closer=closer,
        full=full,
        response=np.repeat(np.arange(len(kept)), [f.shape[1] for f in features]),
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
