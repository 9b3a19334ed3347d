"""What a source is: the outside turned into records."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from monitor.clock import Clock
from monitor.config import SourceConfig
from monitor.inbox import Inbox
from monitor.metrics import Metrics
from monitor.store import Store


class Source(Protocol):
    """One block under `sources` in the config. The daemon makes it, starts it, and stops it when the block changes or goes.

    A source acknowledges, or moves its offset, only after the inbox took the records: either once the future of `Inbox.put`
    is done, or, better, in the transaction that stores them (`Batch.also`). It never drops: what cannot be read goes to the
    inbox as a `Reject`, and while the inbox is full it waits. Its threads are its own affair; after `stop` there are none.
    """

    Config: ClassVar[type[SourceConfig]]
    config: Any  # an instance of Config; equal configs are the same source

    def __init__(self, config: Any, inbox: Inbox, store: Store, *, clock: Clock, metrics: Metrics) -> None:
        """
        Raises:
            ConfigError: the outside cannot be reached with these settings, whatever happens.
        """
        ...

    def start(self) -> None:
        """Begin in threads of its own, and return. What is not there yet is waited for."""
        ...

    def stop(self) -> None:
        """Return when nothing more will be handed over. What is in hand is either stored, or will be fetched again."""
        ...
