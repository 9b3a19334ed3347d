"""Records in, pages out, with a real Prometheus and a real Alertmanager, and what dead programs do to them."""

from __future__ import annotations

import json
import time
import urllib.request
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from monitor.demo.stack import fetch, ready
from monitor.demo.story import sql
from tests.e2e.conftest import DRIFT, RELEASED, UNGUARDED, UNSUPPORTED, WATCHES, Running

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PAGE, FIRING, DOWN = "ModelwatchCaseOpen", "ModelwatchCheckFiring", "ModelwatchDown"
CHECKS = {DRIFT: "bike-rental", UNSUPPORTED: "support-bot"}
MODELS = (*CHECKS.values(), RELEASED)
SECONDS = 240.0  # until it hangs: on two busy processors the scorer, which is nice, is the last to get any


def ask(running: Running, query: str) -> list[dict[str, Any]]:
    code, output = sql(running.stack, query, "json")
    assert code == 0, output
    return [json.loads(line) for line in output.splitlines()]


def paged(running: Running, *models: str) -> None:
    for model in models or MODELS:
        running.stop.wait_for(f"page of {model}", partial(running.webhook.told, "firing", PAGE, model=model), SECONDS)


def test_drift_and_unsupported_answers_reach_alertmanager_and_its_receiver(running: Running) -> None:
    stack, stop = running.stack, running.stop
    for check in CHECKS:
        stop.wait_for(f"alert of {check}", partial(stack.firing, FIRING, check=check), SECONDS)
    paged(running)
    alert = stack.firing(PAGE, model="support-bot")
    assert alert is not None
    assert alert["status"]["state"] == "active"
    assert (alert["labels"]["severity"], alert["receivers"]) == ("critical", [{"name": "on-call"}])
    assert alert["annotations"]["case_url"].startswith(f"http://{stack.push}/cases?model=")
    with urllib.request.urlopen(alert["annotations"]["case_url"], timeout=10) as page:
        assert "Case of support-bot" in page.read().decode(), "the link leads to the case"


def test_a_bad_release_with_thirty_checks_that_fire_is_one_notification(running: Running) -> None:
    stack, webhook, stop = running.stack, running.webhook, running.stop

    def all_fire() -> bool:
        found = [a for a in stack.alerts() if a["labels"]["alertname"] == FIRING and a["labels"]["model"] == RELEASED]
        return len(found) == WATCHES

    stop.wait_for("every alert of the release", all_fire, SECONDS)
    paged(running, RELEASED)
    (case,) = fetch(f"http://{stack.push}/v1/cases?model={RELEASED}")["cases"]
    whole = fetch(f"http://{stack.push}/v1/cases/{case['case_id']}")
    assert (whole["incident_count"], whole["severity"], whole["owners"]) == (WATCHES, "critical", ["ann"])
    assert whole["causes"]["checks"][0]["check"] == "watch-0", "the furthest beyond its threshold"
    assert [(one["what"], one["value"]) for one in whole["changes"]] == [("model_version", "2")]
    # The naive rule pages for each check: that is what is to be avoided.
    (notification,) = [n for n in webhook.about(RELEASED) if n["groupLabels"]["alertname"] != UNGUARDED]
    (alert,) = notification["alerts"]
    assert (notification["receiver"], alert["labels"]["alertname"], alert["labels"]["owner"]) == ("on-call", PAGE, "ann")


def test_the_incidents_records_are_found_by_the_query_it_keeps(running: Running) -> None:
    def evidence(check: str) -> dict[str, Any] | None:
        found = ask(running, f"SELECT evidence FROM incidents WHERE check_name = '{check}' ORDER BY revision DESC LIMIT 1")
        return json.loads(found[0]["evidence"]) if found else None

    kept = {check: running.stop.wait_for(f"incident of {check}", partial(evidence, check), SECONDS) for check in CHECKS}

    answers = ask(running, kept[UNSUPPORTED]["sql"])
    assert len(answers) == kept[UNSUPPORTED]["n_current"]
    values = [answer["value"] for answer in answers]
    assert values == sorted(values), "the worst come first"
    assert answers[0]["prompt_version"] == "8"
    (number,) = ask(running, kept[UNSUPPORTED]["number_sql"])
    assert number["value"] == kept[UNSUPPORTED]["value"]

    predictions = ask(running, kept[DRIFT]["sql"])
    assert len(predictions) == kept[DRIFT]["n_current"]
    assert kept[DRIFT]["parts"][0]["name"] in ("temp", "atemp")


