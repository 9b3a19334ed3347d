"""The daemon as a whole: start, a record's way to an alert, reload, stop."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import grpc
import httpx
import psutil
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

import monitor
from monitor import intake
from monitor.app import App
from monitor.errors import ConfigError, StoreError
from tests.judge import JudgeServer
from tests.monitor.support import MODELS, check, generation, label, prediction, wait_for

ROOT = Path(monitor.__file__).parent.parent
NOWHERE = {"listen": "127.0.0.1:0"}
MEAN = check("mean", every="1s", threshold={"upper": 10})
Scrape = dict[tuple[str, frozenset[tuple[str, str]]], float]


def write(folder: Path, **sections: Any) -> Path:
    path = folder / "monitor.yaml"
    given = {
        "store": {"path": "store", "min_free_bytes": 0, "tail_seconds": 1},
        "server": NOWHERE,
        "otlp": {"http": NOWHERE, "grpc": NOWHERE},
        "metrics": NOWHERE,
        "scoring": {"settle_seconds": 0, "attempts": 1},
        "models": list(MODELS),
        **sections,
    }
    path.write_text(yaml.safe_dump(given))
    return path


class Running:
    """A daemon by its two addresses."""

    def __init__(self, api: str, metrics: str) -> None:
        self.api, self.metrics = f"http://{api}", f"http://{metrics}"

    def send(self, kind: str, *items: Any, token: str = "let-me-in") -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.post(f"{self.api}/v1/{kind}", json=items, headers=headers, timeout=30)

    def scrape(self) -> Scrape:
        text = httpx.get(f"{self.metrics}/metrics", timeout=30).text
        families = text_string_to_metric_families(text)
        return {(s.name, frozenset(s.labels.items())): s.value for f in families for s in f.samples}

    def value(self, name: str, **labels: str) -> float | None:
        """Of the one series with these labels, whatever others it has."""
        found = [v for (n, have), v in self.scrape().items() if n == name and labels.items() <= dict(have).items()]
        assert len(found) < 2
        return found[0] if found else None

    def checks(self) -> set[str]:
        """Every check that has a series."""
        return {value for _, labels in self.scrape() for name, value in labels if name == "check"}


def of(app: App) -> Running:
    return Running(app.push.address, app.exposition.address)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., App]]:
    with contextlib.ExitStack() as stack:

        def make(**sections: Any) -> App:
            app = App(write(tmp_path, **sections))
            stack.callback(app.stop)
            app.start()
            return app

        yield make


class Shared:
    """One daemon for the tests that only reload it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.allow("let-me-in")
        self.write()
        self.app = App(folder / "monitor.yaml")
        self.app.start()
        self.running = of(self.app)

    def allow(self, token: str) -> None:
        (self.folder / "tokens").write_text(f"ingest:{hashlib.sha256(token.encode()).hexdigest()}\n")

    def write(self, **sections: Any) -> None:
        store = {"path": "store", "min_free_bytes": 0, "tail_seconds": 1, "seal_seconds": 1}
        write(self.folder, **{"store": store, "server": {**NOWHERE, "tokens_file": "tokens"}, **sections})

    def use(self, **sections: Any) -> None:
        self.write(**sections)
        assert self.app.reload() is None


@pytest.fixture(scope="module")
def only_one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    one = Shared(tmp_path_factory.mktemp("shared"))
    yield one
    one.app.stop()


@pytest.fixture
def shared(only_one: Shared) -> Shared:
    only_one.allow("let-me-in")
    only_one.use(checks=[])
    return only_one


def past(seconds: float) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=seconds)


def shifted(running: Running, prefix: str = "r", model: str = "houses") -> None:
    """Predictions of the last seconds that make the mean fire."""
    items = [prediction(f"{prefix}{n}", past(10 - n / 2), prediction=50.0, model=model) for n in range(20)]
    assert running.send("predictions", *items).status_code == 200


