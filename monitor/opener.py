"""From the bytes of a body to rows: decoded, masked, parsed. Made of one config; in the owner, or in a process of its own.

Nothing here knows the store. What features have a column is told, and may be behind: the writer looks again.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from typing import Any

from monitor import log
from monitor.blocks import Opened, packed
from monitor.columns import FeatureKinds
from monitor.config import Config
from monitor.decode import decode
from monitor.errors import BodyRejected
from monitor.genai import prices
from monitor.genai.dialects import Dialects
from monitor.limits import allow_processor
from monitor.masking.masking import Marks, Masking
from monitor.masking.policy import Count
from monitor.otlp.routing import Router
from monitor.otlp.rows import SpanReader
from monitor.otlp.wire import JSON, decode_logs, decode_traces, encoding_of
from monitor.records import Parsed, Parser, Reject

KEPT_BYTES = 2**20
"""Of a body that cannot be read."""

COLLECTED_BYTES = 64 * 2**20
"""Of bodies between two searches for cycles, in a process. Rows make none; Python would search after every few of them."""

LIMIT_SECONDS, LIMIT_SECONDS_PER_MIB = 8.0, 1.0
"""Of processor, for a body in a process. A MiB takes 0.1 s."""

Features = Mapping[str, Mapping[str, str]]
"""By model: features that have a column, name -> kind."""


class Body(Sequence[Any]):
    """The records of a body that nobody has decoded yet. Whoever looks at one has it decoded, a `Reject` where it cannot be."""

    def __init__(self, kind: str, data: bytes, content_type: str) -> None:
        self.kind = kind
        self.data = data
        self.content_type = content_type
        self._items: tuple[list[Any], BodyRejected | None] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Body, (self.kind, self.data, self.content_type)

    def __getitem__(self, place: Any) -> Any:
        return self.read()[0][place]

    def __len__(self) -> int:
        return len(self.read()[0])

    def read(self) -> tuple[list[Any], BodyRejected | None]:
        """The items, and why the body as a whole cannot be read: its beginning is then all there is to keep."""
        if self._items is None:
            try:
                self._items = self._decoded(), None
            except BodyRejected as exc:
                reason = exc.reason
                if self.kind in ("spans", "logs") and reason != "too_large":
                    reason = "bad_json" if encoding_of(self.content_type) == JSON else "undecodable"
                self._items = unreadable(self.data, reason, exc), exc
        return self._items

    def _decoded(self) -> list[Any]:
        if self.kind == "spans":
            return [*decode_traces(self.data, self.content_type)]
        if self.kind == "logs":
            return [*decode_logs(self.data, self.content_type)]
        return decode(self.data, self.content_type)


def limit_seconds(size: int) -> float:
    """How long opening a body of `size` bytes may compute."""
    return LIMIT_SECONDS + LIMIT_SECONDS_PER_MIB * size / 2**20


def unreadable(body: bytes, reason: str, exc: BodyRejected) -> list[Any]:
    """A body that cannot be read as a whole, for the dead letter: its beginning is all there is to keep."""
    return [Reject(0, reason, str(exc), None, body[:KEPT_BYTES], len(body) if len(body) > KEPT_BYTES else None)]


class Opener:
    """Any thread may call it."""

    def __init__(self, config: Config, columns_of: Callable[[str], Mapping[str, str]], count: Count) -> None:
        """`columns_of`: model -> features that have a column, with their kind. `count`: told what was masked."""
        self.masking = Masking(config, count)
        self.kinds = FeatureKinds(columns_of, {m.name: m for m in config.models})
        router = Router(config.models, config.otlp.default_model)
        known = prices.load(config.prices.file or prices.FILE)
        most = config.server.max_text_bytes
        self._spans = SpanReader(_dialects(), router, known, max_text_bytes=most)
        self._parser = Parser({m.name: m.task for m in config.models}, self.kinds.kind_of, known, max_text_bytes=most)

    def open(self, body: Body, model: str | None, arrived_at: datetime) -> Opened:
        items, failed = body.read()
        marks: Marks = {}
        masked = self.masking.apply(body.kind, items, model, marks)
        opened = packed(self.parse(body.kind, masked, self.masking.model(model), arrived_at))
        opened.marks = marks
        if failed is not None:
            opened.failed = failed.status, failed.reason, str(failed)
        return opened

    def parse(self, kind: str, items: Sequence[Any], model: str | None, arrived_at: datetime) -> Parsed:
        """Of items that are masked. One that no rule of ours foresaw is set aside: the others must not suffer."""
        try:
            return self._parsed(kind, items, model, arrived_at)
        except MemoryError:
            raise
        except Exception as exc:  # a fault of ours; not its message, which may show what was sent
            log.error("a record cannot be parsed and is set aside; please report it", kind=kind, error=type(exc).__name__)
            return self._parsed(
                kind, [self._sound(kind, i, item, model, arrived_at) for i, item in enumerate(items)], model, arrived_at
            )

    def _sound(self, kind: str, index: int, item: Any, model: str | None, arrived_at: datetime) -> Any:
        """The item, or a reject where it is the fault of this one."""
        try:
            self._parsed(kind, [item], model, arrived_at)
        except Exception as exc:
            name = type(exc).__name__
            return Reject(index, "undecodable", f"a fault of the daemon ({name}); its log says more", None, item)
        return item

    def _parsed(self, kind: str, items: Sequence[Any], model: str | None, arrived_at: datetime) -> Parsed:
        if kind == "spans":
            return self._spans.spans(items, model=model, received_at=arrived_at)
        if kind == "logs":
            return self._spans.logs(items, model=model, received_at=arrived_at)
        return self._parser.parse(kind, items, model=model, received_at=arrived_at)


@dataclass(frozen=True, slots=True)
class Request:
    """What an intake process is asked. `config` and `features` are numbered, and sent where it may not know them yet."""

    body: Body
    model: str | None
    arrived_at: datetime
    numbers: tuple[int, int]
    config: Config | None = None
    features: Features | None = None


def helper(limited: bool) -> Callable[[Request], Opened | None]:
    """What runs in an intake process. It answers None where it has not been told the config or the features of a request. It is
    ended, where it is `limited`, by a body that it computes on for longer than `limit_seconds`."""
    known = (-1, -1)
    features: Features = {}
    counts: Counter[str] = Counter()
    opener: Opener | None = None
    since = 0

    def count(kind: str, many: int) -> None:
        counts[kind] += many

    def answer(request: Request) -> Opened | None:
        nonlocal known, features, opener, since
        if limited:
            allow_processor(limit_seconds(len(request.body.data)))
        if request.config is not None and request.features is not None:
            if opener is None or known[0] != request.numbers[0]:
                opener = Opener(request.config, lambda model: features.get(model, {}), count)
                gc.collect()
                gc.freeze()  # all that is there by now stays
                gc.disable()
            known, features = request.numbers, request.features
        if opener is None or known != request.numbers:
            return None
        counts.clear()
        opened = opener.open(request.body, request.model, request.arrived_at)
        since += len(request.body.data)
        if since > COLLECTED_BYTES:
            since = 0
            gc.collect()
        if limited:
            allow_processor(LIMIT_SECONDS)  # to hand it over, and to take the next
        return replace(opened, masked=dict(counts))

    return answer


@cache
def _dialects() -> Dialects:
    """Of all dialects, which no config changes."""
    return Dialects()
