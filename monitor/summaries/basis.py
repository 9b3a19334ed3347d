"""What a summary counts in: of each feature the edges of its cells or the names of its categories, fixed once by a sample.

Counts on other edges cannot be added to these, so a basis has a hash, and summaries lie in a folder of that name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from detectors import cells
from detectors.binning import Coder
from detectors.contract import ColumnKind, FloatArray, Window
from detectors.sides import finite
from monitor import segments
from monitor.summaries.sketch import KEPT

VERSION = 1
"""Of what is counted, and how. Another version, another hash."""


@dataclass(frozen=True)
class NumberEdges:
    """`points` (p,) as `detectors.binning.Coder` has them; `places` (2p + 1,), the mean of the sample in each cell. `share` is
    that of the hashes which a sketch of distinct values begins with."""

    points: FloatArray
    places: FloatArray
    share: float

    @property
    def size(self) -> int:
        return 2 * len(self.points) + 1

    @cached_property
    def coder(self) -> Coder:
        return Coder(self.points)


@dataclass(frozen=True)
class CategoryEdges:
    names: tuple[str, ...]

    @property
    def size(self) -> int:
        return len(self.names) + 1

    @cached_property
    def set(self) -> pa.Array:
        return pa.array(self.names, pa.string())


Edges = NumberEdges | CategoryEdges


@dataclass(frozen=True)
class Basis:
    """Of one model; `columns` by feature. One that the sample has no value of has a single cell."""

    columns: Mapping[str, Edges]

    @classmethod
    def of(cls, sample: Window, features: Mapping[str, ColumnKind]) -> Basis:
        found: dict[str, Edges] = {}
        for name, kind in sorted(features.items()):
            if kind == "number":
                found[name] = _numbers(finite(sample.numbers(name)) if sample.has(name) else np.zeros(0))
            else:
                found[name] = CategoryEdges(cells.names_of(sample.categories(name)) if sample.has(name) else ())
        return cls(found)

    @cached_property
    def hash(self) -> str:
        """Sixteen hex digits: equal hash, summaries that can be added up."""
        digest = hashlib.sha256(f"summaries {VERSION}".encode())
        for name, edges in sorted(self.columns.items()):
            digest.update(f"\0{name}\0{edges.size}\0".encode(errors="surrogatepass"))
            if isinstance(edges, NumberEdges):
                digest.update(edges.points.tobytes() + edges.places.tobytes())
            else:
                digest.update("\0".join(edges.names).encode(errors="surrogatepass"))
        return digest.hexdigest()[:16]

    def save(self, path: Path) -> None:
        rows: dict[str, list[object]] = {"feature": [], "points": [], "places": [], "share": [], "names": []}
        for name, edges in self.columns.items():
            numbers = (edges.points, edges.places, edges.share) if isinstance(edges, NumberEdges) else (None, None, None)
            names = list(edges.names) if isinstance(edges, CategoryEdges) else None
            for column, value in zip(rows, (name, *numbers, names), strict=True):
                rows[column].append(value)
        schema = pa.schema(
            [
                ("feature", pa.string()),
                ("points", pa.list_(pa.float64())),
                ("places", pa.list_(pa.float64())),
                ("share", pa.float64()),
                ("names", pa.list_(pa.string())),
            ]
        )
        temporary = path.with_name(path.name + ".tmp")
        pq.write_table(pa.table(rows, schema), temporary, compression="zstd", write_page_checksum=True)
        segments.sync_file(temporary)
        temporary.rename(path)
        segments.sync_folder(path.parent)

    @classmethod
    def load(cls, path: Path) -> Basis:
        """
        Raises:
            OSError, pa.ArrowException: it is not there, or damaged.
        """
        found: dict[str, Edges] = {}
        for row in pq.read_table(path, page_checksum_verification=True).to_pylist():
            if row["names"] is not None:
                found[row["feature"]] = CategoryEdges(tuple(row["names"]))
            else:
                found[row["feature"]] = NumberEdges(np.array(row["points"]), np.array(row["places"]), row["share"])
        return cls(found)


def _numbers(values: FloatArray) -> NumberEdges:
    if not len(values):
        return NumberEdges(values, np.zeros(1), 1.0)
    values = np.sort(values + 0.0)  # no negative zero
    points = cells.points_of(values)
    with np.errstate(over="ignore", invalid="ignore"):
        places = cells.Cells.on(points).counting(values).places
    assert places is not None
    different = 1 + int(np.count_nonzero(np.diff(values)))
    return NumberEdges(points, places, min(1.0, 4 * KEPT / different))
