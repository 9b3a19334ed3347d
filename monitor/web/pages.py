"""`/cases`, `/incidents` and `/traces` as pages, and under `/v1/` as JSON: read only, for the role query.

What stands on a page was written by models and by whoever talks to them: everything is escaped, and the page may neither run nor
load anything, under a content security policy that names the hash of its style.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import anyio.to_thread
import jinja2
import orjson
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from monitor import external
from monitor.errors import BodyRejected
from monitor.web import charts
from monitor.web.look import Looks, Row

if TYPE_CHECKING:
    from monitor.http import Work
    from monitor.receiving import Hold

AT_ONCE = 2  # looks that go on at once: each takes a part of what ingest could have
LIMIT, MOST = 100, 1_000
MOST_OFFSET = 100_000
FOLDER = Path(__file__).parent / "templates"
PATHS = (external.case_path, external.incident_path, external.trace_path, external.report_path)
STATES = ("open", "resolved", "withdrawn")


class Pages:
    def __init__(self, looks: Looks) -> None:
        self._looks = looks
        self._limiter = anyio.CapacityLimiter(AT_ONCE)
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(FOLDER), autoescape=True, undefined=jinja2.ChainableUndefined, trim_blocks=True,
            lstrip_blocks=True,
        )  # fmt: skip
        style = (FOLDER / "style.css").read_text(encoding="utf-8")
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        environment.globals |= {
            "style": style, "chart": charts.history,
            # Relative, so that they lead on wherever a proxy has put the pages.
            **{path.__name__: partial(_relative, path) for path in PATHS},
        }  # fmt: skip
        environment.filters |= {"number": _number, "share": _share, "time": _time}
        self._environment = environment
        self._headers = {
            "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'self'",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "private, no-store",
            "Cross-Origin-Opener-Policy": "same-origin",
        }

    def paths(self) -> Mapping[str, Work]:
        found: dict[str, Work] = {
            "/cases": self._page("cases.html", self._cases),
            "/incidents": self._page("incidents.html", self._incidents),
            "/v1/cases": self._json(self._cases),
            "/v1/incidents": self._json(self._incidents),
            "/v1/records/worst": self._json(self._worst),
        }
        for name, look in (("case", self._looks.case), ("incident", self._looks.incident), ("trace", self._looks.trace)):
            one = _of_path(look)
            key = "{id:path}" if name == "trace" else "{id}"  # a sender's id may have a slash
            found[f"/{name}s/{key}"] = self._page(f"{name}.html", one)
            found[f"/v1/{name}s/{key}"] = self._json(one)
        return found

    def _cases(self, request: Request) -> Row:
        return self._looks.cases(model=_model(request), state=_state(request), **_paging(request))

    def _incidents(self, request: Request) -> Row:
        asked = request.query_params
        return self._looks.incidents(
            model=_model(request),
            check=asked.get("check") or None,
            state=_state(request),
            since=_since(request),
            **_paging(request),
        )

    def _worst(self, request: Request) -> Row:
        return self._looks.worst(model=_model(request), state=_state(request), **_paging(request))

    def _json(self, look: Callable[[Request], Row]) -> Work:
        async def work(request: Request, hold: Hold) -> Response:
            body = await anyio.to_thread.run_sync(lambda: orjson.dumps(look(request), default=str), limiter=self._limiter)
            headers = {"Cache-Control": "private, no-store", "X-Content-Type-Options": "nosniff"}
            return Response(body, media_type="application/json", headers=headers)

        return work

    def _page(self, name: str, look: Callable[[Request], Row]) -> Work:
        template, up = self._environment.get_template(name), "" if name.endswith("s.html") else "../"

        def render(request: Request) -> Response:
            model = request.query_params.get("model")
            # Where alerts lead: they know the model, and not the case.
            if name == "cases.html" and model and not _list(request) and (newest := self._looks.newest_open(model)) is not None:
                return RedirectResponse(_relative(external.case_path, newest), 303, headers=self._headers)
            found = look(request)
            if found.get("successor") is not None:  # where an alert of before leads
                return RedirectResponse(up + _relative(external.case_path, found["successor"]), 303, headers=self._headers)
            asked = [one for one in request.query_params.multi_items() if one[0] != "offset"]
            older = urlencode([*asked, ("offset", found.get("next"))])
            return Response(
                template.render({"model": model, "up": up, "older": older} | found),
                media_type="text/html; charset=utf-8",
                headers=self._headers,
            )

        async def work(request: Request, hold: Hold) -> Response:
            return await anyio.to_thread.run_sync(render, request, limiter=self._limiter)

        return work


def _relative(path: Callable[[str], str], one: str) -> str:
    """From the top, where the lists are."""
    return path(one).removeprefix("/")


def _list(request: Request) -> bool:
    """Whether a list was asked for, and not the one that is open."""
    return any(name in request.query_params for name in ("state", "limit", "offset"))


def _model(request: Request) -> str | None:
    """One, or several with commas between; None, all of them, is `.+` in the variables of our dashboards."""
    given = request.query_params.get("model") or ".+"
    return None if given in (".+", ". ") else given


def _of_path(look: Callable[[str], Row]) -> Callable[[Request], Row]:
    return lambda request: look(request.path_params["id"])


def _paging(request: Request) -> dict[str, int]:
    return {"limit": _whole(request, "limit", LIMIT, 1, MOST), "offset": _whole(request, "offset", 0, 0, MOST_OFFSET)}


def _whole(request: Request, name: str, otherwise: int, least: int, most: int) -> int:
    given = request.query_params.get(name)
    if given is None:
        return otherwise
    if not given.isascii() or not given.isdigit() or len(given) > 9 or not least <= int(given) <= most:
        raise BodyRejected(400, "bad_parameter", f"{name}: {given!r:.80}; give a whole number from {least} to {most}")
    return int(given)


def _state(request: Request) -> str | None:
    given = request.query_params.get("state") or None
    if given is not None and given not in STATES:
        raise BodyRejected(400, "bad_parameter", f"state: {given!r:.80} is none of {', '.join(STATES)}")
    return given


def _since(request: Request) -> datetime | None:
    given = request.query_params.get("since")
    if not given:
        return None
    try:
        when = datetime.fromisoformat(given)
    except ValueError:
        when = None
    if when is None or when.tzinfo is None:
        raise BodyRejected(400, "bad_parameter", f"since: {given!r:.80}; give a time with a zone, like 2026-03-01T12:00:00Z")
    return when


def _number(value: Any) -> str:
    return (
        f"{value:.6g}" if isinstance(value, int | float) and not isinstance(value, bool) else "" if value is None else str(value)
    )


def _share(value: Any) -> str:
    return f"{100 * value:.1f} %" if isinstance(value, int | float) else ""


def _time(value: Any) -> str:
    """As ISO 8601 has it, without what nobody reads."""
    return str(value)[:19].replace("T", " ") + " UTC" if value else ""
