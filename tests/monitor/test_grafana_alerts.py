"""Our Prometheus rules as Grafana's own: the same questions, and a Grafana that would take them."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitor import cli
from monitor.config import Config
from monitor.grafana import alerts, wanted
from monitor.grafana.client import Grafana
from monitor.grafana.sync import sync
from tests.grafana.server import GrafanaServer

LINK = "https://watch.example.com"
WITH_URL = '{{ with query "last_over_time(modelwatch_external_url_info[1d])" }}{{ . | first | label "url" }}{{ end }}'


@pytest.fixture
def server() -> Iterator[GrafanaServer]:
    with GrafanaServer() as made:
        yield made
    assert made.strange == []


def config(server: GrafanaServer) -> Config:
    section = {"url": server.url, "token": "glsa_admin", "datasource": {"url": "http://p:9090"}, "alerts": True}
    return Config.model_validate({"external_url": LINK, "grafana": section})


def convert(*rules: dict[str, Any], **group: Any) -> alerts.Converted:
    one = {"name": "g", "rules": list(rules), **group}
    return alerts.convert([one], datasource="modelwatch-prometheus", folder="modelwatch", external_url=LINK)


def made(*rules: dict[str, Any]) -> dict[str, Any]:
    (rule,) = convert(*rules).groups[0]["rules"]
    assert isinstance(rule, dict)
    return rule


def asked(rule: dict[str, Any]) -> str:
    return str(rule["data"][0]["model"]["expr"])


def test_grafana_takes_every_rule_of_ours_and_a_second_time_nothing_is_sent(server: GrafanaServer) -> None:
    settings = config(server)
    assert settings.grafana is not None
    grafana = Grafana(settings.grafana)
    first = list(sync(grafana, wanted.of(settings)))
    assert [step for step in first if step.state == "failed"] == []
    titles = {rule["title"] for group in server.groups.values() for rule in group["rules"]}
    ours = {rule["alert"] for group in wanted.rules(settings) for rule in group["rules"] if "alert" in rule}
    left_out = {step.name for step in first if step.reason == "left_out"}
    assert {re.sub(r" \d+$", "", title) for title in titles | left_out} == ours
    assert {"ModelwatchDown", "ModelwatchCaseOpen"} <= titles
    assert len(left_out) <= 2, "a rule that picks among recorded series by label is the exception"
    server.asked.clear()
    second = list(sync(grafana, wanted.of(settings)))
    assert {step.state for step in second} <= {"same", "kept"}
    assert server.writes() == []
    grafana.close()


def test_a_rule_that_changed_is_updated_and_the_group_keeps_its_uids(server: GrafanaServer) -> None:
    settings = config(server)
    assert settings.grafana is not None
    grafana = Grafana(settings.grafana)
    assert not [step for step in sync(grafana, wanted.of(settings)) if step.state == "failed"]
    (group,) = [one for (_, name), one in server.groups.items() if name == "modelwatch-daemon"]
    uids = [rule["uid"] for rule in group["rules"]]
    group["rules"][0]["for"] = "17m"
    changed = [step for step in sync(grafana, wanted.of(settings)) if step.state not in ("same", "kept")]
    assert [(step.kind, step.name, step.state) for step in changed] == [("rules", "modelwatch-daemon", "update")]
    assert changed[0].lines[0].startswith(f'rules[{group["rules"][0]["title"]}].for: "17m" -> ')
    assert [rule["uid"] for rule in server.groups["modelwatch", "modelwatch-daemon"]["rules"]] == uids
    grafana.close()


def test_rules_that_are_not_ours_any_more_go_and_those_of_others_stay(server: GrafanaServer) -> None:
    settings = config(server)
    assert settings.grafana is not None
    grafana = Grafana(settings.grafana)
    assert not [step for step in sync(grafana, wanted.of(settings)) if step.state == "failed"]
    (group,) = [one for (_, name), one in server.groups.items() if name == "modelwatch-daemon"]
    for uid, provenance in (("modelwatch-Gone", "api"), ("modelwatch-Theirs", ""), ("theirs", "api")):
        rule = {**group["rules"][0], "uid": uid, "title": uid, "provenance": provenance}
        server.groups["modelwatch", uid] = {"title": uid, "folderUid": "modelwatch", "interval": 60, "rules": [rule]}
    changed = [(step.name, step.state) for step in sync(grafana, wanted.of(settings)) if step.state not in ("same", "kept")]
    assert changed == [("modelwatch-Gone", "remove")]
    left = {rule["uid"] for group in server.groups.values() for rule in group["rules"]}
    assert {"modelwatch-Theirs", "theirs", "modelwatch-Down"} <= left
    assert "modelwatch-Gone" not in left
    grafana.close()


def test_all_of_them_go_by_command_once_they_are_not_wanted(
    server: GrafanaServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    section: dict[str, Any] = {"url": server.url, "token": "${file:token}", "datasource": {"url": "http://p:9090"}}
    (tmp_path / "token").write_text("glsa_admin")
    path = tmp_path / "monitor.yaml"

    def run(action: str, *, alerts: bool) -> int:
        path.write_text(yaml.safe_dump({"models": [], "grafana": section | {"alerts": alerts}}))
        with pytest.raises(SystemExit) as caught:
            cli.main(["grafana", action, "--config", str(path)])
        return int(str(caught.value.code))

    assert run("sync", alerts=True) == 0
    assert run("remove-alerts", alerts=True) == 1
    assert "grafana.alerts: is true, so they would come back; make it false first" in capsys.readouterr().err
    assert any(group["rules"] for group in server.groups.values())
    assert run("remove-alerts", alerts=False) == 0
    assert "rules ModelwatchDown: removed" in capsys.readouterr().out
    assert not any(group["rules"] for group in server.groups.values())


def test_prometheus_reads_what_the_rules_ask_after_their_recorded_series_were_put_in(
    server: GrafanaServer, tmp_path: Path
) -> None:
    asked_of = [rule for group in wanted.of(config(server)).groups for rule in group["rules"]]
    rules = [{"alert": rule["title"].replace(" ", "_"), "expr": asked(rule)} for rule in asked_of]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", "--lint=none", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{len(rules)} rules found" in done.stdout


def test_whatever_comes_back_is_an_alert_and_nothing_is_none() -> None:
    rule = made({"alert": "Down", "expr": "up == 0\n", "for": "5m", "labels": {"severity": "critical"}})
    query, any_result, condition = rule["data"]
    assert asked(rule) == "up == 0"
    assert query["model"]["instant"] is True
    assert any_result["model"]["expression"] == "is_number($query) || is_nan($query) || is_inf($query)"
    assert condition["model"]["conditions"] == [{"evaluator": {"type": "gt", "params": [0]}}]
    assert (rule["condition"], condition["model"]["expression"]) == ("threshold", "prometheus_math")
    assert (rule["noDataState"], rule["execErrState"], rule["for"]) == ("OK", "Error", "5m")
    assert rule["labels"] == {"severity": "critical"}


def test_a_recorded_series_is_put_in_as_what_it_stands_for() -> None:
    record = {"record": "a:x:rate", "expr": "sum by (a) (rate(x[5m]))\n"}
    other = {"record": "a:x:double", "expr": "2 * a:x:rate"}
    rule = made(record, other, {"alert": "X", "expr": "a:x:double > 1 and max_over_time(a:x:rate[1h]) > 2 # a:x:rate"})
    inner = "(sum by (a) (rate(x[5m])))"
    assert asked(rule) == f"(2 * {inner}) > 1 and max_over_time({inner}[1h:1m]) > 2 # a:x:rate"
    rule = made(record, {"alert": "X", "expr": "a:x:rate offset 1d > avg_over_time(a:x:rate[1h] offset 2d)"})
    past = f"last_over_time({inner}[5m:1m] offset 1d)"
    assert asked(rule) == f"{past} > avg_over_time({inner}[1h:1m] offset 2d)"


def test_of_two_rules_that_record_one_series_both_are_put_in_with_their_labels() -> None:
    day = {"record": "a:s:ratio", "expr": "d", "labels": {"period": 'da"y'}}
    rule = made(day, {"record": "a:s:ratio", "expr": "m"}, {"alert": "X", "expr": "a:s:ratio > 1"})
    assert asked(rule) == '((label_replace(d, "period", "da\\"y", "", "")) or (m)) > 1'


def test_what_cannot_be_put_in_is_left_out_and_said() -> None:
    record = {"record": "a:x:rate", "expr": "x"}
    picks = {"alert": "Picks", "expr": 'a:x:rate{a="1"} > 1'}
    told = {"alert": "Told", "expr": 'ALERTS{alertname="X"} == 1'}
    itself = {"record": "b:x:y", "expr": "b:x:y + 1"}
    found = convert(record, picks, told, itself, {"alert": "Self", "expr": "b:x:y"}, {"alert": "Vllm", "expr": "vllm:x:y{a='1'}"})
    assert found.left_out == {
        "Picks": "it picks some of the series of the recording rule a:x:rate",
        "Told": "it asks for Prometheus' own alerts",
        "Self": "b:x:y is made of itself",
    }
    assert [rule["title"] for rule in found.groups[0]["rules"]] == ["Vllm"]


def test_templates_say_the_number_and_the_address_of_the_daemon() -> None:
    question = "{{ with printf \"x{a='%s'}\" $labels.a | query }}{{ . | first | value }}{{ else }}unknown{{ end }}"
    annotations = {
        "description": "{{ $labels.model }} has {{ $value | humanizePercentage }} of $value, then " + question,
        "case_url": WITH_URL + "/cases?model={{ $labels.model }}",
    }
    rule = made({"alert": "X", "expr": "x", "annotations": annotations})
    assert rule["annotations"] == {
        "description": "{{ $labels.model }} has {{ $values.query.Value | humanizePercentage }} of $value, then unknown",
        "case_url": LINK + "/cases?model={{ $labels.model }}",
    }


def test_no_template_of_ours_asks_prometheus_a_question(server: GrafanaServer) -> None:
    text = json.dumps([rule["annotations"] for group in wanted.of(config(server)).groups for rule in group["rules"]])
    assert not re.search(r"\{\{[^}]*\bquery\s", text)
    assert "modelwatch_external_url_info" not in text
    assert server.url in text, "dashboards are linked where Grafana is"


def test_alerts_of_one_name_are_told_apart_and_long_names_fit() -> None:
    long = "Modelwatch" + "VeryLong" * 8
    found = convert({"alert": long, "expr": "x"}, {"alert": long, "expr": "y"})
    first, second = found.groups[0]["rules"]
    assert (first["title"], second["title"]) == (long, f"{long} 2")
    assert first["uid"] != second["uid"]
    assert max(len(first["uid"]), len(second["uid"])) <= 40


@pytest.mark.parametrize(("given", "seconds"), ((None, 60), ("15s", 20), ("1m", 60), ("2h", 7200), ("5s", 10)))
def test_grafana_evaluates_in_tens_of_seconds(given: str | None, seconds: int) -> None:
    group = {} if given is None else {"interval": given}
    assert convert({"alert": "X", "expr": "x"}, **group).groups[0]["interval"] == seconds