def test_from_a_record_to_a_firing_check_and_back_after_a_restart(start: Callable[..., App], tmp_path: Path) -> None:
    bare = check("bare", "Bareness", model="bot", every="1s", threshold={"upper": 0.2})
    app = start(checks=[MEAN, bare, check("isolated", "IsolatedMean", every="1s")])
    running = of(app)
    assert httpx.get(f"{running.metrics}/-/ready").text == "ready\n"
    assert running.value("modelwatch_ready") == 1
    assert running.value("modelwatch_firing", check="mean") is None, "no verdict yet is no series, and not 0"
    shifted(running)
    running.send("generations", *(generation(f"g{n}", past(10 - n / 2)) for n in range(20)))
    running.send("labels", label("r1"))
    for name in ("mean", "isolated", "bare"):
        wait_for(lambda name=name: running.value("modelwatch_firing", check=name) == 1, f"{name} to fire")  # type: ignore[misc]
    for model in ("houses", "bot"):
        wait_for(lambda model=model: running.value("modelwatch_case_open", model=model) == 1, f"the case of {model}")  # type: ignore[misc]
    assert running.value("modelwatch_reading", check="mean") == 50.0
    assert running.value("modelwatch_detector_evaluations_total", detector="bareness") == 20
    assert running.value("modelwatch_child_up", child="scorer") == 1
    late = running.send("predictions", prediction("the very last", past(5), prediction=50.0))
    assert late.json()["accepted"] == 1
    app.stop()
    assert tail(tmp_path / "store") == "the very last", "the auditors see all that was acknowledged"

    again = of(start(checks=[MEAN, bare, check("isolated", "IsolatedMean", every="1s")]))
    first = again.scrape()
    firing = {dict(labels)["check"]: v for (name, labels), v in first.items() if name == "modelwatch_firing"}
    assert firing == {"mean": 1, "isolated": 1, "bare": 1}, "as of the first scrape: a 0 would resolve a page that is true"
    paged = {dict(labels)["model"] for (name, labels), _ in first.items() if name == "modelwatch_case_open"}
    assert paged == {"houses", "bot"}


def test_a_stop_books_what_the_judge_was_asked_and_blames_no_record(start: Callable[..., App], tmp_path: Path) -> None:
    with JudgeServer() as server:
        server.mode = "hang"
        settings = {"metric": "faithfulness", "rate": 1}
        judged = check("judged", model="bot", threshold={"upper": 0.5}, settings=settings) | {"detector": "judge"}
        app = start(checks=[judged], judge={"base_url": server.url, "model": "tiny-judge"})
        sent = of(app).send("generations", generation("g", contexts=["one"]))
        assert sent.status_code == 200, sent.text
        wait_for(lambda: server.asked, "the judge to be asked", 120.0)
        app.stop()
    with duckdb.connect(str(tmp_path / "store" / "hot.duckdb"), read_only=True) as connection:
        assert connection.execute("SELECT record_id, attempts FROM judging").fetchall() == [("g", 0)]
        assert connection.execute("SELECT llm_model, calls FROM judge_spending").fetchall() == [("tiny-judge", 1)]


def test_a_stop_in_the_middle_of_a_batch_is_held_against_no_record(start: Callable[..., App], tmp_path: Path) -> None:
    app = start(checks=[check("bare", "Bareness", model="bot", threshold={"upper": 2})])
    running = of(app)
    sent = running.send("generations", generation("g", question="hang", contexts=["one"]))
    assert sent.status_code == 200, sent.text
    wait_for(lambda: running.value("modelwatch_queue_records", queue="scoring") == 1 and app._scorer.busy, "the batch", 60.0)
    app.stop()
    with duckdb.connect(str(tmp_path / "store" / "hot.duckdb"), read_only=True) as connection:
        assert connection.execute("SELECT record_id, attempts FROM work").fetchall() == [("g", 0)]


def tail(store: Path) -> Any:
    with duckdb.connect(str(store / "audit.duckdb"), read_only=True) as connection:
        connection.execute(f"SET file_search_path = '{store}'")
        row = connection.execute("SELECT record_id FROM predictions ORDER BY seq DESC LIMIT 1").fetchone()
        return row and row[0]


