"""`GET /v1/outbox` for the role query, `POST /v1/outbox/replay` and `/v1/outbox/drop` for the role admin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from monitor import log
from monitor.clock import Clock
from monitor.errors import BodyRejected
from monitor.metrics import Metrics
from monitor.outbox import OPEN, Outbox
from monitor.outboxcommand import DROP, LIST, REPLAY
from monitor.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

    from monitor.http import Receiver, Work
    from monitor.receiving import Hold

PATHS = (REPLAY, DROP)
SHOWN = 1_000


class Ask(BaseModel):
    """Which of the dead messages: all of a sink, or of those the ones with these keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sink: str = Field(min_length=1, max_length=256)
    keys: tuple[str, ...] | None = None
    by: str = Field(min_length=1, max_length=256)


class OutboxAdmin:
    def __init__(self, store: Store, *, clock: Clock, metrics: Metrics) -> None:
        self._store = store
        self._clock = clock
        self._metrics = metrics

    def paths(self, receiver: Receiver) -> Mapping[str, Work]:
        def path(do: Callable[[Ask], int]) -> Work:
            async def work(request: Request, hold: Hold) -> Response:
                # A page in a browser can send text to a loopback address, but no JSON without being allowed to.
                if request.headers.get("Content-Type", "").partition(";")[0].strip().lower() != "application/json":
                    raise BodyRejected(415, "bad_content_type", "send Content-Type: application/json")
                ask = _ask(await receiver.body(request, hold))
                return JSONResponse({"messages": await run_in_threadpool(do, ask)})

            return work

        return {REPLAY: path(self._replay), DROP: path(self._drop)}

    def pages(self) -> Mapping[str, Work]:
        async def work(request: Request, hold: Hold) -> Response:
            return JSONResponse({"messages": await run_in_threadpool(self.messages)})

        return {LIST: work}

    def messages(self) -> list[dict[str, Any]]:
        """Those that wait or are dead, at most `SHOWN`, the dead first and the oldest before the others. Not what they say."""
        with self._store.read() as reader:
            found = reader.query(
                "SELECT sink, key, CASE WHEN dead_at IS NULL THEN 'waiting' ELSE 'dead' END AS state, reason, attempts, put_at, "
                f"next_at, dead_at FROM outbox WHERE dead_at IS NOT NULL OR ({OPEN}) ORDER BY dead_at IS NULL, id LIMIT {SHOWN}"
            )
        times = ("put_at", "next_at", "dead_at")
        return [{**row, **{name: row[name] and row[name].isoformat() for name in times}} for row in found]

    def _replay(self, ask: Ask) -> int:
        count = self._box(ask).replay(ask.keys)
        log.info("messages are sent again", sink=ask.sink, messages=count, by=ask.by)
        return count

    def _drop(self, ask: Ask) -> int:
        count = self._box(ask).drop(ask.keys)
        log.info("messages were dropped", sink=ask.sink, messages=count, by=ask.by)
        return count

    def _box(self, ask: Ask) -> Outbox:
        with self._store.read() as reader:
            sinks = [row["sink"] for row in reader.query("SELECT DISTINCT sink FROM outbox ORDER BY sink")]
        if ask.sink not in sinks:
            raise BodyRejected(
                422, "unknown_sink", f"sink: no messages for {ask.sink!r:.80}; there are {', '.join(sinks) or 'none'}"
            )
        return Outbox(ask.sink, self._store, clock=self._clock, metrics=self._metrics)


def _ask(body: bytes) -> Ask:
    try:
        return Ask.model_validate_json(body)
    except ValidationError as exc:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'body'}: {e['msg']}" for e in exc.errors(include_url=False))
        raise BodyRejected(400, "bad_request", problems) from exc
