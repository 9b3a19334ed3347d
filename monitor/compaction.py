"""Merges small segments into large ones: those of a closed hour into one, those of a closed day into one.

A query over 2,000 files takes 0.5 to 0.9 s, one over 200 takes 0.06 s, and a busy log seals a file every few seconds.
The protocol is that of sealing: write `*.tmp`, sync, rename, sync the folders; then one transaction puts the new row into the
manifest and moves the old ones to its history. The replaced files stay until nobody can be at them any more.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta

from monitor import log, segments
from monitor.audit import GRACE_SECONDS
from monitor.clock import Clock, floor_to
from monitor.errors import StoreError
from monitor.faultpoints import point
from monitor.merging import BadSegment, Merge, Row
from monitor.metrics import Metrics
from monitor.store import Store
from monitor.transaction import Transaction

HOUR, DAY = 3_600, 86_400
LEVELS = {"hour": (HOUR, {"minute"}), "day": (DAY, {"minute", "hour"})}  # the period of a level, and what is merged into it
STEP_ROWS = 20_000  # copied before the caller is asked again whether to go on
IDLE_SECONDS = 10.0
RETRY_SECONDS = 60.0


class Compactor:
    """One thread of low priority. `step` does a bounded piece of work."""

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock,
        metrics: Metrics,
        after_seconds: int,
        max_bytes: int,
        nice: int = 19,
        shown: Callable[[], float] | None = None,
        damaged: Callable[[], None] = lambda: None,
    ) -> None:
        """`after_seconds`: how long an hour or day has been over before it is merged. `max_bytes`: of a merged segment, about.
        `shown`: the time on the steady clock as of which `audit.duckdb` names the store's files. `damaged` is called when a
        segment is not what the manifest says."""
        self._store = store
        self._clock = clock
        self._metrics = metrics
        self._after = timedelta(seconds=after_seconds)
        self._max_bytes = max_bytes
        self._nice = nice
        self._shown = shown or clock.monotonic
        self._damaged = damaged
        self._merge: Merge | None = None
        self._refused: set[str] = set()  # segments that cannot be read as the manifest says; said once, left alone
        with store.read() as reader:
            left = reader.query("SELECT kind, file FROM manifest_history WHERE deleted_at IS NULL")
        # Of an earlier run as well: its readers may have outlived it.
        self._replaced = [(clock.monotonic(), row["kind"], row["file"]) for row in left]
        self._idle_seconds = IDLE_SECONDS
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="compaction", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """What is half merged is begun anew after the restart."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._abandon()

    def _run(self) -> None:
        with contextlib.suppress(OSError, AttributeError):  # not everywhere can a thread be nice by itself
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self._nice)
        pause = self._idle_seconds
        while not self._stop.wait(pause):
            try:
                pause = 0.0 if self.step() else self._idle_seconds
            except Exception as exc:  # whatever it is: better seen to fail again and again than once and then silence
                self._metrics.compact_failures.inc()
                log.warning("compaction failed and will be tried again", error=exc)
                pause = RETRY_SECONDS

    def step(self) -> bool:
        """Copy some rows, or begin or end a merge, or remove files that were replaced; False when there is nothing to do.

        Raises:
            StoreError: a segment is not what the manifest says. It is left alone from then on.
            StoreUnavailable, duckdb.Error, OSError: the store is away, or the disk is full. What was begun is given up.
        """
        try:
            if self._merge is None:
                return self._remove() or self._begin()
            if not self._merge.copy(STEP_ROWS):
                self._end(self._merge)
                self._merge = None
        except Exception as exc:
            if isinstance(exc, BadSegment):
                self._refused.add(exc.file)
                self._damaged()
            self._abandon()
            raise
        return True

    def _begin(self) -> bool:
        if self._store.unavailable:
            return False
        with self._store.read() as reader:
            manifest = reader.query("SELECT * FROM manifest ORDER BY kind, model, first_seq")
        chosen = next(self._candidates(manifest), None)
        if chosen is None:
            return False
        self._merge = Merge(self._store, *chosen, started=self._clock.monotonic())
        return True

    def _candidates(self, manifest: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
        """Level and sources of each merge that can be made: small ones first, so that files become few soon."""
        for level in LEVELS:
            for run in self._runs(level, manifest):
                yield from ((level, part) for part in self._cut(run) if len(part) > 1)

    def _runs(self, level: str, manifest: Sequence[Row]) -> Iterator[list[Row]]:
        """Neighbours of one log that were sealed in one closed hour or day."""
        period, below = LEVELS[level]
        last = {(row["kind"], row["model"]): row for row in manifest}
        run: list[Row] = []
        for row in manifest:
            if run and not (self._adjoins(run[-1], row) and self._start(run[-1], period) == self._start(row, period)):
                yield run
                run = []
            left_alone = row["file"] in self._refused or row["quarantined"] is not None
            if row["level"] in below and not left_alone and self._closed(row, last[row["kind"], row["model"]], period):
                run.append(row)
            elif run:
                yield run
                run = []
        if run:
            yield run

    @staticmethod
    def _start(row: Row, period: int) -> datetime:
        return floor_to(row["sealed_at"], period)

    @staticmethod
    def _adjoins(one: Row, other: Row) -> bool:
        return (one["kind"], one["model"], one["last_seq"] + 1) == (other["kind"], other["model"], other["first_seq"])

    def _closed(self, row: Row, last: Row, period: int) -> bool:
        """No segment will be sealed any more in its hour or day. What a wrong clock put into the future is closed once the
        log goes on in another period, lest it wait for that future."""
        start = self._start(row, period)
        if start > self._clock.now():
            return self._start(last, period) != start
        return start + timedelta(seconds=period) + self._after <= self._clock.now()

    def _cut(self, run: Sequence[Row]) -> Iterator[list[Row]]:
        part: list[Row] = []
        for row in run:
            if part and sum(r["bytes"] for r in part) + row["bytes"] > self._max_bytes:
                yield part
                part = []
            part.append(row)
        yield part

    def _end(self, merge: Merge) -> None:
        store, clock = self._store, self._clock
        row, files = merge.publish()
        old = [source["file"] for source in merge.sources]
        marks = ", ".join("?" * len(old))

        def commit(transaction: Transaction) -> None:
            moved = transaction.query(
                "INSERT INTO manifest_history BY NAME SELECT * EXCLUDE (quarantined), ? AS replaced_by, "
                f"? AS replaced_at, NULL AS deleted_at FROM manifest WHERE file IN ({marks}) AND quarantined IS NULL "
                "RETURNING file",
                [row["file"], transaction.now, *old],
            )
            if len(moved) != len(old):
                raise StoreError(
                    f"{row['file']}: of the {len(old)} segments it was made of only {len(moved)} are there and whole"
                )
            transaction.execute(f"DELETE FROM manifest WHERE file IN ({marks})", old)
            transaction.insert("manifest", {name: [value] for name, value in row.items()})
            transaction.on_commit(lambda: store.compacted(row["kind"], row["model"], old, files))
            point("compact.manifest")

        store.run(commit)
        point("compact.committed")
        self._replaced += [(clock.monotonic(), row["kind"], file) for file in old]
        self._metrics.compactions.labels(row["kind"], row["level"]).inc()
        self._metrics.compact_duration.observe(clock.monotonic() - merge.started)
        self._metrics.compact_last_success.set(clock.now().timestamp())

    def _remove(self) -> bool:
        """Delete the files that were replaced, once no look of ours is older than that, the auditors' views name their
        successors, and those who opened the old views have had their time."""
        nobody_before = min(self._clock.monotonic() - GRACE_SECONDS, self._store.oldest_look(), self._shown())
        gone = [entry for entry in self._replaced if entry[0] < nobody_before]
        if not gone:
            return False
        root = self._store.root
        for _, kind, name in gone:
            for path in (root / name, *(root / segments.index_file(name, suffix) for suffix in segments.indexes(kind))):
                path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # others still lie there
                (root / name).parent.rmdir()
        point("compact.removed")
        names = [name for _, _, name in gone]
        marks = ", ".join("?" * len(names))
        self._store.run(
            lambda t: t.execute(f"UPDATE manifest_history SET deleted_at = ? WHERE file IN ({marks})", [t.now, *names])
        )
        self._replaced = [entry for entry in self._replaced if entry not in gone]
        return True

    def _abandon(self) -> None:
        if self._merge is not None:
            self._merge.abandon()
            self._merge = None
