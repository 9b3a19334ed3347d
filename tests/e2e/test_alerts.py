"""Records in, alerts out, with a real Prometheus and a real Alertmanager, and what a dead daemon does to them."""

from __future__ import annotations

import json
import time
from functools import partial
from typing import Any

import pytest

from monitor.demo.story import sql
from tests.e2e.conftest import DRIFT, UNGUARDED, UNSUPPORTED, Running

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

FIRING, DOWN = "ModelwatchCheckFiring", "ModelwatchDown"
BOTH = (DRIFT, UNSUPPORTED)
SECONDS = 60.0


def ask(running: Running, query: str) -> list[dict[str, Any]]:
    code, output = sql(running.stack, query, "json")
    assert code == 0, output
    return [json.loads(line) for line in output.splitlines()]


def test_drift_and_unsupported_answers_reach_alertmanager_and_its_receiver(running: Running) -> None:
    stack, webhook, stop = running.stack, running.webhook, running.stop
    for check in BOTH:
        stop.wait_for(f"alert of {check}", partial(stack.firing, FIRING, check=check), SECONDS)
        stop.wait_for(f"word of {check}", partial(webhook.told, "firing", FIRING, check=check), SECONDS)
    alert = stack.firing(FIRING, check=UNSUPPORTED)
    assert alert is not None
    assert alert["status"]["state"] == "active"
    assert (alert["labels"]["model"], alert["labels"]["severity"]) == ("support-bot", "critical")


def test_the_incidents_records_are_found_by_the_query_it_keeps(running: Running) -> None:
    def evidence(check: str) -> dict[str, Any] | None:
        found = ask(running, f"SELECT evidence FROM incidents WHERE check_name = '{check}' ORDER BY revision DESC LIMIT 1")
        return json.loads(found[0]["evidence"]) if found else None

    kept = {check: running.stop.wait_for(f"incident of {check}", partial(evidence, check), SECONDS) for check in BOTH}

    answers = ask(running, kept[UNSUPPORTED]["sql"])
    assert len(answers) == kept[UNSUPPORTED]["n_current"]
    values = [answer["value"] for answer in answers]
    assert values == sorted(values), "the worst come first"
    assert answers[0]["prompt_version"] == "8"

    predictions = ask(running, kept[DRIFT]["sql"])
    assert len(predictions) == kept[DRIFT]["n_current"]
    assert kept[DRIFT]["parts"][0]["name"] in ("temp", "atemp")


def test_a_killed_daemon_resolves_nothing_and_is_missed(running: Running) -> None:
    stack, webhook, stop = running.stack, running.webhook, running.stop
    for check in BOTH:
        stop.wait_for(f"alert of {check}", partial(stack.firing, FIRING, check=check), SECONDS)
        stop.wait_for(f"naive alert of {check}", partial(webhook.told, "firing", UNGUARDED, check=check), SECONDS)
    assert webhook.told("firing", DOWN) == webhook.told("resolved", UNGUARDED) == []
    since = time.time()

    stack.daemon.kill()
    # How long is long enough: until the naive rule has told everybody that all is well again, which it is not.
    stop.wait_for("the naive all-clear", lambda: len(webhook.told("resolved", UNGUARDED)) >= len(BOTH), SECONDS)
    stop.wait_for("the alert on the daemon itself", lambda: webhook.told("firing", DOWN), SECONDS)
    assert [check for check in BOTH if stack.firing(FIRING, check=check) is None] == []

    stack.start_daemon(stop)
    stop.wait_for("the daemon to be missed no longer", lambda: webhook.told("resolved", DOWN), SECONDS)
    assert [check for check in BOTH if stack.firing(FIRING, check=check) is None] == []
    assert webhook.told("resolved", FIRING) == []
    for check in BOTH:
        assert gaps(running, check, since) == []


def gaps(running: Running, check: str, since: float) -> list[float]:
    """Seconds since then in which Prometheus did not hold the alert to be firing."""
    query = f'ALERTS{{alertname="{FIRING}", alertstate="firing", check="{check}"}}'
    until = time.time() - 1
    found = running.stack.query("query_range", query=query, start=f"{since}", end=f"{until}", step="1")["result"]
    held = {round(when - since) for series in found for when, _ in series["values"]}
    return [second for second in range(int(until - since) + 1) if second not in held]