def test_a_killed_daemon_resolves_nothing_and_is_missed(running: Running) -> None:
    stack, webhook, stop = running.stack, running.webhook, running.stop
    paged(running)
    for check in CHECKS:
        stop.wait_for(f"naive alert of {check}", partial(webhook.told, "firing", UNGUARDED, check=check), SECONDS)
    assert webhook.told("firing", DOWN) == webhook.told("resolved", UNGUARDED) == []
    since = time.time()

    stack.daemon.kill()
    # How long is long enough: until the naive rule has told everybody that all is well again, which it is not.
    stop.wait_for("the naive all-clear", lambda: len(webhook.told("resolved", UNGUARDED)) >= len(CHECKS), SECONDS)
    stop.wait_for("the alert on the daemon itself", lambda: webhook.told("firing", DOWN), SECONDS)
    stop.wait_for("pages that are shown as suppressed", lambda: states(running) == {"suppressed"}, SECONDS)
    for model in MODELS:
        alert = stack.firing(PAGE, model=model)
        assert alert is not None
        assert alert["status"]["inhibitedBy"] != []
    assert [check for check in CHECKS if stack.firing(FIRING, check=check) is None] == []

    stack.start_daemon(stop)
    stop.wait_for("the daemon to be missed no longer", lambda: webhook.told("resolved", DOWN), SECONDS)
    stop.wait_for("pages that are active again", lambda: states(running) == {"active"}, SECONDS)
    assert webhook.told("resolved", PAGE) == webhook.told("resolved", FIRING) == []
    for check in CHECKS:
        assert gaps(running, FIRING, since, check=check) == []
    for model in MODELS:
        assert gaps(running, PAGE, since, model=model) == []


def test_pages_and_silences_outlive_prometheus_and_alertmanager(running: Running) -> None:
    stack, webhook, stop = running.stack, running.webhook, running.stop
    paged(running)
    told = len(webhook.told("firing", PAGE))
    silence(running, RELEASED)
    stop.wait_for("the silence", lambda: state(running, RELEASED) == "suppressed", SECONDS)

    stack.prometheus.stop()
    stack.prometheus.start()
    ready(stack.prometheus, stack.prometheus_at, stop)
    stop.wait_for("the rules to be evaluated again", lambda: firing_in_prometheus(running) == set(MODELS), SECONDS)
    assert (state(running, RELEASED), state(running, "support-bot")) == ("suppressed", "active")

    for process in (stack.prometheus, stack.alertmanager):
        process.stop()
    for process, address in ((stack.alertmanager, stack.alertmanager_at), (stack.prometheus, stack.prometheus_at)):
        process.start()
        ready(process, address, stop)
    stop.wait_for("the pages to be back", lambda: all(stack.firing(PAGE, model=model) for model in MODELS), SECONDS)
    stop.wait_for("the silence to hold still", lambda: state(running, RELEASED) == "suppressed", SECONDS)
    assert webhook.told("resolved", PAGE) == []
    assert len(webhook.told("firing", PAGE)) == told, "nobody is told again what they know"


def silence(running: Running, model: str) -> None:
    now = datetime.now(UTC)
    body = {
        "matchers": [{"name": "model", "value": model, "isRegex": False}],
        "startsAt": now.isoformat(),
        "endsAt": (now + timedelta(hours=1)).isoformat(),
        "createdBy": "ann",
        "comment": "known",
    }
    request = urllib.request.Request(
        f"http://{running.stack.alertmanager_at}/api/v2/silences", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        assert response.status == 200


def state(running: Running, model: str) -> str | None:
    alert = running.stack.firing(PAGE, model=model)
    return None if alert is None else str(alert["status"]["state"])


def states(running: Running) -> set[str | None]:
    return {state(running, model) for model in MODELS}


def firing_in_prometheus(running: Running) -> set[str]:
    found = running.stack.query("query", query=f'ALERTS{{alertname="{PAGE}", alertstate="firing"}}')["result"]
    return {series["metric"]["model"] for series in found}


def gaps(running: Running, name: str, since: float, **labels: str) -> list[float]:
    """Seconds since then in which Prometheus did not hold the alert to be firing."""
    wanted = "".join(f', {label}="{value}"' for label, value in labels.items())
    query = f'ALERTS{{alertname="{name}", alertstate="firing"{wanted}}}'
    until = time.time() - 1
    found = running.stack.query("query_range", query=query, start=f"{since}", end=f"{until}", step="1")["result"]
    held = {round(when - since) for series in found for when, _ in series["values"]}
    return [second for second in range(int(until - since) + 1) if second not in held]