def test_while_it_runs_rows_are_sealed_and_shown_to_auditors(shared: Shared) -> None:
    running, store = shared.running, shared.folder / "store"
    running.send("predictions", prediction("seal me"))
    wait_for(lambda: (store / "audit.duckdb").exists() and tail(store) == "seal me", "the row to be shown")
    wait_for(lambda: running.value("modelwatch_seal_segments_total", kind="predictions"), "the row to be sealed")
    assert tail(store) == "seal me"
    assert (running.value("modelwatch_audit_last_success_timestamp_seconds") or 0) > 0


def test_a_seal_that_fails_is_counted_and_tried_again(shared: Shared) -> None:
    running = shared.running
    in_the_way = shared.folder / "store" / "segments" / "contexts"
    in_the_way.parent.mkdir(exist_ok=True)
    in_the_way.write_text("a file where a folder has to be")
    running.send("contexts", {"record_id": "nobody's", "model": "bot", "contexts": ["x"]})
    wait_for(lambda: running.value("modelwatch_seal_failures_total"), "the failure")
    in_the_way.unlink()
    wait_for(lambda: running.value("modelwatch_seal_segments_total", kind="contexts"), "the segment")


def test_a_reload_adds_changes_and_removes_checks_and_their_series(shared: Shared) -> None:
    running = shared.running
    shared.use(checks=[MEAN, check("goes", every="1s", threshold={"upper": 10})])
    shifted(running)
    wait_for(lambda: running.value("modelwatch_firing", check="goes") == 1, "a verdict")
    wait_for(lambda: running.value("modelwatch_firing", check="mean") == 1, "a verdict")

    changed = {**MEAN, "threshold": {"upper": 100}, "severity": "critical"}
    added = check("added", every="1s", threshold={"upper": 10}, model="barns")
    shared.write(checks=[changed, added], models=[*MODELS, {"name": "barns", "task": "regression"}])
    response = httpx.post(f"{running.metrics}/-/reload")
    assert (response.status_code, response.text) == (200, "reloaded\n")
    assert running.value("modelwatch_config_last_reload_successful") == 1
    assert "goes" not in running.checks()
    assert running.value("modelwatch_firing", check="mean", severity="critical") == 1, "until the next window is judged"
    assert running.value("modelwatch_firing", check="mean", severity="warning") is None
    shifted(running, "again")
    wait_for(lambda: running.value("modelwatch_firing", check="mean") == 0, "the new threshold to judge")
    shifted(running, "barn", "barns")
    wait_for(lambda: running.value("modelwatch_firing", check="added") == 1, "the new check to fire")

    shared.use(checks=[])
    assert running.checks() == set()
    assert running.value("modelwatch_ingest_records_total", model="barns", kind="predictions") is None
    assert running.send("predictions", prediction("x", model="barns")).json()["errors"][0]["reason"] == "unknown_model"
    assert running.checks() == set(), "and they stay away"


def test_a_check_of_answers_that_is_added_later_scores_those_that_come(shared: Shared) -> None:
    running = shared.running
    running.send("generations", generation("before", past(20)))
    shared.use(checks=[check("bare", "Bareness", model="bot", every="1s", threshold={"upper": 0.2})])
    running.send("generations", *(generation(f"g{n}", past(10 - n / 2)) for n in range(20)))
    wait_for(lambda: running.value("modelwatch_firing", check="bare") == 1, "the new check to fire")


def test_a_bad_file_leaves_the_old_config_in_force_and_says_so(shared: Shared) -> None:
    running = shared.running
    shared.use(checks=[check("old", every="1s", threshold={"upper": 10})])
    tries: dict[str, Callable[[], object]] = {
        "modles: no such key": lambda: shared.write(modles=[]),
        "cannot be read": lambda: (shared.folder / "monitor.yaml").write_text("a: ["),
        "store: changed; only a restart can change it": lambda: shared.write(store={"path": "other"}),
        "server.tokens_file: ": lambda: shared.write(server={**NOWHERE, "tokens_file": "gone"}),
        "tokens: line 1": lambda: (shared.folder / "tokens").write_text("nonsense"),
    }
    for message, spoil in tries.items():
        shared.write()
        spoil()
        response = httpx.post(f"{running.metrics}/-/reload")
        assert response.status_code == 500
        assert message in response.text
        assert running.value("modelwatch_config_last_reload_successful") == 0
    shifted(running, "bad")
    wait_for(lambda: running.value("modelwatch_firing", check="old") == 1, "the old check to fire")
    shared.allow("let-me-in")
    shared.use()
    assert running.value("modelwatch_config_last_reload_successful") == 1


