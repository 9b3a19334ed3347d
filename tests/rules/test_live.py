"""All rules in a Prometheus that scrapes two daemons with the same models: none of them ends in an error, as one with two series
where one is expected does. promtool passes over that."""

from __future__ import annotations

import json
import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitor.demo.stack import Process, program, prometheus_config, ready
from monitor.demo.stop import Stop
from tests.rules.reading import FILES

PAGE = (
    (Path(__file__).parents[1] / "golden" / "metrics.txt").read_text(encoding="utf-8").replace(" ...\n", " 0\n")
)  # what varies there
BUDGET = 'model="bot",environment="all",prompt="all",period="day"'
MORE = "\n".join(
    [
        *(f"modelwatch_budget_{name}{{{BUDGET}}} {value}" for name, value in (
            ("limit_usd", 10), ("spent_usd", 11), ("limit_tokens", 10), ("spent_tokens", 1),
            ("period_start_timestamp_seconds", 0), ("period_end_timestamp_seconds", 4e9),
        )),
        f'modelwatch_budget_unknown_calls{{{BUDGET},unit="usd"}} 1',
        'vllm:num_requests_waiting{model_name="llama"} 30',
        'vllm:num_requests_running{model_name="llama"} 3',
        'vllm:kv_cache_usage_perc{model_name="llama"} 0.5',
        'vllm:gpu_cache_usage_perc{model_name="llama"} 0.5',
        'DCGM_FI_DEV_FB_USED{gpu="0",Hostname="a"} 10',
        'DCGM_FI_DEV_FB_FREE{gpu="0",Hostname="a"} 10',
        'DCGM_FI_DEV_FB_USED{gpu="1",Hostname="a"} 10',
        'DCGM_FI_DEV_FB_FREE{gpu="1",Hostname="a"} 10',
        "",
    ]
)  # fmt: skip


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = (PAGE + MORE).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads it."""


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("live")
    with ExitStack() as stack:
        targets = []
        for _ in range(2):
            server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), Page))
            threading.Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.shutdown)
            targets.append(f"127.0.0.1:{server.server_port}")
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            address = f"127.0.0.1:{free.getsockname()[1]}"
        config = prometheus_config(targets[0], "127.0.0.1:9", FILES, 1)
        config["scrape_configs"][0]["static_configs"][0]["targets"] = targets
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        process = Process(
            "prometheus",
            [program("prometheus"), f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
             f"--web.listen-address={address}"],
            folder / "prometheus.log",
        )  # fmt: skip
        process.start()
        stack.callback(process.stop)
        stack.callback(process.terminate)
        ready(process, address, Stop())
        yield address


def rules(prometheus: str) -> list[dict[str, Any]]:
    with urllib.request.urlopen(f"http://{prometheus}/api/v1/rules", timeout=10) as answer:
        return [rule for group in json.load(answer)["data"]["groups"] for rule in group["rules"]]


def test_every_rule_can_be_evaluated_where_two_daemons_watch_the_same(prometheus: str) -> None:
    def firing() -> bool:
        # By then all groups have been evaluated on data.
        states = {rule["name"]: rule.get("state") for rule in rules(prometheus)}
        return states["ModelwatchBudgetSpent"] == "firing" and all(rule["health"] != "unknown" for rule in rules(prometheus))

    Stop().wait_for("a budget to be spent, and all rules to be evaluated", firing, 60)
    assert {rule["name"]: rule.get("lastError", "") for rule in rules(prometheus) if rule["health"] != "ok"} == {}
