"""`modelwatch report`: an incident's page of charts, asked of the running daemon and written to a file."""

from __future__ import annotations

import argparse
import os
import re
import ssl
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from monitor import configfile
from monitor.config import Server
from monitor.deadletter.adminclient import TOKEN, token, url_of
from monitor.errors import ModelwatchError

TIMEOUT_SECONDS = 240.0  # a page waits for those before it
ATTEMPTS = 5


class ReportError(ModelwatchError):
    """There is no page, or it cannot be written. The message says why and what to do."""


def add_to(commands: Any) -> None:
    """The arguments of the command. `commands`: what `add_subparsers` gives."""
    parser = commands.add_parser("report", help="charts of an incident's rows, as one HTML file that needs no network")
    parser.add_argument("incident", metavar="INCIDENT", help="its id: modelwatch sql 'SELECT incident_id FROM incidents'")
    parser.add_argument("--out", type=Path, default=None, help="write it here (default: INCIDENT.html); - is stdout")
    parser.add_argument("--server", default=None, help="the push API, such as http://127.0.0.1:9710 (default: as in --config)")
    parser.add_argument("--config", type=Path, default=None, help="a config file that says where the daemon listens")
    parser.add_argument("--token-file", type=Path, default=None, help=f"holds a token of the role query (or: {TOKEN})")
    parser.add_argument("--ca-file", type=Path, default=None, help="trust these certificates, PEM")
    parser.set_defaults(do=_run)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.config is not None:
        server = configfile.load(arguments.config).server
    else:
        server = Server()
    out = arguments.out or Path(f"{re.sub(r'[^A-Za-z0-9_.-]', '_', arguments.incident)}.html")
    verify: ssl.SSLContext | bool = True
    if arguments.ca_file is not None:
        try:
            verify = ssl.create_default_context(cafile=str(arguments.ca_file))
        except (OSError, ssl.SSLError) as exc:
            raise ReportError(f"{arguments.ca_file}: cannot be read as certificates ({exc}); name a PEM file") from exc
    key = token(arguments.token_file)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with httpx.Client(headers=headers, verify=verify, timeout=TIMEOUT_SECONDS, trust_env=False) as client:
        page = fetch(client, (arguments.server or url_of(server)).rstrip("/"), arguments.incident)
    if str(out) == "-":
        sys.stdout.buffer.write(page)
        return 0
    try:
        out.write_bytes(page)
    except OSError as exc:
        raise ReportError(f"{out}: cannot be written ({exc.strerror}); name another file with --out") from exc
    print(f"{os.fspath(out)}: {len(page):,} bytes")
    return 0


def fetch(client: httpx.Client, url: str, incident: str, wait: Callable[[float], Any] = time.sleep) -> bytes:
    """The page.

    Raises:
        ReportError: the daemon was not reached, or has none.
    """
    if not re.fullmatch(r"[\w.-]{1,200}", incident):
        raise ReportError(
            f"{incident!r:.100} is no id of an incident; modelwatch sql 'SELECT incident_id FROM incidents' has them"
        )
    for attempt in range(1, ATTEMPTS + 1):
        try:
            response = client.get(f"{url}/v1/incidents/{incident}/report")
        except httpx.HTTPError as exc:
            raise ReportError(
                f"{url}: no answer ({type(exc).__name__}: {exc}); start the daemon with modelwatch run FILE, or say where it is "
                "with --server or --config"
            ) from exc
        if response.status_code not in (429, 503) or attempt == ATTEMPTS:
            break
        wait(float(response.headers.get("Retry-After", "1")))
    if response.status_code == 200:
        return response.content
    if response.status_code == 401:
        raise ReportError(f"{url}: a token of the role query is needed; put it into {TOKEN} or name --token-file")
    try:
        said = response.json()["message"]
    except (ValueError, KeyError, TypeError):
        said = response.text[:200]
    raise ReportError(f"{url}: {response.status_code}: {said}")