def test_a_reload_reads_the_tokens_of_every_receiver_anew(shared: Shared) -> None:
    addresses = {one.transport: one.address for one in shared.app.receivers}
    assert list(addresses) == ["push", "otlp_http", "otlp_grpc"]

    def answers(token: str) -> list[Any]:
        sent = f"Bearer {token}"
        headers = {"Authorization": sent, "Content-Type": "application/x-protobuf"}
        http = httpx.post(f"http://{addresses['otlp_http']}/v1/traces", headers=headers, timeout=30)
        with grpc.insecure_channel(addresses["otlp_grpc"]) as channel:
            export: Any = channel.unary_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")
            call = export.future(b"", metadata=(("authorization", sent),), timeout=30)
            return [shared.running.send("predictions", token=token).status_code, http.status_code, call.code().name]

    shared.allow("let-me-in")
    shared.use()
    assert answers("later") == [401, 401, "UNAUTHENTICATED"]
    shared.allow("later")
    shared.use()
    assert answers("later") == [200, 200, "OK"]
    assert answers("let-me-in") == [401, 401, "UNAUTHENTICATED"]


def test_a_reload_reads_the_tokens_anew_and_follows_other_files(shared: Shared) -> None:
    running = shared.running
    assert running.send("predictions", prediction("t"), token="other").status_code == 401
    assert running.send("predictions", prediction("t")).status_code == 200
    shared.allow("other")
    source = {"type": "follow", "name": "log", "path": "in.jsonl", "kind": "labels", "model": "houses", "poll_seconds": 0.05}
    file = shared.folder / "in.jsonl"
    file.write_text(json.dumps({"record_id": "t", "label": 1}) + "\n")
    shared.use(sources=[source])
    assert running.send("predictions", prediction("u")).status_code == 401
    assert running.send("predictions", prediction("u"), token="other").status_code == 200
    wait_for(lambda: running.value("modelwatch_ingest_records_total", model="houses", kind="labels") == 1, "the line")
    shared.use(sources=[])
    with file.open("a") as more:
        more.write(json.dumps({"record_id": "u", "label": 1}) + "\n")
    assert running.send("predictions", prediction("v"), token="other").status_code == 200
    assert running.value("modelwatch_ingest_records_total", model="houses", kind="labels") == 1


def test_sources_come_and_go_by_reload_and_only_those_that_changed(shared: Shared) -> None:
    def stored() -> float:
        return shared.running.value("modelwatch_ingest_records_total", model="houses", kind="labels") or 0

    folders = {name: shared.folder / name for name in ("drop-a", "drop-b")}
    source = {"type": "folder", "kind": "labels", "model": "houses", "poll_seconds": 0.05, "settle_seconds": 0}
    for folder in folders.values():
        folder.mkdir()
    shared.use(sources=[{**source, "name": name, "path": name} for name in folders])
    kept = shared.app._sources["drop-a"]
    before = stored()
    for name, folder in folders.items():
        (folder / "1.csv").write_text(f"record_id,label\n{name},1\n")
    wait_for(lambda: stored() == before + 2, "a file of each")
    shared.use(sources=[{**source, "name": "drop-a", "path": "drop-a"}])
    assert shared.app._sources == {"drop-a": kept}
    for name, folder in folders.items():
        (folder / "2.csv").write_text(f"record_id,label\n{name}-2,1\n")
    wait_for(lambda: stored() == before + 3, "a file of the one that stayed")
    assert (folders["drop-b"] / "2.csv").exists()
    assert shared.running.value("modelwatch_source_up", source="drop-a") == 1
    assert shared.running.value("modelwatch_source_up", source="drop-b") is None


