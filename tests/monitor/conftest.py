from __future__ import annotations

import contextlib
import logging
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from monitor.auth import Tokens
from monitor.config import Tls
from monitor.deadletter.admin import Admin
from monitor.deadletter.replay import Replayer
from monitor.metrics import Metrics
from monitor.outboxadmin import OutboxAdmin
from monitor.receiving import Budget
from monitor.server import PushServer
from tests.monitor.support import Door, FakeClock, World


@pytest.fixture(autouse=True)
def _log_as_it_was() -> Iterator[None]:
    """The command line sets logging up for a whole process."""
    loggers = [logging.getLogger(name) for name in ("modelwatch", "apscheduler")]
    before = [(one.handlers[:], one.level, one.propagate) for one in loggers]
    yield
    for one, (handlers, level, propagate) in zip(loggers, before, strict=True):
        one.handlers[:], one.propagate = handlers, propagate
        one.setLevel(level)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


@pytest.fixture
def make_world(tmp_path: Path, clock: FakeClock) -> Iterator[Callable[..., World]]:
    """Worlds with other settings; all are closed at the end."""
    made: list[World] = []

    def make(root: Path = tmp_path / "store", **sections: Any) -> World:
        made.append(World(root, clock, **sections))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    return make_world()


@contextlib.contextmanager
def doors() -> Iterator[Callable[..., Door]]:
    with contextlib.ExitStack() as stack:

        def make(world: World, tokens: Path | None = None) -> Door:
            config = world.config.server
            budget = Budget(config.bodies_bytes)
            server = PushServer(
                config,
                world.inbox,
                tokens=Tokens(tokens),
                budget=budget,
                clock=world.clock,
                metrics=world.metrics,
                admin=Admin(Replayer(world.store, world.inbox, metrics=world.metrics)),
                outbox=OutboxAdmin(world.store, clock=world.clock, metrics=world.metrics),
            )
            server.start()
            stack.callback(server.stop)
            client = stack.enter_context(httpx.Client(base_url=f"http://{server.address}", timeout=30))
            return Door(world, server, client)

        yield make


@pytest.fixture
def make_door(make_world: Callable[..., World]) -> Iterator[Callable[..., Door]]:
    """Worlds that can be reached by HTTP."""
    with doors() as open_door:

        def make(tokens: Path | None = None, server: Mapping[str, Any] = {}, **sections: Any) -> Door:
            return open_door(make_world(server={**server, "listen": "127.0.0.1:0"}, **sections), tokens)

        yield make


@pytest.fixture
def door(make_door: Callable[..., Door]) -> Door:
    return make_door()


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    if not (openssl := shutil.which("openssl")):
        pytest.skip("no openssl here")
    folder = tmp_path_factory.mktemp("tls")
    pair = Tls(cert_file=folder / "cert.pem", key_file=folder / "key.pem")
    command: list[Any] = [
        openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
        "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", pair.key_file, "-out", pair.cert_file,
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    return pair


@pytest.fixture(scope="module")
def long_door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """One for all tests of a module: they tell their records apart, and count from where they found the counters."""
    world = World(tmp_path_factory.mktemp("long") / "store", server={"listen": "127.0.0.1:0"})
    with contextlib.closing(world), doors() as open_door:
        yield open_door(world)
