"""Deployments read from a real MLflow registry, through its own client.

Against the client's store of files and, where MODELWATCH_MLFLOW names the `mlflow` program of another environment, against a
tracking server, too: the whole package does not install beside ours.
"""

from __future__ import annotations

import os
import socket
import subprocess
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from monitor.config import Config
from monitor.sources.mlflow import MlflowConfig, MlflowSource
from tests.monitor.support import NOON, World, wait_for

SERVER = os.environ.get("MODELWATCH_MLFLOW")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    assert SERVER is not None
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [SERVER, "server", "--backend-store-uri", f"sqlite:///{folder}/db", "--port", str(port), "--workers", "1"]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    log = (folder / "log").open("wb")
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(lambda: _healthy(url), "the tracking server answers", 60)
        yield url
    finally:
        os.killpg(process.pid, 15)
        process.wait(20)
        log.close()


def _healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.fixture(params=("files", "server") if SERVER else ("files",))
def uri(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    if request.param == "server":
        return str(request.getfixturevalue("server"))
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return f"file://{tmp_path}/mlruns"


class Registry:
    """What people do to a registry. Each test has a model of its own there."""

    def __init__(self, uri: str, name: str) -> None:
        from mlflow import MlflowClient

        self.uri, self.name = uri, name
        self.client: Any = MlflowClient(tracking_uri=uri, registry_uri=uri)
        self.client.create_registered_model(name)

    def version(self, run_id: str | None = None, **tags: str) -> str:
        one = self.client.create_model_version(self.name, "s3://models/a", run_id=run_id, tags=tags, await_creation_for=0)
        return str(one.version)

    def alias(self, alias: str, version: str) -> None:
        self.client.set_registered_model_alias(self.name, alias, version)

    def stage(self, version: str, stage: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            self.client.transition_model_version_stage(self.name, version, stage)


@pytest.fixture
def registry(uri: str, request: pytest.FixtureRequest) -> Registry:
    return Registry(uri, f"price {request.node.originalname}"[:80])


Look = Callable[..., MlflowSource]


@pytest.fixture
def look(world: World, registry: Registry) -> Look:
    """One look at the registry, by a source that was just made."""

    def poll(**settings: Any) -> MlflowSource:
        config = MlflowConfig.model_validate(
            {"type": "mlflow", "name": "reg", "tracking_uri": registry.uri, "registered": {registry.name: "houses"}, **settings}
        )
        source = MlflowSource(config, world.inbox, world.store, clock=world.clock, metrics=world.metrics)
        assert source.poll() == 0
        return source

    return poll


def told(world: World) -> list[tuple[str, str, str | None]]:
    return [(row["event"], row["version"], row["alias"]) for row in world.rows("deployments")]


def test_a_new_version_and_a_moved_alias_are_deployments(world: World, registry: Registry, look: Look) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    registry.version(approver="ann", prompt_hash="p1", team="pricing")
    registry.alias("champion", "1")
    source = look()
    assert told(world) == [("registered", "1", None), ("alias", "1", "champion")]
    first, second = world.rows("deployments")
    assert (first["origin"], first["approver"], first["prompt_hash"]) == ("mlflow", "ann", "p1")
    assert before <= first["event_time"] <= datetime.now(UTC)
    assert second["event_time"] == NOON  # when it was noticed
    assert '"tags":{"team":"pricing"}' in first["attributes"]
    assert f'"registered_model":"{registry.name}"' in first["attributes"]
    registry.version()
    registry.alias("champion", "2")
    source.poll()
    assert told(world)[2:] == [("registered", "2", None), ("alias", "2", "champion")]


def test_a_look_at_what_is_known_tells_nothing_before_and_after_a_restart(world: World, registry: Registry, look: Look) -> None:
    registry.alias("champion", registry.version())
    source = look()
    source.poll()
    world.seal()
    world.restart()
    look()
    look()
    assert len(told(world)) == 2
    assert world.letters() == []


def test_an_alias_that_moves_back_is_told_each_time(world: World, registry: Registry, look: Look) -> None:
    one, two = registry.version(), registry.version()
    for version in (one, two, one, one):
        registry.alias("champion", version)
        look(versions=False)
        world.clock.move(60)
    assert [(v, a) for _, v, a in told(world)] == [(one, "champion"), (two, "champion"), (one, "champion")]


def test_what_happened_while_the_daemon_was_down_is_told_by_the_first_look(world: World, registry: Registry, look: Look) -> None:
    registry.version()
    look()
    world.close()
    registry.version()
    registry.alias("champion", "2")
    world.open()
    look()
    assert told(world)[1:] == [("registered", "2", None), ("alias", "2", "champion")]


def test_a_stage_is_told_too(world: World, registry: Registry, look: Look) -> None:
    registry.version()
    look()
    for stage in ("Staging", "Production", "Archived"):
        registry.stage("1", stage)
        look()
    assert told(world)[1:] == [("stage", "1", "Staging"), ("stage", "1", "Production")]


def test_only_what_is_asked_for_is_told(world: World, registry: Registry, look: Look) -> None:
    registry.version()
    registry.alias("champion", "1")
    registry.alias("candidate", "1")
    registry.stage("1", "Staging")
    look(versions=False, aliases=["champion"], stages=["Production"])
    assert told(world) == [("alias", "1", "champion")]


def test_the_run_says_what_code_and_data_it_was_made_of(world: World, registry: Registry, look: Look) -> None:
    from mlflow.entities import Dataset, DatasetInput

    client = registry.client
    run = client.create_run(client.create_experiment(registry.name), tags={"mlflow.source.git.commit": "c0ffee"})
    client.log_inputs(run.info.run_id, [DatasetInput(Dataset("houses", "d1gest", "local", "{}"))])
    registry.version(run_id=run.info.run_id)
    registry.version(run_id=run.info.run_id, code_commit="by-hand")
    look()
    rows = world.rows("deployments")
    assert [(r["code_commit"], r["data_hash"]) for r in rows] == [("c0ffee", "d1gest"), ("by-hand", "d1gest")]


def test_a_model_that_is_not_registered_yet_holds_up_no_other(world: World, registry: Registry, look: Look) -> None:
    registry.version()
    with pytest.raises(OSError, match="not there"):
        look(registered={"not there": "houses", registry.name: "houses"})
    assert told(world) == [("registered", "1", None)]


def test_names_of_any_length_have_ids_that_can_be_stored(world: World, uri: str, look: Look) -> None:
    long = Registry(uri, "n" * 200)
    long.version()
    long.alias("a" * 200, "1")
    for _ in range(2):
        look(name="s" * 63, registered={long.name: "houses"})
    assert [event for event, _, _ in told(world)] == ["registered", "alias"]
    assert world.letters() == []


# --- without a registry ----------------------------------------------------------------------------------------------


def test_a_registry_that_is_away_is_waited_for(world: World) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        config = MlflowConfig(
            type="mlflow", name="reg", tracking_uri=f"http://127.0.0.1:{taken.getsockname()[1]}", registered={"a": "houses"}
        )
        source = MlflowSource(config, world.inbox, world.store, clock=world.clock, metrics=world.metrics)
        with pytest.raises(OSError, match=r"127\.0\.0\.1"):
            source.poll()


def test_the_models_it_names_have_to_be_configured() -> None:
    block = {"type": "mlflow", "name": "reg", "tracking_uri": "x", "registered": {"a": "nobody"}}
    with pytest.raises(ValueError, match=r"sources\.0\.registered\.a: no model 'nobody'"):
        Config.model_validate({"models": [{"name": "houses", "task": "regression"}], "sources": [block]})
