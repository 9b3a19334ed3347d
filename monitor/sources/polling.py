"""A source that looks, again and again, on a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import duckdb
from pydantic import Field

from monitor import log
from monitor.clock import Clock
from monitor.config import SourceConfig
from monitor.errors import InboxFull, StoreError
from monitor.inbox import Answer, Batch, Inbox
from monitor.metrics import Metrics
from monitor.store import Store
from monitor.transaction import Transaction

RETRY_SECONDS = 1.0


class PollingConfig(SourceConfig):
    poll_seconds: float = Field(1.0, gt=0)


class PollingSource:
    """Calls `poll` until it is stopped. A fault is counted and waited out; it never ends the thread."""

    transport: ClassVar[str]  # label of its requests
    config: Any

    def __init__(self, config: Any, inbox: Inbox, store: Store, *, clock: Clock, metrics: Metrics) -> None:
        self.config = config
        self._inbox = inbox
        self._store = store
        self._clock = clock
        self._metrics = metrics
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"{self.transport}-{config.name}", daemon=True)

    def poll(self) -> int:
        """Hand what is new to the inbox, a bounded piece of it, and wait for its commit. 0: there was nothing.

        Raises:
            InboxFull, StoreUnavailable: nothing was taken and the offset has not moved; poll again later.
            OSError: the outside is away.
        """
        raise NotImplementedError

    @property
    def idle_seconds(self) -> float:
        """How long it rests when there was nothing."""
        return float(self.config.poll_seconds)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._metrics.forget(source=self.config.name)

    def _run(self) -> None:
        failing = False  # only the first failure of a kind is worth a line in the log
        while not self._stop.is_set():
            taken = 0
            try:
                taken = self.poll()
                failing = False
                self._there(True)
            except (InboxFull, StoreError, duckdb.Error):
                self._metrics.requests.labels(self.transport, "503").inc()
                self._stop.wait(RETRY_SECONDS)
                continue
            except OSError as exc:
                if not failing:
                    log.warning("a source cannot be read and will be tried again", source=self.config.name, error=exc)
                failing = True
                self._there(False)
            except Exception as exc:  # a fault of ours: seen to fail again and again, rather than once and then silence
                self._metrics.requests.labels(self.transport, "500").inc()
                log.error("a source failed and will be tried again", exc, source=self.config.name)
                self._stop.wait(RETRY_SECONDS)
                continue
            if not taken:
                self._stop.wait(self.idle_seconds)

    def _there(self, up: bool) -> None:
        self._metrics.source_up.labels(self.config.name).set(up)

    def _put(
        self,
        kind: str,
        items: Sequence[Any],
        size: int,
        *,
        also: Callable[[Transaction], None],
        places: Sequence[str] | None = None,
    ) -> Answer:
        """Have the items stored, and what `also` notes with them, in one transaction; the answer once that is durable."""
        started = self._clock.monotonic()
        source = f"{self.transport}:{self.config.name}"
        answer = self._inbox.put(
            Batch(kind, items, source, model=self.config.model, size=size, also=also, places=places)
        ).result()
        self._metrics.requests.labels(self.transport, "200").inc()
        self._metrics.request_duration.labels(self.transport).observe(self._clock.monotonic() - started)
        return answer
