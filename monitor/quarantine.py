"""Are the sealed segments still what was sealed? Those that are not are set aside, and everything else goes on.

Each file is compared with its hash in the manifest: all of them after a start and then once a day, a bounded number of bytes
at a time; and with each its index files. A damaged segment is first marked in the manifest, from when on nobody reads it, and
then moves to `quarantine/`; a kill in between is made good at the next look. Its manifest row and its index stay: the sequence
has no gap, and what was in it is still recognised when it is sent again. Once a whole copy lies in its place it is taken back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import duckdb

from monitor import log, segments
from monitor.clock import Clock
from monitor.faultpoints import point
from monitor.metrics import Metrics
from monitor.store import Store
from monitor.transaction import Transaction

T = TypeVar("T")

FOLDER = "quarantine"
ROUND_SECONDS = 86_400.0
STEP_BYTES = 64 * 2**20  # some 50 ms of hashing


class Quarantine:
    """Called by one thread, but for `note`."""

    def __init__(self, store: Store, *, clock: Clock, metrics: Metrics) -> None:
        self._store = store
        self._clock = clock
        self._metrics = metrics
        self._left: list[str] = []
        self._began = float("-inf")
        self._aside = 0
        self._tell()

    def note(self) -> str | None:
        """For whoever asks how the store is. Any thread may."""
        return f"{self._aside} damaged segments are set aside in {FOLDER}/; see the log" if self._aside else None

    def reading(self, what: Callable[[], T]) -> T:
        """What `what` gives. Where the engine cannot read something, it gets a second try without what is damaged."""
        try:
            return what()
        except duckdb.Error as exc:
            log.warning("something could not be read; comparing all segments with the manifest", error=exc)
            if not self.look():
                raise
            return what()

    def look(self) -> int:
        """Compare every segment now; return how many were set aside."""
        self.again()
        count = 0
        while (found := self.step()) is not None:
            count += found
        return count

    def again(self) -> None:
        """Begin anew, without waiting for the next day."""
        self._began = float("-inf")

    def step(self) -> int | None:
        """Compare the next segments and return how many were set aside; None when there is nothing to do for now."""
        if not self._left:
            if self._clock.monotonic() - self._began < ROUND_SECONDS:
                return None
            self._began = self._clock.monotonic()
            self._left = [row["file"] for row in self._rows("ORDER BY sealed_at")]
        size = count = 0
        while self._left and size < STEP_BYTES:
            file = self._left.pop(0)
            for row in self._rows("WHERE file = ?", file):  # none, where it was compacted meanwhile
                count += self._compare(file, row)
                size += row["bytes"]
        return count

    def _compare(self, file: str, row: dict[str, Any]) -> bool:
        wrong = segments.damage(self._store.root / file, row["bytes"], row["sha256"])
        if row["quarantined"] is None:
            if wrong is None:
                self._store.compare_indexes(row["kind"], row["model"], file)
                return False
            self._mark(file, wrong)
            point("quarantine.marked")
            self._move(file)
            log.error(
                "a segment is damaged and was set aside; put a whole copy of it back in its place from a backup, and it is "
                "taken back at the next start or within a day",
                file=file, problem=wrong, rows=row["rows"], set_aside_to=f"{FOLDER}/{file}",
            )  # fmt: skip
            return True
        if wrong is None:
            self._take_back(file, row["model"])
            self._store.compare_indexes(row["kind"], row["model"], file)
            log.info("a segment that was set aside is whole again and was taken back", file=file)
        else:
            self._move(file)
        return False

    def _mark(self, file: str, wrong: str) -> None:
        self._store.run(lambda t: t.execute("UPDATE manifest SET quarantined = ? WHERE file = ?", [wrong, file]))
        self._tell()

    def _take_back(self, file: str, model: str) -> None:
        """And have the windows read, and the answers scored, that could not be for want of its rows."""

        def keep(transaction: Transaction) -> None:
            about = {"model": model, "now": transaction.now}
            transaction.execute("UPDATE manifest SET quarantined = NULL WHERE file = ?", [file])
            transaction.execute("UPDATE work SET due_at = $now WHERE model = $model AND due_at > $now", about)
            readings = transaction.reader().source("readings", model)
            transaction.execute(
                "INSERT INTO check_slots BY NAME SELECT DISTINCT $model || '/' || check_name AS check_name, slot, "
                f"$now AS touched_at FROM (SELECT check_name, slot, reason FROM {readings} QUALIFY row_number() OVER "
                "(PARTITION BY check_name, slice, slot ORDER BY revision DESC) = 1) r "
                "WHERE starts_with(reason, 'rows_unavailable') AND NOT EXISTS "
                "(FROM check_slots s WHERE s.check_name = $model || '/' || r.check_name AND s.slot = r.slot)",
                about,
            )

        self._store.run(keep)
        self._tell()

    def _move(self, file: str) -> None:
        source, target = self._store.root / file, self._store.root / FOLDER / file
        if not source.exists():
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
        segments.sync_way_to(target.parent, self._store.root)
        segments.sync_folder(source.parent)

    def _tell(self) -> None:
        self._aside = len(self._rows("WHERE quarantined IS NOT NULL"))
        self._metrics.quarantined.set(self._aside)

    def _rows(self, rest: str, *params: Any) -> list[dict[str, Any]]:
        with self._store.read() as reader:
            return reader.query(f'SELECT kind, model, file, bytes, "rows", sha256, quarantined FROM manifest {rest}', params)