def test_payload_loggers_are_heard_and_their_services_change_by_reload(shared: Shared) -> None:
    def post(half: str, data: Any) -> dict[str, Any]:
        headers = {
            "Authorization": "Bearer let-me-in", "Content-Type": "application/json", "ce-id": "ce-1", "ce-specversion": "1.0",
            "ce-source": "s", "ce-type": f"org.kubeflow.serving.inference.{half}", "ce-inferenceservicename": "isvc",
        }  # fmt: skip
        answer: dict[str, Any] = httpx.post(f"{shared.running.api}/v1/cloudevents", json=data, headers=headers, timeout=30).json()
        return answer

    assert post("request", {"instances": [[1]]})["rejected"] == 1
    shared.use(cloudevents={"services": [{"service": "isvc", "model": "houses"}]})
    assert post("request", {"instances": [[1]]})["waiting"] == 1
    assert post("response", {"predictions": [2]})["accepted"] == 1


def helpers() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


def test_a_start_that_fails_leaves_nothing_behind(shared: Shared, tmp_path: Path) -> None:
    before = helpers()
    locked = App(write(tmp_path, store={"path": str(shared.folder / "store")}))
    with pytest.raises(StoreError, match="cannot be opened"):
        locked.start()
    taken = App(write(tmp_path, server={"listen": shared.app.push.address}))
    with pytest.raises(OSError, match="cannot be bound"):
        taken.start()
    (tmp_path / "tokens").write_text("nonsense")
    with pytest.raises(ConfigError, match="tokens: line 1"):
        App(write(tmp_path, server={**NOWHERE, "tokens_file": "tokens"})).start()
    assert helpers() == before
    assert shared.running.send("predictions", prediction("unharmed")).status_code == 200
    taken.stop()


def test_a_daemon_that_takes_no_records_is_not_ready_in_its_metrics_either(start: Callable[..., App]) -> None:
    running = of(start(store={"path": "store", "min_free_bytes": 2**62}))
    wait_for(lambda: httpx.get(f"{running.metrics}/-/ready").status_code == 503, "the disk to be looked at")
    assert running.value("modelwatch_ready") == 0


def test_one_part_that_cannot_be_closed_does_not_keep_the_others_open(start: Callable[..., App]) -> None:
    before = helpers()
    app = start()
    assert len(helpers()) == len(before) + len(("scorer", "worker", "views")) + intake.processes(None)

    def fails() -> None:
        raise RuntimeError("cannot be closed")

    app._closers.insert(6, fails)
    with pytest.raises(RuntimeError, match="cannot be closed"):
        app.stop()
    assert app.not_ready() == "starting or stopping"
    assert app.registry.get_sample_value("modelwatch_ready") == 0
    assert app.reload() == "starting or stopping; reload again"
    assert helpers() == before
    app.stop()


# --- as a process ----------------------------------------------------------------------------------------------------

PLUGIN = '''
"""Detectors of somebody else's, in one file."""
import numpy as np
from detectors.contract import DetectorConfig, Reading, Score


class Spread:
    name, version, inputs, worse, reference = "spread", "1", frozenset({"prediction"}), "higher", "none"

    class Config(DetectorConfig):
        quantile: float = 0.9

    def __init__(self, config):
        self.config = config

    def compare(self, reference, current):
        values = current.numbers("prediction")
        return Reading(np.quantile(values, self.config.quantile) - np.min(values), "spread", n_current=current.rows)


class Shouting:
    name, version, inputs, worse, flag = "shouting", "1", frozenset({"response"}), "higher", 0.5

    class Config(DetectorConfig):
        pass

    def __init__(self, config):
        pass

    def score(self, rows):
        return [Score.ok(sum(map(str.isupper, r["response"])) / len(r["response"])) for r in rows]
'''


