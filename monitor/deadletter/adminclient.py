"""Asks a running daemon's admin API, for the command line."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from monitor.config import Server
from monitor.errors import ModelwatchError

TOKEN = "MODELWATCH_TOKEN"  # the environment variable
TIMEOUT_SECONDS = 120.0
ATTEMPTS = 30


class AdminError(ModelwatchError):
    """The daemon was not reached, or refused. The message says where and what to do."""


class AdminClient:
    def __init__(
        self, url: str, *, token: str | None = None, ca_file: Path | None = None, wait: Callable[[float], Any] = time.sleep
    ) -> None:
        """`wait`: sleeps so many seconds.

        Raises:
            AdminError: the certificates cannot be read.
        """
        self._url = url.rstrip("/")
        self._wait = wait
        verify: ssl.SSLContext | bool = True
        if ca_file is not None:
            verify = ssl.create_default_context()
            try:
                verify.load_verify_locations(ca_file)
            except (OSError, ssl.SSLError) as exc:
                raise AdminError(f"{ca_file}: cannot be read as certificates ({exc}); name a PEM file with --ca-file") from exc
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(headers=headers, verify=verify, timeout=TIMEOUT_SECONDS, trust_env=False)

    def __enter__(self) -> AdminClient:
        return self

    def __exit__(self, *args: object) -> None:
        self._http.close()

    def steps(self, path: str, which: Mapping[str, Any], **more: Any) -> Iterator[dict[str, Any]]:
        """The answers to one request after the other, until nothing is left. `which`: a `Selection` as JSON.

        Raises:
            AdminError: see there. Asking again begins where this ended.
        """
        chosen = dict(which)
        limit = chosen.get("limit")
        while True:
            answer = self.ask(path, {"which": chosen, **more})
            yield answer
            chosen |= {"after": answer["next"], "until": answer["until"]}
            if limit is not None:
                limit -= answer["matched"]
                chosen["limit"] = limit
            if answer["next"] is None or limit == 0:
                return

    def read(self, path: str) -> dict[str, Any]:
        """What is there.

        Raises:
            AdminError: see there.
        """
        return self.ask(path, None)

    def ask(self, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                response = self._http.get(self._url + path) if body is None else self._http.post(self._url + path, json=body)
            except httpx.ConnectError as exc:
                raise AdminError(f"{self._url}: {_why(exc)}") from exc
            except httpx.HTTPError as exc:
                raise AdminError(
                    f"{self._url}: no answer ({type(exc).__name__}: {exc}); what was done is done: ask for the same again"
                ) from exc
            if response.status_code not in (429, 503) or attempt == ATTEMPTS:
                break
            self._wait(float(response.headers.get("Retry-After", "1")))
        return self._answer(response)

    def _answer(self, response: httpx.Response) -> dict[str, Any]:
        try:
            answer: Any = response.json()
        except ValueError:
            answer = None
        if response.status_code == 200 and isinstance(answer, dict):
            return answer
        if response.status_code == 401:
            raise AdminError(f"{self._url}: a token of the role admin is needed; put it into {TOKEN} or name --token-file")
        if response.status_code == 404:
            raise AdminError(f"{self._url}: no admin API there; name the push API's address (server.listen) with --server")
        said = answer.get("message") if isinstance(answer, dict) else response.text[:200]
        raise AdminError(f"{self._url}: {response.status_code}: {said}")


def url_of(server: Server) -> str:
    """Where a daemon with this config can be reached from the same machine."""
    host = server.host
    if host in ("0.0.0.0", "::", ""):
        host = "127.0.0.1" if host != "::" else "::1"
    shown = f"[{host}]" if ":" in host else host
    return f"{'https' if server.tls else 'http'}://{shown}:{server.port}"


def token(file: Path | None) -> str | None:
    """
    Raises:
        AdminError: the file cannot be read.
    """
    if file is None:
        return os.environ.get(TOKEN)
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise AdminError(f"{file}: cannot be read ({exc}); name a file that holds the token") from exc


def _why(exc: httpx.ConnectError) -> str:
    if "CERTIFICATE" in str(exc).upper():
        return f"its certificate is not trusted ({exc}); name its authority with --ca-file, or the right host with --server"
    return f"no daemon answers there ({exc}); start it with modelwatch run FILE, or say where it is with --server or --config"
