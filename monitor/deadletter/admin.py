"""The admin API, beside the push API and for the role admin: `POST /v1/deadletter/replay` and `/v1/deadletter/drop`.

One request does one step of bounded size; `next` in the answer is the `after` of the next request. Whoever asks again after a
lost answer does nothing twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from monitor.deadletter.replay import Asked, Outcome, Replayer
from monitor.deadletter.selection import Selection
from monitor.errors import BodyRejected

if TYPE_CHECKING:
    from monitor.http import Receiver, Work
    from monitor.receiving import Hold

REPLAY, DROP = "/v1/deadletter/replay", "/v1/deadletter/drop"
PATHS = (REPLAY, DROP)


class Ask(BaseModel):
    """The body of both."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    which: Selection
    by: str = Field(min_length=1, max_length=256)
    comment: str | None = Field(None, max_length=4096)
    dry_run: bool = False


class Admin:
    def __init__(self, replayer: Replayer) -> None:
        self._replayer = replayer

    def paths(self, receiver: Receiver) -> Mapping[str, Work]:
        def path(name: str) -> Work:
            async def work(request: Request, hold: Hold) -> Response:
                # A page in a browser can send text to a loopback address, but no JSON without being allowed to.
                if request.headers.get("Content-Type", "").partition(";")[0].strip().lower() != "application/json":
                    raise BodyRejected(415, "bad_content_type", "send Content-Type: application/json")
                ask = _ask(await receiver.body(request, hold))
                address = request.client.host if request.client else ""
                outcome = await run_in_threadpool(self._do, name, ask, address)
                return JSONResponse(outcome.as_json())

            return work

        return {name: path(name) for name in PATHS}

    def _do(self, name: str, ask: Ask, address: str) -> Outcome:
        asked = Asked(ask.by, address, ask.comment)
        if name == REPLAY:
            return self._replayer.replay(ask.which, asked, dry=ask.dry_run)
        if not (ask.comment or "").strip() and not ask.dry_run:
            raise BodyRejected(400, "missing_field", "comment is missing; say why they are dropped")
        return self._replayer.drop(ask.which, asked, dry=ask.dry_run)


def _ask(body: bytes) -> Ask:
    try:
        return Ask.model_validate_json(body)
    except ValidationError as exc:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'body'}: {e['msg']}" for e in exc.errors(include_url=False))
        raise BodyRejected(400, "bad_request", problems) from exc
