"""The store's write path without the door: rows a second and the longest stall, beside a bare DuckDB insert of the same rows.

Generations of 2.5 KB, as Arrow columns, go through `Store.submit` and `Transaction.append`. The bare sides insert the same
tables with `INSERT ... SELECT`, one commit a batch: once into a file with our options (row groups, uncompressed text, WAL of
64 MB), once into a file with DuckDB's own. Every side starts on a new file; nothing is sealed, so all of it stays hot.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from prometheus_client import CollectorRegistry

from monitor import hotfile
from monitor.clock import SystemClock
from monitor.config import StoreConfig
from monitor.metrics import Metrics
from monitor.schema import KINDS, create_table
from monitor.store import GROUP_RECORDS, Store
from monitor.transaction import Transaction
from tests.bench.harness import Options, Row, each, measured
from tests.bench.push import sample_texts

BATCH = 1_000
MODEL = "bot"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
PIPELINED = 10  # batches in the queue: two full groups


@dataclass(frozen=True, slots=True)
class Result:
    """`stall` is the longest time between two acknowledgements."""

    rate: float
    stall: float


def run(options: Options) -> list[Row]:
    batches = list(generations(options.pick(100, 20, 2), BATCH if options.size != "smoke" else 20))
    config = StoreConfig(path=options.folder / "unused", min_free_bytes=0)
    sides: dict[str, Callable[[Path], Result]] = {
        "bare": partial(bare, config=config, batches=batches),
        "store": partial(store, config=config, batches=batches, ahead=1),
        "grouped": partial(store, config=config, batches=batches, ahead=PIPELINED),
        "default": partial(default, batches=batches),
    }

    def one(name: str) -> Result:
        with TemporaryDirectory(dir=options.folder) as folder:
            return sides[name](Path(folder))

    turns = list(sides) * options.pick(5, 3, 1)
    found: dict[str, list[Result]] = {name: [] for name in sides}
    for name, result in zip(turns, each(options, turns, "hot_tier", one), strict=True):
        found[name].append(result)
    rows = batches[0].num_rows * len(batches)
    size = sum(b.nbytes for b in batches) / rows
    about = f"{rows:,} rows of {size:,.0f} bytes in batches of {batches[0].num_rows:,}"
    return [
        *both("Store.submit, one batch at a time", found["store"], about),
        *both("Store.submit, ten batches ahead", found["grouped"], f"groups of at most {GROUP_RECORDS:,} rows"),
        *both("bare insert, our file options", found["bare"]),
        *both("bare insert, DuckDB's defaults", found["default"]),
        ratio("Store, one at a time, to bare with our options", found["store"], found["bare"]),
        ratio("Store, ten ahead, to bare with our options", found["grouped"], found["bare"]),
        ratio("Store, one at a time, to DuckDB's defaults", found["store"], found["default"]),
        ratio("longest stall, DuckDB's defaults to Store", found["default"], found["store"], lambda r: r.stall),
    ]


def both(name: str, results: Sequence[Result], note: str = "") -> list[Row]:
    return [
        measured(name, [r.rate for r in results], "rows/s", note, better="higher"),
        measured("- longest stall", [r.stall for r in results], "s"),
    ]


def ratio(name: str, ours: Sequence[Result], theirs: Sequence[Result], of: Callable[[Result], float] = lambda r: r.rate) -> Row:
    """Of medians, so that one slow run on either side does not make it."""
    return Row(name, statistics.median(map(of, ours)) / statistics.median(map(of, theirs)), "x", "of medians")


def generations(count: int, size: int) -> Iterator[pa.Table]:
    """Batches in the form of the store's table, `seq` and `model` included."""
    texts = sample_texts()
    rng = np.random.default_rng(0)

    def text(length: int) -> list[str]:
        found = []
        for _ in range(size):
            one = ""
            while len(one) < length:
                one += texts[rng.integers(len(texts))] + " "
            found.append(one[:length])
        return found

    schema = KINDS["generations"].arrow
    for batch in range(count):
        first = batch * size + 1
        known: dict[str, Any] = {
            "seq": range(first, first + size),
            "model": [MODEL] * size,
            "record_id": [f"{first + i:032x}" for i in range(size)],
            "event_time": [NOON + timedelta(milliseconds=first + i) for i in range(size)],
            "trace_id": [f"{i:032x}" for i in rng.integers(0, 2**62, size)],
            "span_id": [f"{i:016x}" for i in rng.integers(0, 2**62, size)],
            "provider": ["someone"] * size,
            "llm_model": ["a-model-of-theirs"] * size,
            "operation": ["chat"] * size,
            "question": text(150),
            "response": text(900),
            "messages": text(1_150),
            "input_tokens": rng.integers(0, 4_000, size),
            "output_tokens": rng.integers(0, 1_000, size),
            "duration_seconds": rng.random(size),
            "finish_reason": ["stop"] * size,
            "received_at": [NOON] * size,
            "batch_id": [f"{batch:032x}"] * size,
            "key_hash": rng.integers(0, 2**62, size),
            "content_hash": rng.integers(0, 2**62, size),
        }
        yield pa.table({c.name: pa.array(known.get(c.name, [None] * size), c.type) for c in schema}, schema=schema)


def store(folder: Path, config: StoreConfig, batches: Sequence[pa.Table], ahead: int) -> Result:
    """At most `ahead` batches wait at a time."""
    one = Store(
        config.model_copy(update={"path": folder}),
        clock=SystemClock(),
        metrics=Metrics(CollectorRegistry()),
        queue_records=10**6,
        queue_bytes=2**33,
    )
    jobs = [partial(append, columns={n: b[n] for n in b.column_names if n not in ("seq", "model")}) for b in batches]
    acknowledged: list[float] = []
    waiting: deque[Future[int]] = deque()
    started = time.perf_counter()
    for job, batch in zip(jobs, batches, strict=True):
        future = one.submit(job, records=batch.num_rows, size=batch.nbytes)
        future.add_done_callback(lambda _: acknowledged.append(time.perf_counter()))
        waiting.append(future)
        if len(waiting) == ahead:
            waiting.popleft().result()
    for future in waiting:
        future.result()
    result = judged(batches, started, acknowledged)
    one.close()
    return result


def append(transaction: Transaction, columns: dict[str, pa.ChunkedArray]) -> int:
    return transaction.append("generations", MODEL, columns)


def bare(folder: Path, config: StoreConfig, batches: Sequence[pa.Table]) -> Result:
    connection = hotfile.connect(folder, config)
    connection.execute(create_table("generations"))
    return inserted(connection, batches)


def default(folder: Path, batches: Sequence[pa.Table]) -> Result:
    connection = duckdb.connect(str(folder / "default.duckdb"))
    columns = ", ".join(f'"{c.name}" {c.type}' for c in KINDS["generations"].columns)
    connection.execute(f"CREATE TABLE generations ({columns})")
    return inserted(connection, batches)


def inserted(connection: duckdb.DuckDBPyConnection, batches: Sequence[pa.Table]) -> Result:
    acknowledged: list[float] = []
    started = time.perf_counter()
    for batch in batches:
        connection.register("incoming", batch)
        connection.execute("INSERT INTO generations BY NAME SELECT * FROM incoming")
        connection.unregister("incoming")
        acknowledged.append(time.perf_counter())
    result = judged(batches, started, acknowledged)
    connection.close()
    return result


def judged(batches: Sequence[pa.Table], started: float, acknowledged: Sequence[float]) -> Result:
    times = [started, *acknowledged]
    stall = max(after - before for before, after in pairwise(times))
    return Result(sum(b.num_rows for b in batches) / (times[-1] - started), stall)
