"""The whole daemon beside a Grafana: what it shows there through a restart of the one and an outage of the other."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from monitor.app import App
from tests.grafana.server import GrafanaServer
from tests.monitor.support import check, prediction, wait_for
from tests.monitor.test_app import NOWHERE, of, write

HIGH, LOW = 100.0, 1.0


class Traffic:
    """Predictions of now, a new one each time."""

    def __init__(self) -> None:
        self._n = 0

    def send(self, app: App, value: float) -> None:
        self._n += 1
        answer = of(app).send("predictions", prediction(f"r{self._n}", datetime.now(UTC), prediction=value))
        assert answer.status_code == 200, answer.text


def incidents(server: GrafanaServer) -> list[dict[str, Any]]:
    return [one for one in server.annotations if "incident" in one["tags"]]


def test_an_incident_is_one_region_through_an_outage_of_grafana_and_a_restart_of_the_daemon(tmp_path: Path) -> None:
    with GrafanaServer() as server:
        section = {"url": server.url, "token": "${file:token}", "timeout_seconds": 2, "datasource": {"url": "http://p:9090"}}
        (tmp_path / "token").write_text("glsa_admin")
        checks = [check("mean", every="1s", idle_timeout="1s")]
        server_section = {**NOWHERE, "intake_processes": 0}
        path = write(tmp_path, checks=checks, grafana=section, server=server_section)
        traffic, app = Traffic(), App(path)
        app.start()
        try:

            def shown(value: float, look: Any) -> Any:
                traffic.send(app, value)
                return look()

            wait_for(lambda: shown(HIGH, lambda: incidents(server)), "a region")
            wait_for(lambda: len(server.dashboards) >= 4 and server.datasources, "dashboards and datasource")
            wait_for(lambda: of(app).value("modelwatch_grafana_sync_last_success_timestamp_seconds"), "success in the metrics")
            assert of(app).value("modelwatch_outbox_messages", sink="grafana", state="waiting") == 0
            write(tmp_path, checks=checks, server=server_section, grafana=section | {"datasource": {"url": "http://other:9090"}})
            assert app.reload() is None
            wait_for(lambda: "other" in server.datasources["modelwatch-prometheus"]["url"], "the datasource of the new config")
            (region,) = [dict(one) for one in incidents(server)]
            server.stop()
            # Values keep coming: a window that nothing follows is closed much later.
            wait_for(lambda: shown(LOW, lambda: of(app).value("modelwatch_firing", check="mean") == 0), "its end", 30)
            app.stop()
            app = App(path)
            app.start()
            assert ": open" in incidents(server)[0]["text"], "Grafana knows nothing of its end"
            server.start()
            wait_for(lambda: ": resolved" in incidents(server)[0]["text"], "its end in Grafana", 30)
            (after,) = incidents(server)
            assert (after["id"], after["time"], after["tags"]) == (region["id"], region["time"], region["tags"])
            assert after["timeEnd"] > after["time"]
            server.next.extend(["hang"] * 20)
            traffic.send(app, HIGH)
            began = time.monotonic()
        finally:
            app.stop()
        assert time.monotonic() - began < 15, "a Grafana that hangs does not keep the daemon from ending"
    assert server.strange == []
