"""What the stack of the compose file must do, asked of its own addresses: records in, a verdict, an alert, and it all once more
after a restart. `tests.image.rehearse` and `tests.image.compose` tell it."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

PATIENCE = 180.0
SLOT = timedelta(minutes=15)  # of the check support-bot-unsupported in modelwatch.yaml
ANSWERS = 60


@dataclass(frozen=True)
class Addresses:
    push: str = "http://127.0.0.1:9710"
    prometheus: str = "http://127.0.0.1:9090"
    alertmanager: str = "http://127.0.0.1:9093"


LOCAL = Addresses()


def tell(at: Addresses) -> None:
    """Sends answers that their passages say nothing of, and waits for the page.

    Raises:
        TimeoutError: names what did not come.
    """
    rows = answers(datetime.now(UTC))
    answer = ask(f"{at.push}/v1/generations", rows)
    assert answer["accepted"] == len(rows), answer
    wait("Prometheus to scrape the daemon", lambda: value(at, 'up{job="modelwatch"} == 1'))
    wait("a reading of the check", lambda: value(at, 'modelwatch_reading{check="support-bot-unsupported"}'))
    wait("the check to fire", lambda: value(at, 'modelwatch_firing{check="support-bot-unsupported"} == 1'))
    wait("the alert in Alertmanager", lambda: firing(at))


def told_before(at: Addresses) -> None:
    """After a restart on the same volume the check fires at once, and nothing is taken twice."""
    wait("the check to fire after the restart", lambda: value(at, 'modelwatch_firing{check="support-bot-unsupported"} == 1'))
    assert firing(at), "the alert resolved although nothing got better"


def answers(now: datetime) -> list[dict[str, Any]]:
    """Of the last whole window, and one after its end: that one tells the daemon that the window is over."""
    seconds = SLOT.total_seconds()
    end = datetime.fromtimestamp((now.timestamp() - 60) // seconds * seconds, UTC)
    times = [end - timedelta(minutes=50) + n * timedelta(minutes=49) / ANSWERS for n in range(ANSWERS)]
    return [
        {
            "record_id": f"rehearsal-{end:%Y%m%dT%H%M}-{n}",
            "model": "support-bot",
            "timestamp": when.isoformat(),
            "question": "When was the bridge over the river opened?",
            "contexts": ["The bakery on the corner sells bread, rolls and cakes from six in the morning."],
            "response": f"The bridge was opened in 19{n:02d} by the mayor, and a ferry had crossed there for {n + 3} years.",
        }
        for n, when in enumerate([*times, end + timedelta(seconds=1)])
    ]


def ask(url: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)


def value(at: Addresses, query: str) -> list[Any]:
    from urllib.parse import quote

    found: list[Any] = ask(f"{at.prometheus}/api/v1/query?query={quote(query)}")["data"]["result"]
    return found


def firing(at: Addresses) -> list[Any]:
    alerts = ask(f"{at.alertmanager}/api/v2/alerts")
    return [a for a in alerts if a["labels"].get("check") == "support-bot-unsupported" and a["status"]["state"] == "active"]


def wait(what: str, look: Callable[[], Any]) -> None:
    began = time.monotonic()
    problem = ""
    while time.monotonic() - began < PATIENCE:
        try:
            if look():
                print(f"== {what}: {time.monotonic() - began:.1f} s", flush=True)
                return
        except OSError as exc:
            problem = f" ({exc})"
        time.sleep(1)
    raise TimeoutError(f"waited {PATIENCE:.0f} s for {what}{problem}")
