"""What every receiver shares, whatever it speaks: the budget for bodies in hand, and what becomes of a request that fails."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from monitor import log
from monitor.errors import BodyRejected, InboxFull, StoreUnavailable
from monitor.inbox import Answer, Batch

UNAVAILABLE_SECONDS = 2
DECODERS = 4
"""Bodies inflated and decoded at once, per receiver: more threads would only hold more memory, as one decodes at a time."""


class Inbox(Protocol):
    """All that a receiver knows of the inbox."""

    def put(self, batch: Batch, /) -> Future[Answer]: ...


class Budget:
    """Bytes of bodies in hand, over all connections of all receivers. Any thread may take and give back."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._taken = 0
        self._lock = threading.Lock()

    @property
    def taken(self) -> int:
        return self._taken

    def hold(self) -> Hold:
        return Hold(self)

    def take(self, size: int, held: int) -> None:
        """`held`: what the taker has already; one who is alone may take more than the limit, as he never could otherwise.

        Raises:
            InboxFull: the others hold too much for it.
        """
        with self._lock:
            if self._taken + size > self.limit and self._taken > held:
                raise InboxFull(f"{self._taken} bytes of bodies are in hand; the limit is {self.limit}; send it again")
            self._taken += size

    def give(self, size: int) -> None:
        with self._lock:
            self._taken -= size


class Hold:
    """One request's part of the budget, given back at the end of the `with`."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.held = 0

    def __enter__(self) -> Hold:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self._budget.give(self.held)
        self.held = 0

    def reach(self, size: int) -> None:
        """Hold at least so much.

        Raises:
            InboxFull: as `Budget.take`.
        """
        if size > self.held:
            self._budget.take(size - self.held, self.held)
            self.held = size


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a request is not answered with success. `status` is HTTP's; with `retry_after` (seconds) nothing was taken."""

    status: int
    reason: str
    message: str
    retry_after: int | None = None


def unauthorized(role: str = "ingest") -> Trouble:
    return Trouble(401, "unauthorized", f"send Authorization: Bearer with a token of the role {role}")


def refused(why: str) -> Trouble:
    """Nothing is taken for now: stopping, or the store is away."""
    return Trouble(503, "unavailable", why, UNAVAILABLE_SECONDS)


def trouble_of(exc: Exception, transport: str, fault_status: int) -> Trouble:
    """What a sender is told of an error. `fault_status` is for one of ours, which is logged."""
    if isinstance(exc, BodyRejected):
        return Trouble(exc.status, exc.reason, str(exc))
    if isinstance(exc, InboxFull):
        return Trouble(429, "inbox_full", str(exc), exc.retry_after_seconds)
    if isinstance(exc, StoreUnavailable):
        return refused(str(exc))
    if isinstance(exc, MemoryError):  # passes, where others let go of theirs: an exporter drops what gets a 500
        log.error("a request failed for want of memory; nothing of it was taken", exc, transport=transport)
        return refused("out of memory; nothing was taken, send it again, in smaller batches")
    log.error("a request failed", exc, transport=transport)
    later = UNAVAILABLE_SECONDS if fault_status == 503 else None
    return Trouble(fault_status, "internal", "a fault of the daemon; its log says more", later)
