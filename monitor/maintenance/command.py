"""`modelwatch maintenance`: windows that are set, listed and ended while the daemon runs."""

from __future__ import annotations

import argparse
import getpass
import json
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from monitor import configfile
from monitor.config import Server
from monitor.deadletter.adminclient import TOKEN, AdminClient, AdminError, token, url_of
from monitor.maintenance import ADD, END, LIST
from monitor.maintenance.windows import DAYS, Window
from monitor.section import Seconds
from monitor.terminal import table


def add_to(commands: Any) -> None:
    """The arguments of the command. `commands`: what `add_subparsers` gives."""
    parser = commands.add_parser("maintenance", help="windows in which pages are held back, or nothing may be deployed")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    add = verbs.add_parser("add", help="set one; who asked for it, when and why is recorded")
    add.add_argument("name")
    add.add_argument("--kind", choices=("maintenance", "freeze"), default="maintenance")
    add.add_argument("--model", action="append", default=[], metavar="MODEL", help="of this model only; may be repeated")
    add.add_argument("--because", required=True, metavar="TEXT", help="why, for the record")
    add.add_argument("--start", default=None, metavar="TIME", help="with a zone, like 2026-03-01T22:00:00Z (default: now)")
    add.add_argument("--end", default=None, metavar="TIME", help="first instant after it")
    add.add_argument("--for", dest="lasts", default=None, metavar="DURATION", help="or how long: 30m, 2h, 1d")
    add.add_argument("--weekly", default=None, metavar="HH:MM", help="each week from this time of day on, for so long")
    add.add_argument("--days", default=",".join(DAYS), help="of --weekly: mon,tue,... (default: every day)")
    add.add_argument("--timezone", default="UTC", help="of --weekly: whose clock (default: %(default)s)")
    add.set_defaults(do=_add)

    end = verbs.add_parser("end", help="end one before its time")
    end.add_argument("name")
    end.set_defaults(do=_end)

    listing = verbs.add_parser("list", help="all there are, those that are in force or still to come first")
    listing.add_argument("--json", action="store_true", help="one JSON object a line")
    listing.set_defaults(do=_list)

    for verb in (add, end):
        verb.add_argument("--by", default=None, help="who asks, for the record (default: user@host)")
    for verb in (add, end, listing):
        verb.add_argument("--server", default=None, help="the push API, such as http://127.0.0.1:9710 (default: as in --config)")
        verb.add_argument("--config", type=Path, default=None, help="a config file that says where the daemon listens")
        verb.add_argument("--token-file", type=Path, default=None, help=f"holds a token of the role admin (or: {TOKEN})")
        verb.add_argument("--ca-file", type=Path, default=None, help="trust these certificates, PEM")


def window(arguments: argparse.Namespace, now: datetime) -> dict[str, Any]:
    """What is asked for, as the API takes it.

    Raises:
        AdminError: it is no window.
    """
    found: dict[str, Any] = {
        "name": arguments.name, "kind": arguments.kind, "models": arguments.model, "reason": arguments.because
    }  # fmt: skip
    try:
        lasts = None if arguments.lasts is None else TypeAdapter(Seconds).validate_python(arguments.lasts)
        if arguments.weekly is not None:
            days = [day for day in arguments.days.split(",") if day]
            found["weekly"] = {"days": days, "at": arguments.weekly, "lasts": lasts, "timezone": arguments.timezone}
        else:
            start = now if arguments.start is None else _time(arguments.start)
            if (arguments.end is None) == (lasts is None):
                raise AdminError("give exactly one of --end and --for: when it ends, or how long it lasts")
            end = _time(arguments.end) if arguments.end is not None else start + timedelta(seconds=lasts or 0)
            found |= {"start": start.isoformat(), "end": end.isoformat()}
        Window.model_validate(found)
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise AdminError(f"{where + ': ' if where else ''}{first['msg'].removeprefix('Value error, ')}") from exc
    return found


def _time(text: str) -> datetime:
    try:
        when = datetime.fromisoformat(text)
    except ValueError as exc:
        raise AdminError(f"{text!r:.80} is no time; write it like 2026-03-01T22:00:00Z") from exc
    if when.tzinfo is None:
        raise AdminError(f"{text} has no time zone; end it with Z or an offset")
    return when


def _add(arguments: argparse.Namespace) -> int:
    asked = window(arguments, datetime.now(UTC))
    with _client(arguments) as client:
        done = client.ask(ADD, {"window": asked, "by": _by(arguments)})
    print(f"{done['name']}: {done['kind']} {done['state']}, {_span(done)}")
    return 0


def _end(arguments: argparse.Namespace) -> int:
    with _client(arguments) as client:
        done = client.ask(END, {"name": arguments.name, "by": _by(arguments)})
    print(f"{done['name']}: {done['kind']} ended at {done['ended_at']}")
    return 0


def _list(arguments: argparse.Namespace) -> int:
    with _client(arguments) as client:
        windows = client.read(LIST)["windows"]
    if arguments.json:
        for one in windows:
            print(json.dumps(one))
        return 0
    head = ("name", "kind", "state", "models", "span", "asked by", "reason")
    rows = [
        (w["name"], w["kind"], w["state"], ", ".join(w["models"]) or "all", _span(w), w["asked_by"] or w["origin"], w["reason"])
        for w in windows
    ]
    print(table(head, rows) if rows else "none")
    return 0


def _span(one: dict[str, Any]) -> str:
    if (weekly := one["weekly"]) is not None:
        return f"{','.join(weekly['days'])} {weekly['at']} {weekly['timezone']} for {weekly['lasts']} s"
    return f"{one['start']} to {one['end']}"


def _by(arguments: argparse.Namespace) -> str:
    return arguments.by or f"{getpass.getuser()}@{socket.gethostname()}"


def _client(arguments: argparse.Namespace) -> AdminClient:
    server = configfile.load(arguments.config).server if arguments.config is not None else Server()
    authority = arguments.ca_file or (server.tls.cert_file if server.tls else None)
    return AdminClient(arguments.server or url_of(server), token=token(arguments.token_file), ca_file=authority)
