"""`modelwatch deadletter`: what is in the dead letter, and what is to become of it.

`list` and `show` read `audit.duckdb` and need no daemon; `replay` and `drop` ask the running one.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import getpass
import json
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from pydantic import TypeAdapter

from monitor import configfile
from monitor.config import Seconds, Server, StoreConfig
from monitor.deadletter.adminclient import AdminClient, AdminError, token, url_of
from monitor.errors import StoreError
from monitor.records import REASONS
from monitor.terminal import harmless, table

STALE_SECONDS = 300
OPEN = "open"


def add_to(commands: Any) -> None:
    """The arguments of the command. `commands`: what `add_subparsers` gives."""
    parser = commands.add_parser("deadletter", help="what could not be stored or evaluated: see it, replay it, drop it")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    listing = verbs.add_parser("list", help="open dead letters, the newest first")
    _filters(listing)
    listing.add_argument("--all", action="store_true", help="those that were replayed or dropped as well")
    listing.add_argument("--limit", type=_positive, default=50, help="so many at most (default: %(default)s)")
    listing.add_argument("--count", action="store_true", help="how many by reason, instead")
    listing.add_argument("--json", action="store_true", help="one JSON object a line")
    _reading(listing)
    listing.set_defaults(do=lambda arguments: _read(arguments, _list))

    show = verbs.add_parser("show", help="all of one dead letter, with its payload")
    show.add_argument("id", type=_positive)
    show.add_argument("--json", action="store_true", help="as one JSON object")
    show.add_argument("--raw", action="store_true", help="only the payload, as it is, for a file or a pipe")
    _reading(show)
    show.set_defaults(do=lambda arguments: _read(arguments, _show))

    replay = verbs.add_parser("replay", help="send them through the inbox once more, after the cause was mended")
    drop = verbs.add_parser("drop", help="settle them for good; the rows stay, and who dropped them and why is recorded")
    for verb in (replay, drop):
        verb.add_argument("ids", type=_positive, nargs="*", metavar="ID")
        _filters(verb)
        verb.add_argument("--all-open", action="store_true", help="all open ones")
        verb.add_argument("--limit", type=_positive, default=None, help="so many at most")
        verb.add_argument("--dry-run", action="store_true", help="say what would become of them, and do nothing")
        verb.add_argument("--by", default=None, help="who asks, for the record (default: user@host)")
        verb.add_argument("--server", default=None, help="the push API, such as http://127.0.0.1:9710 (default: as in --config)")
        verb.add_argument("--config", type=Path, default=None, help="a config file that says where the daemon listens")
        verb.add_argument("--token-file", type=Path, default=None, help="holds a token of the role admin (or: MODELWATCH_TOKEN)")
        verb.add_argument("--ca-file", type=Path, default=None, help="trust these certificates, PEM")
    drop.add_argument("--because", default=None, metavar="TEXT", help="why, for the record; required")
    drop.add_argument("--yes", action="store_true", help="do not ask")
    replay.set_defaults(do=_replay)
    drop.set_defaults(do=_drop)


def _filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reason", choices=sorted(REASONS), metavar="REASON", help=f"one of {', '.join(sorted(REASONS))}")
    parser.add_argument("--kind", help="what it was sent as: predictions, labels, spans and so on")
    parser.add_argument("--model", help="the monitored model it names")
    parser.add_argument("--source", help="where it came from, or the beginning of that: push, follow:NAME")
    parser.add_argument("--since", type=_instant, help="came then or later: RFC 3339, or 15m, 2h, 7d ago")


def _reading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--store", type=Path, default=None, help="the store's folder (default: store.path of --config)")
    parser.add_argument("--config", type=Path, default=None, help="a config file that says where the store is")


def _positive(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def _instant(text: str) -> datetime:
    with contextlib.suppress(ValueError):
        return datetime.fromtimestamp(time.time() - TypeAdapter(Seconds).validate_python(text), UTC)
    with contextlib.suppress(ValueError):
        if (when := datetime.fromisoformat(text)).tzinfo is not None:
            return when.astimezone(UTC)
    raise argparse.ArgumentTypeError(f"{text!r} is neither a time with its zone (2026-11-21T10:00:00Z) nor a duration (2h)")


def _chosen(arguments: argparse.Namespace) -> dict[str, Any]:
    """The filters as a `Selection` takes them."""
    found = {name: getattr(arguments, name) for name in ("reason", "kind", "model", "source", "since")}
    return {name: value for name, value in found.items() if value is not None}


# --- list and show ---


def _read(arguments: argparse.Namespace, work: Callable[[argparse.Namespace, Any, TextIO], int]) -> int:
    import duckdb

    from monitor import auditsql
    from monitor.audit import FILE

    if arguments.store is not None:
        store = arguments.store
    else:
        store = configfile.load(arguments.config).store.path if arguments.config else StoreConfig().path
    try:
        with auditsql.connect(store) as connection:
            code = work(arguments, connection, sys.stdout)
            _say_age(Path(FILE))  # `connect` changed to the store's folder
            return code
    except duckdb.Error as exc:
        raise StoreError(str(exc)) from exc


def _say_age(path: Path) -> None:
    at = path.stat().st_mtime
    age = max(0, time.time() - at)
    when = datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    old = "; the daemon does not seem to run, and what came since is not shown" if age > STALE_SECONDS else ""
    print(f"as of {when}, {age:.0f} s ago{old}", file=sys.stderr)


def _list(arguments: argparse.Namespace, connection: Any, out: TextIO) -> int:
    from monitor.deadletter.selection import Selection

    where, values = Selection(**{**_chosen(arguments), "everything": True}).where()
    letters = (
        "(SELECT d.*, coalesce(r.action, 'open') AS state FROM deadletters d LEFT JOIN resolutions r ON r.deadletter_seq = d.seq)"
    )
    if not arguments.all:
        where += f" AND state = '{OPEN}'"
    grouped = f"SELECT reason, state, count(*) AS n FROM {letters} WHERE {where} GROUP BY ALL ORDER BY ALL"
    counts = _rows(connection, grouped, values)
    if arguments.count:
        if arguments.json:
            _print_json(counts, out)
        else:
            print(table(("reason", "state", "count"), [tuple(c.values()) for c in counts]) if counts else "none", file=out)
        return 0
    columns = "seq AS id, received_at, reason, state, kind, monitored_model AS model, source, record_id, message"
    rows = _rows(connection, f"SELECT {columns} FROM {letters} WHERE {where} ORDER BY seq DESC LIMIT {arguments.limit}", values)
    if arguments.json:
        _print_json(rows, out)
        return 0
    for row in rows:
        row["received_at"] = row["received_at"].astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
    print(table(tuple(rows[0]), [tuple(r.values()) for r in rows], widest=40) if rows else "none", file=out)
    if (total := sum(c["n"] for c in counts)) > len(rows):
        print(f"{len(rows)} of {total}; see more with --limit, or narrow it down", file=sys.stderr)
    return 0


def _show(arguments: argparse.Namespace, connection: Any, out: TextIO) -> int:
    found = _rows(connection, "SELECT * EXCLUDE (model) FROM deadletters WHERE seq = ?", [arguments.id])
    if not found:
        raise StoreError(f"no dead letter {arguments.id}; `modelwatch deadletter list` shows which there are")
    letter = found[0]
    resolved = _rows(
        connection,
        "SELECT action, result, comment, asked_by, address, received_at FROM resolutions WHERE deadletter_seq = ?",
        [arguments.id],
    )
    payload = letter.pop("payload")
    if arguments.raw:
        return _print_raw(payload, letter["payload_encoding"], out)
    if arguments.json:
        _print_json([{**letter, "payload": payload, "resolution": resolved[0] if resolved else None}], out)
        return 0
    letter = {"id": letter.pop("seq"), "state": resolved[0]["action"] if resolved else OPEN, **letter}
    if resolved:
        letter |= {f"{letter['state']}_{name}": value for name, value in resolved[0].items() if name != "action"}
    for name, value in letter.items():
        if value is not None:
            print(f"{name}: {harmless(str(value))}", file=out)
    print("payload:" if payload is not None else "payload: none", file=out)
    for line in _lines(payload, letter.get("payload_encoding")):
        print(f"  {harmless(line)}", file=out)
    return 0


def _lines(payload: str | None, encoding: str | None) -> list[str]:
    if payload is None:
        return []
    if encoding != "text":
        try:
            return json.dumps(json.loads(payload), indent=2, ensure_ascii=False).split("\n")
        except (ValueError, RecursionError):
            pass
    return payload.split("\n")


def _print_raw(payload: str | None, encoding: str | None, out: TextIO) -> int:
    if out.isatty():
        raise StoreError("--raw prints what may do anything to a terminal; send it to a file or a pipe")
    if payload is not None:
        out.flush()
        out.buffer.write(base64.b64decode(payload) if encoding == "base64" else payload.encode())
    return 0


def _print_json(rows: list[dict[str, Any]], out: TextIO) -> None:
    for row in rows:
        print(json.dumps(row, default=_plain), file=out)  # ASCII only, so that no control character comes through


def _plain(value: Any) -> str:
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else str(value)


def _rows(connection: Any, query: str, values: list[Any]) -> list[dict[str, Any]]:
    return connection.sql(query, params=values).to_arrow_table().to_pylist()  # type: ignore[no-any-return]


# --- replay and drop ---


def _replay(arguments: argparse.Namespace) -> int:
    total, refused = _ask(arguments, "/v1/deadletter/replay", dry_run=arguments.dry_run)
    would = "would be " if arguments.dry_run else ""
    print(f"{total['replayed']} {would}stored or stored already, {total['queued']} {would}queued for scoring, ", end="")
    print(f"{total['still_refused']} refused again and left open")
    for one in refused:
        print(f"  {one['id']}: {one['reason']}: {harmless(one['message'])}")
    if (more := total["still_refused"] - len(refused)) > 0:
        print(f"  and {more} more")
    return 1 if total["still_refused"] else 0


def _drop(arguments: argparse.Namespace) -> int:
    if arguments.dry_run or not arguments.yes:
        count = _ask(arguments, "/v1/deadletter/drop", dry_run=True)[0]["dropped"]
        if arguments.dry_run or not count:
            print(f"{count} would be dropped")
            return 0
    if not (arguments.because or "").strip():
        raise AdminError("say why they are dropped, with --because TEXT; it is recorded")
    if not arguments.yes and not _sure(f"drop {count} dead letters? They cannot be replayed afterwards. [y/N] "):
        print("nothing was dropped", file=sys.stderr)
        return 1
    total, _ = _ask(arguments, "/v1/deadletter/drop", comment=arguments.because)
    print(f"{total['dropped']} dropped")
    return 0


def _sure(question: str) -> bool:
    if not sys.stdin.isatty():
        raise AdminError("nobody is there to ask; say --yes if you are sure")
    return input(question).strip().lower() in ("y", "yes")


def _ask(arguments: argparse.Namespace, path: str, **more: Any) -> tuple[Counter[str], list[dict[str, Any]]]:
    which = {n: v.isoformat() if isinstance(v, datetime) else v for n, v in _chosen(arguments).items()}
    which |= {"ids": arguments.ids} if arguments.ids else {}
    which |= {"everything": True} if arguments.all_open else {}
    if not which:
        raise AdminError("say which: ids, a filter such as --reason, or --all-open")
    which |= {"limit": arguments.limit} if arguments.limit else {}
    server = configfile.load(arguments.config).server if arguments.config else Server()
    authority = arguments.ca_file or (server.tls.cert_file if server.tls else None)
    total: Counter[str] = Counter()
    refused: list[dict[str, Any]] = []
    by = arguments.by or f"{getpass.getuser()}@{socket.gethostname()}"
    with AdminClient(arguments.server or url_of(server), token=token(arguments.token_file), ca_file=authority) as client:
        for answer in client.steps(path, which, by=by, **more):
            total.update({n: v for n, v in answer.items() if n in ("matched", "replayed", "queued", "dropped", "still_refused")})
            refused = [*refused, *answer["refused"]][:20]
            if answer["next"] is not None and sys.stderr.isatty():
                print(f"\r{answer['next']} of {answer['until']}", end="", file=sys.stderr)
    return total, refused
