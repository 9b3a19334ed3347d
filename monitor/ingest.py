"""`modelwatch ingest`: files of the past sent to the running daemon, through the push API, in batches that have names.

The name of a batch is made of its place in the file and of what is sent, so a run that is repeated, or was interrupted, sends
the same batches under the same names, and the daemon stores nothing twice.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any, TextIO

import httpx
import orjson
from tqdm import tqdm

from monitor.errors import ModelwatchError
from monitor.records import Reject
from monitor.sources.mapping import Columns
from monitor.sources.rowfiles import Format, Unreadable, format_of, read

BATCH_RECORDS = 1000
BATCH_BYTES = 4 * 2**20
ATTEMPTS = 30
MAX_WAIT_SECONDS = 10.0
SHOWN = 20


class IngestFailed(ModelwatchError):
    """The daemon cannot be reached, or refuses us. What was sent before is stored; run it again to go on."""


@dataclass(slots=True)
class Summary:
    accepted: int = 0
    duplicates: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)  # the first of them, with file and row

    @property
    def rejected(self) -> int:
        return self.reasons.total()

    def reject(self, place: str, reason: str, message: str) -> None:
        self.reasons[reason] += 1
        if len(self.errors) < SHOWN:
            self.errors.append(f"{place}: {reason}: {message}")

    def __str__(self) -> str:
        why = f" ({', '.join(f'{n} {reason}' for reason, n in self.reasons.most_common())})" if self.reasons else ""
        return f"{self.accepted} accepted, {self.duplicates} stored already, {self.rejected} rejected{why}"


class Ingest:
    """Sends files, one batch after the other, and waits for each to be durable."""

    def __init__(
        self, client: httpx.Client, kind: str, *, model: str | None, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._client = client
        self._kind = kind
        self._model = model
        self._sleep = sleep
        self.summary = Summary()

    def file(self, path: str, stdin: IO[bytes], columns: Columns, form: Format | None, progress: TextIO | None) -> None:
        """Send one file, or with `-` what stands on stdin.

        Raises:
            IngestFailed, OSError: see there.
        """
        name = "stdin" if path == "-" else path
        form = form or format_of(name) or ("jsonl" if path == "-" else None)
        if form is None:
            raise IngestFailed(f"{path}: its name does not say the format; give --format")
        if path == "-":
            # The index of Parquet stands at its end, so all of it is needed.
            self._read(io.BytesIO(stdin.read()) if form == "parquet" else stdin, name, columns, form, progress, None)
        else:
            with Path(path).open("rb") as file:
                self._read(file, name, columns, form, progress, Path(path).stat().st_size)

    def _read(
        self, file: IO[bytes], name: str, columns: Columns, form: Format, progress: TextIO | None, size: int | None
    ) -> None:  # fmt: skip
        with tqdm(total=size, desc=name, unit="B", unit_scale=True, file=progress, disable=progress is None) as bar:
            try:
                for first, batch in _batches(read(file, name, form, self._kind, columns)):
                    self._send(name, first, batch)
                    bar.update(min(size, file.tell()) - bar.n if size is not None else 0)
                    bar.set_postfix_str(f"{self.summary.accepted} accepted, {self.summary.rejected} rejected")
            except Unreadable as exc:
                self.summary.reject(name, "undecodable", str(exc))
            bar.update(size - bar.n if size is not None else 0)

    def _send(self, name: str, first: int, batch: Sequence[Any]) -> None:
        """`first`: the number of its first row in the file, from 1."""
        records = []
        rows = []
        for row, item in enumerate(batch, first):
            if isinstance(item, Reject):
                self.summary.reject(f"{name}:{row}", item.reason, item.message)
            else:
                records.append(item)
                rows.append(row)
        if not records:
            return
        # orjson would write null for an infinity, and nobody would hear of it; the daemon refuses it by name.
        body = json.dumps(records).encode() if any(map(_infinite, records)) else orjson.dumps(records)
        digest = hashlib.sha256(f"{self._kind}\n{self._model}\n{first}\n".encode() + body).hexdigest()
        answer = self._post(body, f"ingest-{digest[:48]}")
        if answer.get("replayed"):  # the daemon says what it said the first time
            self.summary.duplicates += answer["accepted"] + answer["duplicates"]
        else:
            self.summary.accepted += answer["accepted"]
            self.summary.duplicates += answer["duplicates"]
        for error in answer["errors"]:
            self.summary.reject(f"{name}:{rows[error['index']]}", error["reason"], error["message"])
        if more := answer.get("errors_not_shown"):
            self.summary.reasons["not_shown"] += more

    def _post(self, body: bytes, key: str) -> dict[str, Any]:
        headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        params = {"model": self._model} if self._model else {}
        trouble = ""
        for attempt in range(ATTEMPTS):
            wait = min(0.5 * 2**attempt, MAX_WAIT_SECONDS)
            try:
                response = self._client.post(f"/v1/{self._kind}", content=body, headers=headers, params=params)
            except httpx.TransportError as exc:
                trouble = f"{type(exc).__name__}: {exc}"
            else:
                if response.status_code in (200, 422) and "accepted" in (answer := response.json()):
                    return answer  # type: ignore[no-any-return]
                if response.status_code == 401:
                    needed = "a token of the role ingest is needed; put it into MODELWATCH_TOKEN or name --token-file"
                    raise IngestFailed(f"{self._client.base_url}: {needed}")
                trouble = f"{response.status_code}: {response.text[:500].strip()}"
                if response.status_code not in (429, 502, 503, 504):
                    raise IngestFailed(f"{self._client.base_url}: {trouble}")
                retry = response.headers.get("Retry-After", "")
                wait = float(retry) if retry.isdigit() else wait
            self._sleep(wait)
        raise IngestFailed(f"{self._client.base_url}: gave up after {ATTEMPTS} attempts: {trouble}")


def _batches(rows: Iterator[Any]) -> Iterator[tuple[int, list[Any]]]:
    """Batches of a bounded size with the number of their first row. The cuts depend on the rows alone, so that they are the
    same in every run."""
    first, failure = 1, None
    while failure is None:
        batch: list[Any] = []
        size = 0
        try:
            for row in islice(rows, BATCH_RECORDS):
                batch.append(row)
                size += 0 if isinstance(row, Reject) else len(orjson.dumps(row))
                if size >= BATCH_BYTES:
                    break
        except Unreadable as exc:  # after the rows before the damage
            failure = exc
        if batch:
            yield first, batch
        elif failure is None:
            return
        first += len(batch)
    raise failure


def _infinite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isinf(value)
    if isinstance(value, dict):
        return any(map(_infinite, value.values()))
    return isinstance(value, list) and any(map(_infinite, value))
