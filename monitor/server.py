"""The push API: `POST /v1/` and a kind, predictions for example. JSON array, object or NDJSON. Beside it, the admin API.

The answer comes after the commit. 200: stored, with what was set aside listed; 422: every record was set aside; 400 and
413: the body as a whole is no good; 429 and 503 with Retry-After: nothing was taken, send it again.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from concurrent.futures import Future
from functools import partial

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from monitor.auth import Tokens
from monitor.clock import Clock
from monitor.cloudevents import envelope as cloudevents
from monitor.cloudevents.pairing import Pairs, Taken
from monitor.config import Server
from monitor.deadletter.admin import PATHS as ADMIN_PATHS
from monitor.deadletter.admin import Admin
from monitor.errors import BodyRejected
from monitor.http import Receiver, Work
from monitor.inbox import Answer, Batch
from monitor.maintenance.admin import PATHS as MAINTENANCE_PATHS
from monitor.maintenance.admin import MaintenanceAdmin
from monitor.metrics import Metrics
from monitor.opener import Body, unreadable
from monitor.outboxadmin import PATHS as OUTBOX_PATHS
from monitor.outboxadmin import OutboxAdmin
from monitor.receiving import Budget, Hold, Inbox, Trouble
from monitor.records import KINDS
from monitor.report import HEADERS as REPORT_HEADERS
from monitor.report import Reports
from monitor.web.pages import Pages

TRANSPORT = "push"
RENDERED = 4  # requests for pages at once, all but one of which wait
MAX_KEY = 256


class PushServer(Receiver):
    transport = TRANSPORT

    def __init__(
        self, config: Server, inbox: Inbox, *, tokens: Tokens, budget: Budget, clock: Clock, metrics: Metrics,
        admin: Admin | None = None, pairs: Pairs | None = None, reports: Reports | None = None, web: Pages | None = None,
        maintenance: MaintenanceAdmin | None = None,
        outbox: OutboxAdmin | None = None,
    ) -> None:  # fmt: skip
        self._inbox = inbox
        self._admin = admin
        self._pairs = pairs
        self._reports = reports
        self._web = web
        self._maintenance = maintenance
        self._outbox = outbox
        self._rendering = anyio.CapacityLimiter(RENDERED)
        super().__init__(
            config,
            tokens=tokens,
            budget=budget,
            max_body_bytes=config.max_body_bytes,
            read_timeout_seconds=config.read_timeout_seconds,
            clock=clock,
            metrics=metrics,
        )

    def paths(self) -> Mapping[str, Work]:
        records: dict[str, Work] = {f"/v1/{kind}": partial(self._take, kind) for kind in KINDS}
        if self._pairs is not None:
            records["/v1/cloudevents"] = self._events
        admin = [one.paths(self) for one in (self._admin, self._maintenance, self._outbox) if one is not None]
        return {**records, **{path: work for paths in admin for path, work in paths.items()}}

    def pages(self) -> Mapping[str, Work]:
        report = {} if self._reports is None else {"/v1/incidents/{incident_id}/report": self._report}
        more = [one.pages() for one in (self._maintenance, self._outbox) if one is not None]
        return {
            **report,
            **(self._web.paths() if self._web else {}),
            **{path: work for one in more for path, work in one.items()},
        }

    def role(self, request: Request) -> str:
        if request.method in ("GET", "HEAD"):  # whatever is read
            return "query"
        return "admin" if request.url.path in (*ADMIN_PATHS, *MAINTENANCE_PATHS, *OUTBOX_PATHS) else "ingest"

    def problem(self, request: Request, trouble: Trouble, headers: Mapping[str, str]) -> Response:
        return JSONResponse({"error": trouble.reason, "message": trouble.message}, trouble.status, headers)

    async def _take(self, kind: str, request: Request, hold: Hold) -> Response:
        body = await self.body(request, hold)
        done = await self.in_thread(self._put, kind, request, body, hold)
        answer: Answer = await asyncio.wrap_future(done)
        if answer.failed:
            raise answer.failed
        shown = answer.as_json()
        nothing = shown["rejected"] and not shown["accepted"] and not shown["duplicates"]
        return JSONResponse(shown, status_code=422 if nothing else 200)

    async def _report(self, request: Request, hold: Hold) -> Response:
        assert self._reports is not None
        # Not one of the few decoders: it may take a minute, most of which it waits for the worker.
        page = await anyio.to_thread.run_sync(self._reports.page, request.path_params["incident_id"], limiter=self._rendering)
        return Response(page, media_type="text/html; charset=utf-8", headers=REPORT_HEADERS)

    async def _events(self, request: Request, hold: Hold) -> Response:
        sent = await self.body(request, hold)

        def begin() -> Future[Taken]:
            assert self._pairs is not None
            body = self.inflated(request, sent, hold)
            try:
                events = cloudevents.read(request.headers, body)
            except BodyRejected as exc:
                self._inbox.put(Batch("predictions", unreadable(body, exc.reason, exc), TRANSPORT, size=len(body))).result()
                raise
            return self._pairs.submit(events, request.query_params.get("model"), len(body))

        taken: Taken = await asyncio.wrap_future(await self.in_thread(begin))
        return JSONResponse(taken.as_json(), status_code=422 if taken.nothing else 200)

    def _put(self, kind: str, request: Request, sent: bytes, hold: Hold) -> Future[Answer]:
        body = self.inflated(request, sent, hold)
        key = request.headers.get("Idempotency-Key")
        if key is not None and not 0 < len(key) <= MAX_KEY:
            raise BodyRejected(400, "bad_key", f"Idempotency-Key: {len(key)} characters; 1 to {MAX_KEY} are allowed")
        batch = Batch(
            kind,
            Body(kind, body, request.headers.get("Content-Type", "application/json")),
            TRANSPORT,
            model=request.query_params.get("model"),
            key=key,
            body_hash=hashlib.sha256(body).hexdigest() if key else None,
            size=len(body),
        )
        return self._inbox.put(batch)
