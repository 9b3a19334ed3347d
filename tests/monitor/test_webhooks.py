"""The webhook that tells others of an incident: what it says, how it is signed, and that it arrives in the end."""

from __future__ import annotations

import base64
import hashlib
import hmac
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson
import pytest

from monitor import configfile, faultpoints
from monitor.config import Config
from monitor.errors import ConfigError
from monitor.transaction import Transaction
from monitor.webhooks.config import Webhook
from monitor.webhooks.webhooks import Webhooks
from tests.monitor.support import MODELS, NOON, World, sample

SECRET = b"0123456789abcdef0123456789abcdef"
WHSEC = "whsec_" + base64.b64encode(SECRET).decode()


class Receiver:
    """Checks what is sent as the receiver of a Standard Webhook does, from `start` to `stop`."""

    def __init__(self) -> None:
        self.took: list[dict[str, Any]] = []
        self.wrong: list[str] = []
        self.answers: list[tuple[int, dict[str, str]]] = []  # the next ones; then 204
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                signed = f"{self.headers['webhook-id']}.{self.headers['webhook-timestamp']}.".encode() + body
                wanted = "v1," + base64.b64encode(hmac.digest(SECRET, signed, hashlib.sha256)).decode()
                if self.path != "/hook" or not hmac.compare_digest(wanted, self.headers["webhook-signature"]):
                    receiver.wrong.append(f"{self.path}: {self.headers['webhook-signature']}")
                status, headers = receiver.answers.pop(0) if receiver.answers else (204, {})
                if 200 <= status < 300:
                    receiver.took.append({"id": self.headers["webhook-id"], **orjson.loads(body)["data"]})
                self.send_response(status)
                for name, value in {"Content-Length": "0", **headers}.items():
                    self.send_header(name, value)
                self.end_headers()

            def do_GET(self) -> None:
                receiver.wrong.append("a redirect was followed")
                self.do_POST()

            def log_message(self, format: str, *args: object) -> None:
                """Not into the test's output."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/hook"

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    one = Receiver()
    yield one
    one.stop()
    assert one.wrong == []


Make = Callable[..., Webhooks]


@pytest.fixture
def webhooks() -> Iterator[Make]:
    made: list[Webhooks] = []

    def make(world: World, url: str, **more: Any) -> Webhooks:
        hooks = Webhooks(world.store, clock=world.clock, metrics=world.metrics)
        made.append(hooks)
        hooks.configure(with_hook(world.config, url, **more))
        return hooks

    yield make
    for one in made:
        one.stop()


def with_hook(config: Config, url: str, **more: Any) -> Config:
    given = {"name": "retrain", "url": url, "secret": WHSEC, **more}
    return config.model_copy(update={"webhooks": (Webhook.model_validate(given),)})


def opened(world: World, incident_id: str, **columns: Any) -> None:
    """A row of `incidents`, as a runner stores it."""
    row = {
        "incident_id": incident_id, "revision": 1, "check_name": "mean", "slice": "all", "state": "open", "severity": "warning",
        "opened_slot": NOON, "last_slot": NOON, "peak": 3.0, "received_at": world.clock.now(),
        "evidence": orjson.dumps({"statistic": "mean", "value": 3.0, "n_current": 7}).decode(), **columns,
    }  # fmt: skip

    def work(transaction: Transaction) -> None:
        transaction.append("incidents", "houses", {name: [value] for name, value in row.items()})

    world.store.run(work)


def failures(world: World, reason: str) -> float | None:
    return sample(world.metrics, "modelwatch_outbox_failures_total", sink="webhook:retrain", reason=reason)


def test_an_incident_that_opens_is_told_once_signed_and_linked(world: World, webhooks: Make, receiver: Receiver) -> None:
    opened(world, "before")
    hooks = webhooks(world, receiver.url)
    opened(world, "i1")
    opened(world, "i1", revision=2, state="resolved")
    hooks.step()
    hooks.step()
    (told,) = receiver.took
    assert told["id"] == "i1-opened"
    assert {name: told[name] for name in ("incident_id", "model", "check", "slice", "severity", "state", "value", "records")} == {
        "incident_id": "i1", "model": "houses", "check": "mean", "slice": "all", "severity": "warning", "state": "open",
        "value": 3.0, "records": 7,
    }  # fmt: skip
    assert told["url"].endswith("/incidents/i1")
    assert told["export"] == "modelwatch export-dataset i1"


@pytest.mark.parametrize(
    ("asked", "told"),
    (
        ({"severity": ["critical"]}, {"critical"}),
        ({"checks": ["other"]}, {"other"}),
        ({"models": ["bot"]}, set()),
        ({"slices": True}, {"plain", "critical", "other", "slice"}),
        ({}, {"plain", "critical", "other"}),
    ),
)
def test_only_what_is_asked_for_is_told(
    world: World, webhooks: Make, receiver: Receiver, asked: dict[str, Any], told: set[str]
) -> None:
    hooks = webhooks(world, receiver.url, **asked)
    opened(world, "plain")
    opened(world, "critical", severity="critical")
    opened(world, "other", check_name="other")
    opened(world, "slice", slice="nordics")
    hooks.step()
    assert {one["incident_id"] for one in receiver.took} == told


@pytest.mark.parametrize(
    ("status", "headers", "reason"),
    ((500, {}, "5xx"), (404, {}, "4xx"), (302, {"Location": "/hook"}, "3xx"), (429, {"Retry-After": "120"}, "429")),
)
def test_anything_but_2xx_is_tried_again_and_no_redirect_is_followed(
    world: World, webhooks: Make, receiver: Receiver, status: int, headers: dict[str, str], reason: str
) -> None:
    hooks = webhooks(world, receiver.url)
    receiver.answers = [(status, headers)]
    opened(world, "i1")
    hooks.step()
    assert (receiver.took, failures(world, reason)) == ([], 1)
    world.clock.move(60)
    hooks.step()
    assert bool(receiver.took) == (status != 429), "one that says when is not asked before"
    world.clock.move(60)
    hooks.step()
    assert [one["incident_id"] for one in receiver.took] == ["i1"]


def test_a_receiver_that_is_down_through_a_restart_hears_of_it_when_it_is_back(
    world: World, webhooks: Make, receiver: Receiver
) -> None:
    nobody = Receiver()
    nobody.stop()
    hooks = webhooks(world, nobody.url)
    opened(world, "i1")
    hooks.step()
    assert failures(world, "unreachable") == 1
    hooks.stop()
    world.restart()
    hooks = webhooks(world, receiver.url)
    opened(world, "i2")
    world.clock.move(5)
    hooks.step()
    assert [one["incident_id"] for one in receiver.took] == ["i1", "i2"]


def test_killed_after_it_was_sent_it_is_sent_again_under_the_same_id(world: World, webhooks: Make, receiver: Receiver) -> None:
    hooks = webhooks(world, receiver.url)
    opened(world, "i1")

    def die(name: str) -> None:
        if name == "outbox.sent":
            raise SystemExit

    faultpoints.arm(die)
    try:
        with pytest.raises(SystemExit):
            hooks.step()
    finally:
        faultpoints.arm(None)
    world.restart()
    webhooks(world, receiver.url).step()
    assert [one["id"] for one in receiver.took] == ["i1-opened", "i1-opened"]


def test_a_slow_receiver_is_given_up_after_its_time(world: World, webhooks: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hooks = webhooks(world, f"http://127.0.0.1:{silent.getsockname()[1]}/hook", timeout_seconds=1)
        opened(world, "i1")
        hooks.step()
    assert failures(world, "timeout") == 1


def test_in_the_end_it_is_dead_and_counted(world: World, webhooks: Make, receiver: Receiver) -> None:
    hooks = webhooks(world, receiver.url, give_up_seconds="1h")
    receiver.answers = [(503, {})] * 100
    opened(world, "i1")
    for _ in range(40):
        hooks.step()
        world.clock.move(300)
    assert sample(world.metrics, "modelwatch_outbox_messages", sink="webhook:retrain", state="dead") == 1
    assert receiver.took == []


def test_a_webhook_that_is_taken_out_has_no_series_and_one_that_changes_goes_on(
    world: World, webhooks: Make, receiver: Receiver
) -> None:
    hooks = webhooks(world, receiver.url)
    hooks.start()
    hooks.configure(with_hook(world.config, receiver.url, severity=["warning"]))
    hooks.configure(world.config)
    assert sample(world.metrics, "modelwatch_outbox_sent_total", sink="webhook:retrain") is None
    hooks.stop()


def test_one_that_is_put_back_into_the_config_is_not_told_of_what_was_long_ago(
    world: World, webhooks: Make, receiver: Receiver
) -> None:
    hooks = webhooks(world, receiver.url)
    hooks.configure(world.config)
    opened(world, "long ago")
    world.clock.move(4 * 86_400)
    opened(world, "just now")
    hooks.configure(with_hook(world.config, receiver.url))
    hooks.step()
    assert [one["incident_id"] for one in receiver.took] == ["just now"]


def test_a_change_that_cannot_be_made_leaves_the_webhook_as_it_was(
    world: World, webhooks: Make, receiver: Receiver, tmp_path: Path
) -> None:
    hooks = webhooks(world, receiver.url)
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(OSError, match=r"certificate"):
        hooks.configure(with_hook(world.config, "https://ci.example/hook", ca_file=tmp_path / "ca.pem"))
    opened(world, "i1")
    hooks.step()
    assert [one["incident_id"] for one in receiver.took] == ["i1"]


# --- the config ---


def problems(folder: Path, **webhook: Any) -> list[str]:
    path = folder / "monitor.yaml"
    (folder / "secret").write_text(webhook.pop("key", WHSEC))
    hook = {"name": "retrain", "url": "https://ci.example/hook", "secret": "${file:secret}", **webhook}
    path.write_bytes(orjson.dumps({"models": MODELS, "webhooks": [hook]}))
    try:
        configfile.load(path)
    except ConfigError as exc:
        return [one.removeprefix(f"{path}: ") for one in exc.problems]
    return []


@pytest.mark.parametrize(
    ("webhook", "told"),
    (
        ({"url": "ci.example/hook"}, "webhooks.0.url: 'ci.example/hook' is no URL of http or https"),
        ({"url": "https://me:pw@ci.example/"}, "webhooks.0.url: a user, password or fragment does not belong in the URL"),
        ({"url": "http://ci.example/hook"}, "webhooks.0: plain http to ci.example, another machine; use https"),
        ({"key": "hunter2"}, "webhooks.0.secret: a key of 7 bytes is too short; give at least 16"),
        ({"key": "whsec_!!!"}, "webhooks.0.secret: what follows whsec_ is not base64"),
        ({"checks": ["nope"]}, "webhooks.0.checks.0: no check or record rule 'nope'; there are none"),
        ({"models": ["nope"]}, "webhooks.0.models.0: no model 'nope'; there are bot, houses"),
        ({"ca_file": "gone.pem"}, "webhooks.0.ca_file:"),
        ({"ca_file": "secret"}, "webhooks.0.ca_file:"),
    ),
)
def test_a_wrong_webhook_is_told_with_its_place_and_what_to_do(tmp_path: Path, webhook: dict[str, Any], told: str) -> None:
    (problem,) = problems(tmp_path, **webhook)
    assert problem.startswith(told)


def test_a_secret_in_the_file_is_refused_and_not_shown(tmp_path: Path) -> None:
    found = problems(tmp_path, secret="hunter2")
    assert any("a secret does not stand in the config file" in one for one in found)
    assert "hunter2" not in " ".join(found)


def test_a_good_webhook_is_taken(tmp_path: Path) -> None:
    assert problems(tmp_path) == []
