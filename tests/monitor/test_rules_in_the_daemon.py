"""A leaked secret, through the daemon as it is started: to the metric, the webhook and the auditors' views, once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from monitor.app import App
from tests.monitor.support import generation, wait_for
from tests.monitor.test_app import of, past, start, write  # noqa: F401
from tests.monitor.test_recordrules import KEY
from tests.monitor.test_webhooks import WHSEC, Receiver, receiver  # noqa: F401


def test_a_leaked_secret_fires_is_told_to_others_and_outlives_a_restart(
    start: Callable[..., App],  # noqa: F811
    receiver: Receiver,  # noqa: F811
    tmp_path: Path,
) -> None:
    (tmp_path / "secret").write_text(WHSEC)
    rule = {"name": "leaked", "model": "bot", "masked": ["key"], "owner": "security"}
    hook = {"name": "retrain", "url": receiver.url, "secret": "${file:secret}", "checks": ["leaked"]}
    sections: dict[str, Any] = {"record_rules": [rule], "webhooks": [hook]}
    app = start(**sections)
    running = of(app)
    assert running.value("modelwatch_firing", check="leaked") == 0
    sent = running.send("generations", generation("leak", past(5), response=f"use {KEY}"))  # opened by a process of its own
    assert sent.status_code == 200, sent.text
    wait_for(lambda: running.value("modelwatch_firing", check="leaked", severity="critical", owner="security") == 1, "it to fire")
    wait_for(lambda: receiver.took, "the webhook")
    wait_for(lambda: running.value("modelwatch_outbox_sent_total", sink="webhook:retrain") == 1, "the webhook to be counted")
    app.stop()

    again = start(**sections)
    assert of(again).value("modelwatch_firing", check="leaked") == 1, "as of the first scrape"
    write(tmp_path, checks=[])
    assert again.reload() is None
    assert of(again).value("modelwatch_firing", check="leaked") is None
    assert of(again).value("modelwatch_outbox_sent_total", sink="webhook:retrain") is None
    assert [one["check"] for one in receiver.took] == ["leaked"]
