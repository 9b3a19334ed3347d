"""What has to reach somebody outside, kept in the store until they have it: at least once, through crash and restart.

How to use it, as webhooks and Grafana's annotations do:

1. Make one for each receiver, which is a *sink*: `box = Outbox("webhook", store, clock=clock, metrics=metrics)`.
2. Fill it, in the transaction that stores what it tells: `box.put(transaction, [Message(key, payload)])`. What other parts store
   (incidents, changes, deployments) is followed by a `monitor.feed.Feed`, which does this for you, each row once.
3. Empty it with a `Courier(box, send)`: `start` and `stop` for its own thread, `step` for a test. `send(message)` returns when
   the receiver has it, raises `Later` where trying again can help, and `Never` where it cannot.

A message is known by sink and `key`: one that is there already, waiting, done or dead, is not put again. Messages of one `group`
go out in the order they were put, each only when the one before it is done or dead; those without one wait for nobody. What was
sent just before a crash is sent again, so a receiver should know its key. What is not taken for `give_up_seconds` is *dead*:
it stays, is counted, and `replay` has it sent again, unless a later one of its group was: who has that would go back in time.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import duckdb
import orjson

from monitor import log
from monitor.clock import Clock
from monitor.errors import StoreError
from monitor.faultpoints import point
from monitor.metrics import Metrics
from monitor.store import Store
from monitor.transaction import Transaction

AT_ONCE = 20
DONE_KEPT = timedelta(days=7)  # so long a key is known after it was sent
IDLE_SECONDS = 1.0  # a message that is put wakes the thread
RETRY_SECONDS = 1.0
COUNT_SECONDS = 15.0
FEWEST_TRIES = 5  # before one is given up: a daemon that was off for days has not tried
LONGEST_WAIT = timedelta(hours=2)  # what is to wait longer was put off by a clock that was wrong
OPEN = "done_at IS NULL AND dead_at IS NULL"


@dataclass(frozen=True, slots=True)
class Message:
    """`payload` is anything that JSON can hold. `attempts`, `put_at` and `id` are filled in when it is read back."""

    key: str
    payload: Any
    group: str | None = None
    attempts: int = 0
    put_at: datetime | None = None
    id: int = 0


class Later(Exception):
    """It was not taken, and may be when it is tried again, not before `seconds` where the receiver said so. `reason` is a word
    from a small set: it becomes a label."""

    def __init__(self, reason: str, message: str = "", seconds: float | None = None) -> None:
        super().__init__(message or reason)
        self.reason = reason
        self.seconds = seconds


class Never(Exception):
    """It was refused, and will be whenever it is tried: it is dead at once."""

    def __init__(self, reason: str, message: str = "") -> None:
        super().__init__(message or reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Retrying:
    """The n-th wait is `first_seconds` doubled n - 1 times, `most_seconds` at most, less up to half of it by chance."""

    first_seconds: float = 1.0
    most_seconds: float = 300.0
    give_up_seconds: float = 3 * 86_400.0

    def wait(self, attempts: int, chance: float) -> float:
        """Seconds after so many attempts; `chance` in 0..1.

        >>> [Retrying().wait(n, 0.0) for n in (1, 2, 3, 20)], Retrying().wait(3, 1.0)
        ([1.0, 2.0, 4.0, 300.0], 2.0)
        """
        return min(self.most_seconds, self.first_seconds * 2.0 ** min(attempts - 1, 60)) * (1 - chance / 2)


class Outbox:
    """The messages of one sink. Any thread may call it."""

    def __init__(self, sink: str, store: Store, *, clock: Clock, metrics: Metrics) -> None:
        self.sink = sink
        self.store = store
        self.clock = clock
        self.metrics = metrics
        self.filled = threading.Event()  # something was put since it was last cleared
        metrics.outbox_sent.labels(sink).inc(0)
        self.count()

    def put(self, transaction: Transaction, messages: Sequence[Message]) -> int:
        """Have them sent; how many were not there already. On the writer thread, inside a transaction of the store."""
        keys = [message.key for message in messages]
        if not keys:
            return 0
        marks = ", ".join("?" * len(keys))
        sql = f"SELECT key FROM outbox WHERE sink = ? AND key IN ({marks})"
        known = {row["key"] for row in transaction.query(sql, [self.sink, *keys])}
        fresh = {message.key: message for message in messages if message.key not in known}
        if not fresh:
            return 0
        last = transaction.query("SELECT coalesce(max(id), 0) AS id FROM outbox")[0]["id"]
        rows = [
            {
                "id": last + n,
                "sink": self.sink,
                "key": message.key,
                "group": message.group,
                "payload": orjson.dumps(message.payload, default=str).decode(),
                "attempts": 0,
                "put_at": transaction.now,
                "next_at": transaction.now,
                "done_at": None,
                "dead_at": None,
                "reason": None,
            }
            for n, message in enumerate(fresh.values(), 1)
        ]
        transaction.put("outbox", ("sink", "key"), rows)
        transaction.on_commit(self.filled.set)
        return len(rows)

    def due(self, limit: int = AT_ONCE) -> list[Message]:
        """What may be sent now, the oldest first."""
        now = self.clock.now()
        with self.store.read() as reader:
            found = reader.query(
                f'SELECT id, key, "group", payload, attempts, put_at FROM outbox o WHERE sink = $1 AND {OPEN} '
                "AND (next_at <= $2 OR next_at > $3) "
                f'AND ("group" IS NULL OR NOT EXISTS (FROM outbox e WHERE e.sink = $1 AND e."group" = o."group" AND e.id < o.id '
                f"AND e.done_at IS NULL AND e.dead_at IS NULL)) ORDER BY id LIMIT {limit}",
                [self.sink, now, now + LONGEST_WAIT],
            )
        return [Message(r["key"], orjson.loads(r["payload"]), r["group"], r["attempts"], r["put_at"], r["id"]) for r in found]

    def next_at(self) -> datetime | None:
        """When the next message may be due; None where none waits."""
        with self.store.read() as reader:
            sql = f"SELECT min(next_at) AS at FROM outbox WHERE sink = ? AND {OPEN}"
            found: datetime | None = reader.query(sql, [self.sink])[0]["at"]
        return found

    def done(self, message: Message) -> None:
        self._change(message, "done_at = ?, reason = NULL", self.clock.now())

    def later(self, message: Message, reason: str, at: datetime) -> None:
        self._change(message, "next_at = ?, reason = ?", at, reason)

    def dead(self, message: Message, reason: str) -> None:
        self._change(message, "dead_at = ?, reason = ?", self.clock.now(), reason)

    def dead_keys(self) -> list[dict[str, Any]]:
        """`key`, `reason`, `attempts`, `put_at` and `dead_at` of those given up, the oldest first."""
        with self.store.read() as reader:
            return reader.query(
                "SELECT key, reason, attempts, put_at, dead_at FROM outbox WHERE sink = ? AND dead_at IS NOT NULL ORDER BY id",
                [self.sink],
            )

    def drop(self, keys: Collection[str] | None = None) -> int:
        """Forget those that were given up, all of them or these; how many there are."""
        return self._dead_ones("done_at = dead_at, dead_at = NULL, reason = 'dropped'", [], keys)

    def replay(self, keys: Collection[str] | None = None) -> int:
        """Have those that were given up sent again, all of them or these; how many there are. Those that a later one of their
        group has overtaken are dropped."""
        now = self.clock.now()
        overtaken = (
            "SELECT key FROM outbox o WHERE sink = ? AND dead_at IS NOT NULL AND EXISTS (FROM outbox e WHERE e.sink = o.sink "
            'AND e."group" = o."group" AND e.id > o.id AND e.done_at IS NOT NULL AND e.reason IS NULL)'
        )
        with self.store.read() as reader:
            late = {row["key"] for row in reader.query(overtaken, [self.sink])}
        if late and (late := late if keys is None else late & {*keys}):
            self.drop(late)
        return self._dead_ones("dead_at = NULL, attempts = 0, put_at = ?, next_at = ?, reason = NULL", [now, now], keys)

    def _dead_ones(self, what: str, values: Sequence[Any], keys: Collection[str] | None) -> int:
        def change(transaction: Transaction) -> int:
            found = transaction.query("SELECT key FROM outbox WHERE sink = ? AND dead_at IS NOT NULL", [self.sink])
            chosen = [row["key"] for row in found if keys is None or row["key"] in keys]
            if chosen:
                marks = ", ".join("?" * len(chosen))
                sql = f"UPDATE outbox SET {what} WHERE sink = ? AND key IN ({marks})"
                transaction.execute(sql, [*values, self.sink, *chosen])
                transaction.on_commit(self.filled.set)
            return len(chosen)

        count = self.store.run(change)
        self.count()
        return count

    def count(self) -> None:
        """Say how much waits and how much is dead; and forget what was sent long ago."""
        with self.store.read() as reader:
            found = reader.query(
                f"SELECT count(*) FILTER ({OPEN}) AS waiting, count(*) FILTER (dead_at IS NOT NULL) AS dead, "
                f"min(put_at) FILTER ({OPEN}) AS oldest, min(done_at) AS done FROM outbox WHERE sink = ?",
                [self.sink],
            )[0]
        now = self.clock.now()
        self.metrics.outbox_messages.labels(self.sink, "waiting").set(found["waiting"])
        self.metrics.outbox_messages.labels(self.sink, "dead").set(found["dead"])
        self.metrics.outbox_oldest.labels(self.sink).set((found["oldest"] or now).timestamp())
        if found["done"] is not None and found["done"] < now - 2 * DONE_KEPT:
            sql = "DELETE FROM outbox WHERE sink = ? AND done_at < ?"
            self.store.run(lambda t: t.execute(sql, [self.sink, now - DONE_KEPT]))

    def _change(self, message: Message, what: str, *values: Any) -> None:
        sql = f"UPDATE outbox SET attempts = attempts + 1, {what} WHERE sink = ? AND key = ?"
        self.store.run(lambda t: t.execute(sql, [*values, self.sink, message.key]))


class Courier:
    """Empties an outbox, on a thread of its own. `fill` is called first each time: a feed's `step`."""

    def __init__(
        self,
        box: Outbox,
        send: Callable[[Message], None],
        *,
        fill: Callable[[], object] = lambda: None,
        retrying: Retrying = Retrying(),
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._box = box
        self._send = send
        self._fill = fill
        self._retrying = retrying
        self._chance = chance
        self._stop = threading.Event()
        self._trouble = log.Lasting(box.clock.monotonic)
        self._counted_at = float("-inf")
        self._not_before = float("-inf")  # the receiver said so
        self._failing = False
        self._thread = threading.Thread(target=self._run, name=f"outbox-{box.sink}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def cease(self) -> None:
        """Begin nothing new. `stop` waits; of several, have all cease before the first is waited for."""
        self._stop.set()
        self._box.filled.set()

    def stop(self) -> None:
        """Waits for the message in hand."""
        self.cease()
        if self._thread.is_alive():
            self._thread.join()

    def step(self) -> int:
        """Send what is due until one is not taken; how many were tried."""
        self._fill()
        tried = 0
        for message in self._box.due() if self._box.clock.monotonic() >= self._not_before else ():
            if self._stop.is_set():
                break
            tried += 1
            self._failing = not self._try(message)
            if self._failing:
                break  # where it is the receiver that is away, the others need not find that out as well
        if tried or self._box.clock.monotonic() - self._counted_at >= COUNT_SECONDS:
            self._box.count()  # also where nothing waits: else the time of the last look would grow old, as if something did
            self._counted_at = self._box.clock.monotonic()
        return tried

    def _try(self, message: Message) -> bool:
        box, sink, clock = self._box, self._box.sink, self._box.clock
        try:
            self._send(message)
        except Never as exc:
            box.metrics.outbox_failures.labels(sink, exc.reason).inc()
            box.dead(message, exc.reason)
            log.warning("a message was refused and is given up", sink=sink, key=message.key, error=exc)
            return True  # the next one may well be taken
        except Exception as exc:
            reason = exc.reason if isinstance(exc, Later) else "error"
            box.metrics.outbox_failures.labels(sink, reason).inc()
            told = exc if isinstance(exc, Later) else f"{type(exc).__name__}: {exc}"
            self._trouble.warning("messages are not taken and wait", sink=sink, reason=reason, error=told)
            waited = (clock.now() - message.put_at).total_seconds() if message.put_at is not None else 0.0
            if waited >= self._retrying.give_up_seconds and message.attempts + 1 >= FEWEST_TRIES:
                box.dead(message, reason)
                log.warning("a message was given up", sink=sink, key=message.key, reason=reason, attempts=message.attempts + 1)
                return False
            wait = self._retrying.wait(message.attempts + 1, self._chance())
            if isinstance(exc, Later) and exc.seconds is not None:
                told_wait = min(exc.seconds, self._retrying.most_seconds)
                wait = max(wait, told_wait)
                self._not_before = clock.monotonic() + told_wait  # it has no time for the other messages either
            box.later(message, reason, clock.now() + timedelta(seconds=wait))
            return False
        point("outbox.sent")
        box.done(message)
        box.metrics.outbox_sent.labels(sink).inc()
        self._trouble.over("messages are taken again", sink=sink)
        return True

    def _run(self) -> None:
        box, waiting = self._box, log.Lasting(self._box.clock.monotonic)
        while not self._stop.is_set():
            box.filled.clear()
            try:
                tried = self.step()
                next_at = box.next_at() if tried else None
                waiting.over("the outbox goes on", sink=box.sink)
            except (StoreError, duckdb.Error) as exc:
                waiting.warning("the outbox waits for the store", sink=box.sink, error=exc)
                self._stop.wait(RETRY_SECONDS)
                continue
            except Exception as exc:  # a fault of ours: seen to fail again and again, rather than once and then silence
                log.error("the outbox failed and is tried again", exc, sink=box.sink)
                self._stop.wait(RETRY_SECONDS)
                continue
            if self._failing:  # each message has a wait of its own: a thousand of them are to try no faster than this
                self._stop.wait(RETRY_SECONDS)
                continue
            wait = IDLE_SECONDS
            if next_at is not None:
                wait = min(wait, max(0.05, (next_at - box.clock.now()).total_seconds()))
            box.filled.wait(wait)
