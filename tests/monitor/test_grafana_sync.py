"""Folder, datasource and dashboards: made once, kept in step, and nobody's work overwritten in silence."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml
from prometheus_client import CollectorRegistry

from monitor import cli, data
from monitor.config import Config
from monitor.errors import ModelwatchError
from monitor.grafana import wanted
from monitor.grafana.client import Grafana, GrafanaError
from monitor.grafana.config import GrafanaConfig, problems
from monitor.grafana.difference import differences
from monitor.grafana.keeper import Keeper
from monitor.grafana.sync import Step, plan, sync
from monitor.metrics import Metrics
from tests.grafana.server import GrafanaServer
from tests.monitor.support import FakeClock, sample

UID = "modelwatch-overview"
SOURCE = {"url": "http://prometheus:9090"}


@pytest.fixture
def server() -> Iterator[GrafanaServer]:
    with GrafanaServer() as made:
        yield made
    assert made.strange == []


@pytest.fixture
def connect(server: GrafanaServer) -> Iterator[Callable[..., Grafana]]:
    made: list[Grafana] = []

    def connect(token: str = "glsa_admin", **settings: Any) -> Grafana:
        made.append(Grafana(section(server, token, **settings)))
        return made[-1]

    yield connect
    for one in made:
        one.close()


def section(server: GrafanaServer, token: str = "glsa_admin", **settings: Any) -> GrafanaConfig:
    return GrafanaConfig.model_validate({"url": server.url, "token": token, **settings})


def want(
    server: GrafanaServer, *, force: bool = False, external: str = "https://watch.example.com", **settings: Any
) -> wanted.Wanted:
    one = section(server, **{"datasource": SOURCE, **settings})
    return wanted.of(Config.model_validate({"external_url": "https://watch.example.com", "grafana": one}), force=force)


def states(steps: Iterator[Step]) -> dict[str, str]:
    return {f"{step.kind} {step.name}": step.state for step in steps}


def only(steps: Iterator[Step], *wanted_states: str) -> list[Step]:
    return [step for step in steps if step.state in wanted_states]


def retitled(dashboard: dict[str, Any]) -> None:
    dashboard["title"] = "mine now"


def an_older_release(server: GrafanaServer, grafana: Grafana) -> None:
    """As an earlier version of ours left it."""
    one = next(d for d in want(server).dashboards if d.uid == UID)
    old = wanted.Dashboard(UID, one.title, {**one.content, "description": "as it was", "panels": one.content["panels"][:-1]})
    server.folders.setdefault("modelwatch", {"uid": "modelwatch", "title": "modelwatch", "id": 1})
    done = sync(grafana, wanted.Wanted(want(server).folder, [], [old]))
    assert [step.state for step in done][1:] == ["create"]


def test_a_bare_grafana_gets_everything_and_a_second_time_nothing(server: GrafanaServer, connect: Callable[..., Grafana]) -> None:
    grafana = connect()
    first = states(sync(grafana, want(server)))
    assert set(first.values()) == {"create"}
    assert len(server.dashboards) == len(list(data.folder("dashboards").glob("*.json"))) >= 4
    assert {meta["folderUid"] for meta in server.meta.values()} == {"modelwatch"}
    source = server.datasources["modelwatch-prometheus"]
    assert source["jsonData"]["exemplarTraceIdDestinations"] == [
        {"name": "trace_id", "url": "https://watch.example.com/traces/${__value.raw}", "urlDisplayLabel": "Open trace"}
    ]
    server.asked.clear()
    assert set(states(sync(grafana, want(server))).values()) == {"same"}
    assert server.writes() == []


def test_what_is_stored_is_what_travels_with_the_program(server: GrafanaServer, connect: Callable[..., Grafana]) -> None:
    assert not only(sync(connect(), want(server)), "failed")
    for one in want(server).dashboards:
        stored = {k: v for k, v in server.dashboards[one.uid].items() if k not in ("id", "version")}
        assert stored == dict(one.content)


def test_a_newer_release_updates_what_an_older_one_left(server: GrafanaServer, connect: Callable[..., Grafana]) -> None:
    grafana = connect()
    an_older_release(server, grafana)
    step = next(s for s in plan(grafana, want(server)) if s.kind == "dashboard" and s.state == "update")
    assert any(line.startswith('description: "as it was" -> ') for line in step.lines)
    assert any(line.startswith("panels[") and line.endswith("]: is added") for line in step.lines)
    assert step.name in [one.name for one in only(sync(grafana, want(server)), "update")]
    assert server.dashboards[UID]["description"] != "as it was"
    assert [one["version"] for one in server.versions[UID]] == [2, 1]


def test_a_dashboard_that_a_person_changed_stays_until_forced(server: GrafanaServer, connect: Callable[..., Grafana]) -> None:
    grafana = connect()
    assert not only(sync(grafana, want(server)), "failed")
    server.edited(UID, retitled, by="jo")
    for _ in range(2):
        (kept,) = only(sync(grafana, want(server)), "kept", "update", "failed")
        assert (kept.state, kept.reason) == ("kept", "edited")
        assert kept.told.startswith("jo saved it at 2026-03-01")
        assert "--force" in kept.told
        assert any(line.startswith('title: "mine now" -> ') for line in kept.lines)
    assert server.dashboards[UID]["title"] == "mine now"
    (forced,) = only(sync(grafana, want(server, force=True)), "kept", "update", "failed")
    assert forced.state == "update"
    assert server.dashboards[UID]["title"] != "mine now"
    assert set(states(sync(grafana, want(server, overwrite=True))).values()) == {"same"}


def test_a_dashboard_that_was_there_before_us_is_a_persons(server: GrafanaServer, connect: Callable[..., Grafana]) -> None:
    grafana = connect()
    an_older_release(server, grafana)
    server.versions[UID][0]["message"] = ""  # imported by hand
    assert [s.reason for s in only(sync(grafana, want(server)), "kept")] == ["edited"]


def test_a_save_between_our_look_and_ours_is_not_lost(server: GrafanaServer, connect: Callable[..., Grafana]) -> None:
    grafana = connect()
    an_older_release(server, grafana)
    seen = []
    for step in plan(grafana, wanted.Wanted(want(server).folder, [], [d for d in want(server).dashboards if d.uid == UID])):
        if step.state == "update":
            server.edited(UID, retitled)
            assert step.do is not None
            with pytest.raises(GrafanaError, match="has been changed by someone else") as caught:
                step.do()
            seen.append(caught.value.reason)
    assert seen == ["changed"]
    assert server.dashboards[UID]["title"] == "mine now"


def test_a_grafana_that_brings_dashboards_to_its_own_schema_is_no_person(
    server: GrafanaServer, connect: Callable[..., Grafana]
) -> None:
    grafana = connect()
    assert not only(sync(grafana, want(server)), "failed")
    server.migrates = True
    server.asked.clear()
    assert set(states(sync(grafana, want(server))).values()) == {"same"}
    assert server.writes() == []


def test_a_dashboard_in_another_folder_is_updated_there(server: GrafanaServer, connect: Callable[..., Grafana]) -> None:
    grafana = connect()
    an_older_release(server, grafana)
    server.folders["elsewhere"] = {"uid": "elsewhere", "title": "elsewhere", "id": 99}
    server.meta[UID]["folderUid"] = "elsewhere"
    assert not only(sync(grafana, want(server)), "failed", "kept")
    assert server.meta[UID]["folderUid"] == "elsewhere"
    assert server.dashboards[UID]["description"] != "as it was"


def test_a_provisioned_dashboard_is_left_to_its_file(server: GrafanaServer, connect: Callable[..., Grafana]) -> None:
    server.provisioned(UID, {"title": "from a file", "panels": []})
    (kept,) = only(sync(connect(), want(server)), "kept", "failed")
    assert (kept.reason, server.dashboards[UID]["title"]) == ("provisioned", "from a file")
    assert not any(path.endswith("/db") and method == "POST" and UID in path for method, path in server.writes())


def test_of_a_datasource_what_the_config_says_counts_and_what_else_is_set_there_stays(
    server: GrafanaServer, connect: Callable[..., Grafana]
) -> None:
    grafana = connect()
    assert not only(sync(grafana, want(server)), "failed")
    source = server.datasources["modelwatch-prometheus"]
    source |= {"basicAuth": True, "basicAuthUser": "watch", "secureJsonData": {"basicAuthPassword": "s"}, "isDefault": True}
    source["jsonData"]["manageAlerts"] = False
    other = want(server, datasource={"url": "http://elsewhere:9090"})
    (step,) = only(sync(grafana, other), "update", "failed")
    assert step.lines == ('url: "http://prometheus:9090" -> "http://elsewhere:9090"',)
    now = server.datasources["modelwatch-prometheus"]
    assert (now["url"], now["basicAuthUser"], now["isDefault"]) == ("http://elsewhere:9090", "watch", True)
    assert now["jsonData"]["manageAlerts"] is False
    assert now["secureJsonFields"] == {"basicAuthPassword": True}


def test_a_datasource_of_a_file_and_a_name_that_is_taken_are_said(server: GrafanaServer, connect: Callable[..., Grafana]) -> None:
    grafana = connect()
    assert not only(sync(grafana, want(server)), "failed")
    server.datasources["modelwatch-prometheus"]["readOnly"] = True
    (kept,) = only(sync(grafana, want(server, datasource={"url": "http://b:9090"})), "kept", "failed")
    assert kept.reason == "provisioned"
    (failed,) = only(sync(grafana, want(server, datasource={"url": "http://b:9090", "uid": "another"})), "failed")
    assert (failed.reason, "same name already exists" in failed.told) == ("conflict", True)


def test_the_daemons_own_records_are_a_datasource_whose_token_is_sent_once(
    server: GrafanaServer, connect: Callable[..., Grafana]
) -> None:
    grafana = connect()
    settings: dict[str, Any] = {"records": {"url": "http://watch:9710", "token": "let-me-in"}}
    assert not only(sync(grafana, want(server, **settings)), "failed")
    source = server.datasources["modelwatch-records"]
    assert (source["type"], source["secureJsonData"]) == ("yesoreyeram-infinity-datasource", {"bearerToken": "let-me-in"})
    server.asked.clear()
    assert set(states(sync(grafana, want(server, **settings))).values()) == {"same"}
    settings["records"]["token"] = "another"
    assert set(states(sync(grafana, want(server, **settings))).values()) == {"same"}, "Grafana does not show it"
    (step,) = only(sync(grafana, want(server, force=True, **settings)), "update", "failed")
    assert step.lines == ("secureJsonData.bearerToken",)
    assert server.datasources["modelwatch-records"]["secureJsonData"] == {"bearerToken": "another"}


def test_the_others_are_brought_in_step_where_one_is_refused(server: GrafanaServer, connect: Callable[..., Grafana]) -> None:
    done = states(sync(connect("glsa_editor"), want(server)))
    assert done.pop("datasource modelwatch Prometheus") == "failed"
    assert set(done.values()) == {"create"}
    assert len(server.dashboards) >= 4


def test_a_viewer_changes_nothing(server: GrafanaServer, connect: Callable[..., Grafana]) -> None:
    done = list(sync(connect("glsa_viewer"), want(server)))
    assert {step.state for step in done} == {"failed"}
    assert "needs the role Editor" in done[0].told
    assert (server.folders, server.dashboards) == ({}, {})


@pytest.mark.parametrize(
    ("event", "reason"),
    (
        (429, "busy"),
        (500, "server"),
        (503, "server"),
        ("hang", "timeout"),
        ("html", "answer"),
        ("redirect", "answer"),
        (418, "rejected"),
    ),
)  # fmt: skip
def test_an_answer_that_is_none_has_a_word_for_it(
    server: GrafanaServer, connect: Callable[..., Grafana], event: int | str, reason: str
) -> None:
    server.next.append(event)
    with pytest.raises(GrafanaError) as caught:
        connect(timeout_seconds=0.3 if event == "hang" else 5).folder("modelwatch")
    assert caught.value.reason == reason
    assert "glsa_admin" not in str(caught.value)


def test_a_wrong_token_and_a_grafana_that_is_away_end_the_round_at_once(
    server: GrafanaServer, connect: Callable[..., Grafana]
) -> None:
    (failed,) = sync(connect("glsa_wrong"), want(server))
    assert (failed.reason, failed.ends) == ("unauthorized", True)
    assert len(server.asked) == 1
    grafana = connect()
    server.stop()
    (failed,) = sync(grafana, want(server))
    assert (failed.reason, failed.ends) == ("unreachable", True)
    server.start()
    assert not only(sync(grafana, want(server)), "failed")


def test_the_organisation_is_named_in_each_request(server: GrafanaServer, connect: Callable[..., Grafana]) -> None:
    assert not only(sync(connect(org=1), want(server)), "failed")
    (failed,) = sync(connect(org=7), want(server))
    assert failed.reason == "unauthorized"


def test_a_grafana_below_a_path_is_asked_there(server: GrafanaServer, connect: Callable[..., Grafana]) -> None:
    server.prefix = "/grafana"
    assert not only(sync(connect(), want(server)), "failed")
    assert all(path.startswith("/grafana/api/") for _, path in server.asked)


def test_a_certificate_is_looked_at_unless_it_is_told_not_to(
    server: GrafanaServer, connect: Callable[..., Grafana], tmp_path: Path
) -> None:
    authority, other = trustme.CA(), trustme.CA()
    server.stop()
    server.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server.tls)
    server.start()
    for name, one in (("ours", authority), ("other", other)):
        one.cert_pem.write_to_path(tmp_path / name)
    assert connect(ca_file=tmp_path / "ours").folder("modelwatch") is None
    for settings in ({}, {"ca_file": tmp_path / "other"}):
        with pytest.raises(GrafanaError, match=r"its certificate is not trusted; give grafana\.ca_file") as caught:
            connect(**settings).folder("modelwatch")
        assert caught.value.reason == "unreachable"
    with pytest.warns(Warning, match="Unverified HTTPS request"):
        assert connect(verify=False).folder("modelwatch") is None


def keeper(server: GrafanaServer, grafana: Grafana, metrics: Metrics, clock: FakeClock, **settings: Any) -> Keeper:
    return Keeper(grafana, lambda: want(server, **settings), every=300, clock=clock, metrics=metrics)


def test_the_daemon_counts_what_fails_and_what_it_leaves_alone(server: GrafanaServer, connect: Callable[..., Grafana]) -> None:
    metrics, clock, grafana = Metrics(CollectorRegistry()), FakeClock(), connect()
    one = keeper(server, grafana, metrics, clock)
    success = "modelwatch_grafana_sync_last_success_timestamp_seconds"
    server.next.append(503)
    assert not one.step()
    assert sample(metrics, "modelwatch_grafana_sync_failures_total", reason="server") == 1
    assert sample(metrics, success) == 0
    assert one.step()
    assert sample(metrics, success) == clock.now().timestamp()
    server.edited(UID, retitled)
    clock.move(300)
    assert one.step()
    assert sample(metrics, success) == clock.now().timestamp()
    assert sample(metrics, "modelwatch_grafana_kept", reason="edited") == 1
    assert keeper(server, grafana, metrics, clock, overwrite=True).step()
    assert sample(metrics, "modelwatch_grafana_kept", reason="edited") == 0
    assert server.dashboards[UID]["title"] != "mine now"


def test_a_grafana_that_says_when_is_not_asked_before(server: GrafanaServer, connect: Callable[..., Grafana]) -> None:
    one = Keeper(connect(), lambda: want(server), every=5, clock=FakeClock(), metrics=Metrics(CollectorRegistry()))
    server.next.append("busy")
    assert one.wait(one.step()) == 40
    server.next.append(503)
    assert one.wait(one.step()) == 5
    assert one.wait(one.step()) == 5


def test_a_daemon_that_is_stopped_does_not_wait_for_a_grafana_that_hangs(
    server: GrafanaServer, connect: Callable[..., Grafana]
) -> None:
    one = keeper(server, connect(), Metrics(CollectorRegistry()), FakeClock())
    server.next.append("hang")
    one.start()
    one.stop()
    assert len(server.asked) <= 1


def run(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    out, err = capsys.readouterr()
    assert isinstance(caught.value.code, int)
    return caught.value.code, out, err


@pytest.fixture
def file(tmp_path: Path, server: GrafanaServer) -> Path:
    (tmp_path / "token").write_text("glsa_admin\n")
    path = tmp_path / "monitor.yaml"
    one = {"url": server.url, "token": "${file:token}", "datasource": SOURCE}
    path.write_text(yaml.safe_dump({"models": [], "grafana": one}))
    return path


def test_diff_says_what_would_change_and_changes_nothing(
    server: GrafanaServer, connect: Callable[..., Grafana], file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run("grafana", "diff", "--config", str(file), capsys=capsys)
    assert (code, server.writes()) == (1, [])
    assert "folder modelwatch: would be created\n" in out
    code, out, _ = run("grafana", "sync", "--config", str(file), capsys=capsys)
    assert (code, "would" in out) == (0, False)
    assert run("grafana", "diff", "--config", str(file), capsys=capsys)[0] == 0
    server.edited(UID, retitled)
    code, out, _ = run("grafana", "diff", "--config", str(file), capsys=capsys)
    assert code == 0
    assert "left as it is: jo saved it" in out
    code, out, _ = run("grafana", "diff", "--force", "--config", str(file), capsys=capsys)
    assert code == 1
    assert '    title: "mine now" -> ' in out
    assert run("grafana", "sync", "--force", "--config", str(file), capsys=capsys)[0] == 0
    assert server.dashboards[UID]["title"] != "mine now"
    server.stop()
    code, out, _ = run("grafana", "diff", "--config", str(file), capsys=capsys)
    assert code == 2
    assert "does Grafana run, and is grafana.url its address?" in out


def test_a_title_from_grafana_does_no_harm_to_a_terminal(
    server: GrafanaServer, connect: Callable[..., Grafana], file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not only(sync(connect(), want(server)), "failed")
    server.edited(UID, lambda d: d.update(title="\x1b[2Jgone"), by="\x1b[31mjo")
    _, out, _ = run("grafana", "diff", "--config", str(file), capsys=capsys)
    assert "\x1b" not in out
    assert "\\x1b[31mjo" in out


def test_a_config_without_grafana_is_told_what_to_give(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "monitor.yaml"
    path.write_text("models: []\n")
    code, _, err = run("grafana", "sync", "--config", str(path), capsys=capsys)
    assert (code, "grafana: is not there; give url and token" in err) == (1, True)


@pytest.mark.parametrize(
    ("given", "told"),
    (
        ({"url": "grafana:3000"}, "grafana.url: 'grafana:3000' is no address of a server"),
        ({"url": "http://admin:admin@g"}, "grafana.url: a name or password does not stand in an address"),
        ({"url": "http://g/?orgId=1"}, "has more than a path"),
        ({"url": "http://g:99999"}, "grafana.url: 'http://g:99999' has no usable port"),
        ({"alerts": True, "datasource": None}, "grafana: alerts: true needs datasource"),
        ({"timeout_seconds": 60}, "grafana.timeout_seconds"),
        ({"folder": {"uid": "a b"}}, "grafana.folder.uid"),
        ({"ca_file": "nowhere.pem"}, "nowhere.pem is not there; create it or correct the path"),
        (
            {"records": {"url": "http://w", "token": "in_the_file"}},
            "grafana.records.token: a secret does not stand in the config",
        ),
        ({"token": "glsa_in_the_file"}, "grafana.token: a secret does not stand in the config file"),
    ),
)
def test_a_wrong_section_is_said_with_its_place(
    file: Path, capsys: pytest.CaptureFixture[str], given: dict[str, Any], told: str
) -> None:
    raw = yaml.safe_load(file.read_text())
    raw["grafana"] |= given
    file.write_text(yaml.safe_dump(raw))
    code, _, err = run("check-config", str(file), capsys=capsys)
    assert (code, told in err) == (1, True), err


def test_without_the_extra_check_config_says_how_to_get_it(file: Path) -> None:
    script = "import sys; sys.modules['grafana_client'] = None; from monitor.cli import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", script, "check-config", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 1
    assert "grafana: needs Grafana's client; URLLIB3_NO_OVERRIDE=1 pip install" in done.stderr
    assert list(problems(None, file.parent, lambda name: None)) == []


def test_a_file_that_is_no_dashboard_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text('{"title": "no uid"}')
    with pytest.raises(ModelwatchError, match=r"broken\.json: cannot be read as a dashboard"):
        wanted.dashboards(tmp_path)


def test_a_difference_is_told_by_where_it_is() -> None:
    there = {"panels": [{"title": "a", "expr": "x"}, {"title": "b"}], "n": 1, "on": True, "theirs": 1}
    ours = {"panels": [{"title": "b"}, {"title": "a", "expr": "y"}], "n": 1.0, "on": 1, "new": None, "long": "z" * 500}
    found = list(differences(there, ours))
    assert found[:2] == ['panels[a].expr: "x" -> "y"', "panels: in another order"]
    assert found[2:4] == ["on: true -> 1", "new: nothing -> null"]
    assert found[4].startswith('long: nothing -> "zzz')
    assert len(found[4]) < 200
    assert list(differences(there, there)) == []
