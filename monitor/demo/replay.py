"""Sends batches to the push API, each again and again until it is acknowledged."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Sequence
from typing import Any

from tqdm import tqdm

from monitor.demo.data import Batch
from monitor.demo.stop import Stop

AGAIN_SECONDS = 0.2
TIMEOUT_SECONDS = 30.0


class Refused(Exception):
    """The daemon answered, and sending the batch again would not help."""


class Client:
    """One connection, kept open. What it posts is stored once it returns, however often the daemon died meanwhile."""

    def __init__(self, address: str, stop: Stop, *, before_again: Callable[[], None] = lambda: None) -> None:
        """`before_again` may raise, where there is no use in going on."""
        self._before_again = before_again
        self._connection = http.client.HTTPConnection(address, timeout=TIMEOUT_SECONDS)
        self._stop = stop
        self.resent = 0

    def post(self, batch: Batch) -> dict[str, Any]:
        """The daemon's answer.

        Raises:
            Refused: with another answer than 2xx, 422 (each record is in the dead letter), 429 or 503.
            Stopped: while it waited.
        """
        body = json.dumps(batch.records).encode()
        while True:
            try:
                self._connection.request(
                    "POST", f"/v1/{batch.kind}?model={batch.model}", body, {"Content-Type": "application/json"}
                )
                response = self._connection.getresponse()
                answer = response.read()
            except (OSError, http.client.HTTPException):
                # No answer is no word on whether it was stored: send it again, it will be taken once.
                self._connection.close()
            else:
                if response.status in (200, 422):
                    return json.loads(answer)  # type: ignore[no-any-return]
                if response.status not in (429, 503):
                    raise Refused(f"{batch.kind}: {response.status} {answer.decode(errors='replace')[:500]}")
            self.resent += 1
            self._before_again()
            self._stop.wait(AGAIN_SECONDS)

    def close(self) -> None:
        self._connection.close()


def replay(client: Client, batches: Sequence[Batch], title: str) -> None:
    """Post all of it, with a progress bar where there is a terminal.

    Raises:
        Refused: also when a single record was rejected: the demo's data is good.
    """
    total = sum(len(batch.records) for batch in batches)
    with tqdm(total=total, desc=title, unit=" records", disable=None, leave=True) as bar:
        for batch in batches:
            answer = client.post(batch)
            if answer["rejected"]:
                raise Refused(f"{batch.kind}: {answer['rejected']} records rejected: {answer['errors'][:3]}")
            bar.update(len(batch.records))
