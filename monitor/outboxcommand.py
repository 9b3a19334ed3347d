"""`modelwatch outbox`: what waits to be told to others, and what was given up."""

from __future__ import annotations

import argparse
import getpass
import json
import socket
from pathlib import Path
from typing import Any

from monitor import configfile
from monitor.config import Server
from monitor.deadletter.adminclient import TOKEN, AdminClient, token, url_of
from monitor.terminal import table

LIST, REPLAY, DROP = "/v1/outbox", "/v1/outbox/replay", "/v1/outbox/drop"


def add_to(commands: Any) -> None:
    """The arguments of the command. `commands`: what `add_subparsers` gives."""
    parser = commands.add_parser("outbox", help="messages to webhooks and to Grafana that wait, or that nobody took")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    listing = verbs.add_parser("list", help="those that wait or are dead, with the reason")
    listing.add_argument("--json", action="store_true", help="one JSON object a line")
    listing.set_defaults(do=_list)
    replay = verbs.add_parser("replay", help="have dead ones sent again")
    replay.set_defaults(do=_replay)
    drop = verbs.add_parser("drop", help="forget dead ones")
    drop.set_defaults(do=_drop)
    for verb in (replay, drop):
        verb.add_argument("sink", help="whose: the column sink of list, such as webhook:retrain or grafana")
        verb.add_argument("keys", nargs="*", help="of those, these (default: all)")
        verb.add_argument("--by", default=None, help="who asks, for the log (default: user@host)")
    for verb in (listing, replay, drop):
        verb.add_argument("--server", default=None, help="the push API, such as http://127.0.0.1:9710 (default: as in --config)")
        verb.add_argument("--config", type=Path, default=None, help="a config file that says where the daemon listens")
        verb.add_argument("--token-file", type=Path, default=None, help=f"holds a token of the role admin (or: {TOKEN})")
        verb.add_argument("--ca-file", type=Path, default=None, help="trust these certificates, PEM")


def _list(arguments: argparse.Namespace) -> int:
    with _client(arguments) as client:
        messages = client.read(LIST)["messages"]
    if arguments.json:
        for one in messages:
            print(json.dumps(one))
        return 0
    names = ("sink", "key", "state", "reason", "attempts", "put_at", "next_at")
    print(table(names, [[str(one[name] if one[name] is not None else "") for name in names] for one in messages]))
    return 0


def _replay(arguments: argparse.Namespace) -> int:
    print(f"{_asked(arguments, REPLAY)} messages are sent again")
    return 0


def _drop(arguments: argparse.Namespace) -> int:
    print(f"{_asked(arguments, DROP)} messages dropped")
    return 0


def _asked(arguments: argparse.Namespace, path: str) -> int:
    by = arguments.by or f"{getpass.getuser()}@{socket.gethostname()}"
    with _client(arguments) as client:
        done = client.ask(path, {"sink": arguments.sink, "keys": arguments.keys or None, "by": by})
    return int(done["messages"])


def _client(arguments: argparse.Namespace) -> AdminClient:
    server = configfile.load(arguments.config).server if arguments.config is not None else Server()
    authority = arguments.ca_file or (server.tls.cert_file if server.tls else None)
    return AdminClient(arguments.server or url_of(server), token=token(arguments.token_file), ca_file=authority)
