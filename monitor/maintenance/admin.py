"""`POST /v1/maintenance/add` and `/v1/maintenance/end` for the role admin, `GET /v1/maintenance` for the role query."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from monitor.clock import Clock
from monitor.errors import BodyRejected
from monitor.maintenance import ADD, END, LIST
from monitor.maintenance.book import Book, Booked
from monitor.maintenance.windows import Window

if TYPE_CHECKING:
    from collections.abc import Callable

    from monitor.http import Receiver, Work
    from monitor.receiving import Hold

PATHS = (ADD, END)
T = TypeVar("T", bound=BaseModel)


class Asked(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    by: str = Field(min_length=1, max_length=256)


class Add(Asked):
    window: Window


class End(Asked):
    name: str


class MaintenanceAdmin:
    def __init__(self, book: Book, *, clock: Clock, models: Callable[[], Collection[str]]) -> None:
        """`models`: the names of those that are configured."""
        self._book = book
        self._clock = clock
        self._models = models

    def paths(self, receiver: Receiver) -> Mapping[str, Work]:
        def path(do: Callable[[bytes, str], Booked]) -> Work:
            async def work(request: Request, hold: Hold) -> Response:
                # A page in a browser can send text to a loopback address, but no JSON without being allowed to.
                if request.headers.get("Content-Type", "").partition(";")[0].strip().lower() != "application/json":
                    raise BodyRejected(415, "bad_content_type", "send Content-Type: application/json")
                body = await receiver.body(request, hold)
                done = await run_in_threadpool(do, body, request.client.host if request.client else "")
                return JSONResponse(self._shown(done, self._clock.now()))

            return work

        return {ADD: path(self._add), END: path(self._end)}

    def pages(self) -> Mapping[str, Work]:
        async def work(request: Request, hold: Hold) -> Response:
            now = self._clock.now()
            return JSONResponse({"windows": [self._shown(one, now) for one in self._book.booked()]})

        return {LIST: work}

    def _add(self, body: bytes, address: str) -> Booked:
        ask = _read(Add, body)
        known = self._models()
        if unknown := [name for name in ask.window.models if name not in known]:
            there = ", ".join(sorted(known)) or "none"
            raise BodyRejected(422, "unknown_model", f"models: no model {unknown[0]!r}; there are {there}")
        return self._book.add(ask.window, by=ask.by, address=address)

    def _end(self, body: bytes, address: str) -> Booked:
        ask = _read(End, body)
        return self._book.end(ask.name, by=ask.by, address=address)

    @staticmethod
    def _shown(one: Booked, now: datetime) -> dict[str, Any]:
        in_force = not one.over(now) and one.window.span(now) is not None
        state = "over" if one.over(now) else "in force" if in_force else "to come"
        told = {"origin": one.origin, "state": state, "ended_at": one.ended and one.ended.isoformat(), "asked_by": one.asked_by}
        return one.window.model_dump(mode="json") | told


def _read(kind: type[T], body: bytes) -> T:
    try:
        return kind.model_validate_json(body)
    except ValidationError as exc:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'body'}: {e['msg']}" for e in exc.errors(include_url=False))
        raise BodyRejected(400, "bad_request", problems) from exc
