"""The sealed tier: merging segments, and finding records among many of them.

Generations of 2.5 KB are merged from segments of a minute into one. Keys that are in none of 500 files are looked for, 5,000 at
a time, as the writer does before each commit. Passages and labels that come late are looked for among 300 segments, through
the index and, beside it, by reading every segment.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry

from monitor import segments
from monitor.clock import SystemClock
from monitor.compaction import Compactor
from monitor.config import StoreConfig
from monitor.hashfile import HashFile, KeyFile
from monitor.keys import KeyIndex, hash64, place_hash
from monitor.metrics import Metrics
from monitor.segments import Sealer
from monitor.store import Store
from monitor.transaction import Transaction
from tests.bench.harness import Options, Row, each, measured
from tests.bench.hot_tier import append, generations

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Later(SystemClock):
    """Ahead of the wall clock by what it was moved."""

    def __init__(self) -> None:
        self._ahead = timedelta(0)

    def now(self) -> datetime:
        return super().now() + self._ahead

    def move(self, seconds: float) -> None:
        self._ahead += timedelta(seconds=seconds)


@contextmanager
def store(options: Options) -> Iterator[tuple[Store, Sealer, Later]]:
    with TemporaryDirectory(dir=options.folder) as folder:
        clock, metrics = Later(), Metrics(CollectorRegistry())
        config = StoreConfig(path=Path(folder) / "store", min_free_bytes=0)
        one = Store(config, clock=clock, metrics=metrics, queue_records=10**6, queue_bytes=2**33)
        yield one, Sealer(one, clock=clock, metrics=metrics, seal_seconds=60, seal_rows=50_000), clock
        one.close()


def run(options: Options) -> list[Row]:
    return [*merging(options), *keys(options), *late(options)]


def merging(options: Options) -> list[Row]:
    batches = list(generations(options.pick(60, 20, 2), options.pick(1_000, 1_000, 20)))
    rows = sum(b.num_rows for b in batches)

    def one(_: int) -> dict[str, float]:
        with store(options) as (opened, sealer, clock):
            for batch in batches:
                columns = {n: batch[n] for n in batch.column_names if n not in ("seq", "model")}
                opened.run(partial(append, columns=columns))
                sealer.seal("generations", "bot")
            files = sorted(opened.root.rglob("*.parquet"))
            before = query(opened)
            started = time.perf_counter()
            for file in files:
                segments.sha256(file)
            hashing = time.perf_counter() - started
            clock.move(7_200)
            compactor = Compactor(opened, clock=clock, metrics=Metrics(CollectorRegistry()), after_seconds=0, max_bytes=2**30)
            resident, longest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0.0
            started = at = time.perf_counter()
            while compactor.step():
                longest, at = max(longest, time.perf_counter() - at), time.perf_counter()
            return {
                "rate": rows / (time.perf_counter() - started),
                "grown": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident) / 1024,
                "longest": longest,
                "hashing": hashing / rows * 1e6,
                "before": before,
                "after": query(opened),
            }

    found = each(options, range(options.pick(3, 1, 1)), "merging", one)
    about = f"{len(batches)} segments of {batches[0].num_rows:,} generations of 2.5 KB"
    return [
        measured("merging segments", [f["rate"] for f in found], "rows/s", about, better="higher"),
        measured("- the longest step", [f["longest"] for f in found], "s", "copying, then indexes, hash and commit"),
        measured("- peak resident memory grew by", [f["grown"] for f in found], "MB"),
        measured("- a count over all of them, before", [f["before"] for f in found], "ms"),
        measured("- a count over all of them, after", [f["after"] for f in found], "ms"),
        measured("SHA-256 of a segment", [f["hashing"] for f in found], "s", "for a million generations"),
    ]


def query(opened: Store) -> float:
    """Milliseconds."""
    started = time.perf_counter()
    with opened.read() as reader:
        reader.query(f"SELECT count(*) FROM {reader.source('generations', 'bot')} WHERE input_tokens > 2000")
    return (time.perf_counter() - started) * 1e3


def keys(options: Options) -> list[Row]:
    files, held, asked = options.pick(500, 500, 5), options.pick(20_000, 5_000, 100), options.pick(5_000, 5_000, 50)
    rng = np.random.default_rng(0)
    with TemporaryDirectory(dir=options.folder) as folder:
        apart, merged = KeyIndex(), KeyIndex()
        for n in range(files):
            path = Path(folder) / f"{n}.keys"
            found = rng.integers(0, 2**64, held, dtype=np.uint64)
            KeyFile.write(path, found, found, np.arange(n * held + 1, (n + 1) * held + 1, dtype=np.uint64))
            apart.seal(KeyFile(path))
        started = time.perf_counter()
        HashFile.merge(Path(folder) / "all.keys", apart._sealed)
        merging = time.perf_counter() - started
        merged.seal(KeyFile(Path(folder) / "all.keys"))

        def look(index: KeyIndex) -> float:
            absent = rng.integers(0, 2**64, asked, dtype=np.uint64).tolist()
            started = time.perf_counter()
            index.find(absent)
            return (time.perf_counter() - started) * 1e3

        times = options.pick(20, 5, 2)
        about = f"{asked:,} keys that are not there, {files} files of {held:,}"
        return [
            measured("keys of a commit, one file a minute", each(options, [apart] * times, "keys", look), "ms", about),
            measured(
                "keys of a commit, merged", each(options, [merged] * times, "keys", look), "ms", "the same keys in one file"
            ),
            Row("- merging the files of keys", merging, "s", f"{files * held:,} keys"),
        ]


def late(options: Options) -> list[Row]:
    count, each_rows = options.pick(300, 300, 4), options.pick(1_000, 100, 5)
    with store(options) as (opened, sealer, _):

        def fill(t: Transaction, n: int) -> None:
            ids = [f"r{n}-{i}" for i in range(each_rows)]
            at = [NOON + timedelta(minutes=n)] * each_rows
            common: dict[str, Any] = {"record_id": ids, "event_time": at, "received_at": at, "batch_id": "b"}
            hashes = [hash64(i) for i in ids]
            t.add_features("houses", {})
            first = t.append("predictions", "houses", {**common, "prediction": 1.0, "key_hash": hashes, "content_hash": hashes})
            t.put_keys("predictions", "houses", hashes, hashes, first)
            t.append(
                "contexts", "houses", {**common, "revision": 1, "position": 0, "text": ["a passage of some length"] * each_rows}
            )

        for n in range(count):
            opened.run(partial(fill, n=n))
            sealer.seal("predictions", "houses")
            sealer.seal("contexts", "houses")
        records = [f"r{n}-0" for n in np.random.default_rng(1).integers(0, count, 20).tolist()]
        labels = [f"r{n}-{i}" for n in (count // 2, count - 1) for i in range(each_rows)]

        def passage(indexed: bool, record: str) -> float:
            started = time.perf_counter()
            with opened.read() as reader:
                places = reader.places("records", "contexts", "houses", [place_hash(record)]) if indexed else None
                source = reader.source("contexts", "houses", places=places)
                assert reader.query(f"SELECT count(*) AS n FROM {source} WHERE record_id = ?", [record]) == [{"n": 1}]
            return (time.perf_counter() - started) * 1e3

        def batch(indexed: bool, _: str) -> float:
            started = time.perf_counter()
            with opened.read() as reader:
                places = reader.places("keys", "predictions", "houses", [hash64(r) for r in labels]) if indexed else None
                source = reader.source("predictions", "houses", places=places)
                found = reader.query(f"SELECT count(*) AS n FROM {source} WHERE record_id IN (SELECT unnest(?))", [labels])
                assert found == [{"n": len(labels)}]
            return (time.perf_counter() - started) * 1e3

        def timed(look: Callable[[bool, str], float], indexed: bool) -> list[float]:
            return each(options, records[: options.pick(20, 5, 2)], "late", partial(look, indexed))

        about = f"among {count} segments of {each_rows:,} rows"
        return [
            measured("a late passage finds its record, by index", timed(passage, True), "ms", about),
            measured("- by reading every segment", timed(passage, False), "ms"),
            measured("labels find their predictions, by index", timed(batch, True), "ms", f"{len(labels):,} labels, {about}"),
            measured("- by reading every segment", timed(batch, False), "ms"),
        ]
