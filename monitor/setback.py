"""When somebody sets the clock back, what was to be done at a time of the old clock must not wait until that time comes again."""

from __future__ import annotations

from datetime import datetime, timedelta

from monitor import log
from monitor.clock import Clock
from monitor.store import Store

TOLERANCE = timedelta(seconds=30)  # a daemon for the time moves it by less


class Setback:
    """Called by one thread, every now and then."""

    def __init__(self, store: Store, *, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._latest: datetime | None = None  # none yet: the clock may have been set while we were not running

    def look(self, settle_seconds: int) -> int:
        """Have all that waits for longer than anything may, `settle_seconds`, be due then; return how many that were."""
        now, before = self._clock.now(), self._latest
        self._latest = now
        if before is not None and now >= before - TOLERANCE:
            return 0
        latest = now + timedelta(seconds=settle_seconds)
        count = 0
        for table in ("work", "traces", "judging"):
            with self._store.read() as reader:
                found = reader.query(f"SELECT count(*) AS n FROM {table} WHERE due_at > ?", [latest + TOLERANCE])[0]["n"]
            if found:
                count += found
                self._store.run(
                    lambda t, table=table: t.execute(  # type: ignore[misc]
                        f"UPDATE {table} SET due_at = ? WHERE due_at > ?", [latest, latest + TOLERANCE]
                    )
                )
        if count:
            log.warning("the clock was set back; what waited for a time it had shown is done now", records=count)
        return count