class Daemon:
    """`modelwatch run` in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])}
        command = [sys.executable, "-m", "monitor", "run", "monitor.yaml"]
        self._log = folder / "log"
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)

    def log(self) -> str:
        return self._log.read_text()

    def running(self) -> Running:
        found = wait_for(
            lambda: re.search(r" ready api=(\S+) metrics=(\S+)", self.log()) or self.process.poll(), "it to be ready", 30
        )
        assert isinstance(found, re.Match), self.log()
        return Running(found[1], found[2])

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)


@pytest.fixture
def launch() -> Iterator[Callable[[Path], Daemon]]:
    launched: list[Daemon] = []

    def make(folder: Path) -> Daemon:
        launched.append(Daemon(folder))
        return launched[-1]

    yield make
    for one in launched:
        one.process.kill()
        one.process.wait()


def test_a_detector_in_one_file_of_ones_own_is_scheduled_stored_exported_and_fires_with_no_other_edit(
    launch: Callable[[Path], Daemon], tmp_path: Path
) -> None:
    (tmp_path / "my_detectors.py").write_text(PLUGIN)
    spread = {**check("spread", every="1s", threshold={"upper": 3}), "detector": "my_detectors:Spread"}
    shouting = {**check("shouting", every="1s", model="bot", threshold={"upper": 0.2}), "detector": "my_detectors:Shouting"}
    write(tmp_path, checks=[spread, shouting])
    daemon = launch(tmp_path)
    running = daemon.running()
    running.send("predictions", *(prediction(f"r{n}", past(10 - n / 2), prediction=float(n)) for n in range(20)))
    running.send("generations", *(generation(f"g{n}", past(10 - n / 2), response="NO WAY") for n in range(20)))
    for name in ("spread", "shouting"):
        wait_for(lambda name=name: running.value("modelwatch_firing", check=name) is not None, f"{name} on the page")  # type: ignore[misc]
    wait_for(lambda: running.value("modelwatch_firing", check="shouting") == 1, "shouting to fire")
    assert running.value("modelwatch_reading", check="shouting", detector="shouting") == 1.0
    assert running.value("modelwatch_detector_flagged_total", detector="shouting") == 20
    assert (running.value("modelwatch_reading", check="spread", detector="spread") or 0) > 0

    # Meanwhile: what a bad file does on SIGHUP, and that it is heard of.
    write(tmp_path, checks=[{**spread, "detector": "my_detectors:Gone"}])
    daemon.process.send_signal(signal.SIGHUP)
    wait_for(lambda: running.value("modelwatch_config_last_reload_successful") == 0, "the reload to be refused")
    assert "reload refused; the old config stays" in daemon.log()
    assert "checks.0.detector: " in daemon.log()
    write(tmp_path, checks=[shouting])
    daemon.process.send_signal(signal.SIGHUP)
    wait_for(lambda: running.value("modelwatch_config_last_reload_successful") == 1, "the reload to be taken")
    assert running.checks() == {"shouting"}

    assert daemon.stop() == 0
    assert daemon.log().rstrip().endswith("stopped")
    query = "SELECT check_name, count(*) AS n FROM readings WHERE outcome = 'ok' GROUP BY 1 ORDER BY 1"
    command = [sys.executable, "-m", "monitor", "sql", query, "--store", str(tmp_path / "store"), "--format", "json"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    stored = [json.loads(line) for line in found.stdout.splitlines()]
    assert [row["check_name"] for row in stored] == ["shouting", "spread"], found.stderr


def test_a_second_daemon_on_the_same_store_says_who_has_it(launch: Callable[[Path], Daemon], tmp_path: Path) -> None:
    write(tmp_path)
    first = launch(tmp_path)
    first.running()
    second = launch(tmp_path)
    assert second.process.wait(30) == 1
    assert f"store: in use by process {first.process.pid}; stop it, or point store.path somewhere else" in second.log()
    assert "Traceback" not in second.log()
    assert first.stop(signal.SIGINT) == 0


KILLER = """
import sys

from monitor.config import SourceConfig


class Killer:
    def __init__(self, config, inbox, store, **rest):
        self.config, self._store = config, store

    class Config(SourceConfig):
        pass

    def start(self):
        self._store.submit(lambda transaction: sys.exit("out of the blue"))

    def stop(self):
        pass
"""


def test_a_daemon_whose_writer_has_died_says_why_and_ends_with_an_exit_code(
    launch: Callable[[Path], Daemon], tmp_path: Path
) -> None:
    (tmp_path / "my_source.py").write_text(KILLER)
    write(tmp_path, sources=[{"name": "killer", "type": "my_source:Killer"}])
    daemon = launch(tmp_path)
    assert daemon.process.wait(60) == 1
    assert "the writer died; restart the daemon" in daemon.log()
    assert "the daemon ends: only a restart can mend it problem='the writer died: SystemExit'" in daemon.log()
    assert daemon.log().rstrip().endswith("stopped")
