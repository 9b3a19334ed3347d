"""The dashboards as they are checked in: the rules of dashboard-linter that apply to them, and what they have to do with the
catalogue, the rules and the provisioning files. `test_live.py` asks a Prometheus."""

from __future__ import annotations

import json
import re
import subprocess
import zlib
from pathlib import Path
from typing import Any

import pytest
import yaml

from dashboards import build
from dashboards.panel import panel_id
from dashboards.promql import CHECK, TARGET
from monitor import catalogue, data
from tests.dashboards.reading import (
    FOLDER,
    FOREIGN,
    NAMES,
    asked,
    events,
    expressions,
    filled,
    metrics,
    panels,
    queries,
    read,
    selectors,
    tables,
    variables,
)

SPECS = catalogue.specs()
UIDS = {"modelwatch-overview", "modelwatch-quality", "modelwatch-llm", "modelwatch-daemon"}

# Units as @grafana/data calls them; a word it does not know is shown behind the number as it stands.
UNITS = {"bool_yes_no", "bytes", "cps", "currencyUSD", "dateTimeAsIso", "dateTimeFromNow", "percentunit", "reqps", "s", "short"}
UNITS |= {"string"}

# Names of a judge's LLM: not the ones whose traffic is watched, so `$llm_model` does not choose among them.
OTHER_LLM = "modelwatch_judge_"

# What no panel and no rule asks for, and why.
NOT_SHOWN: dict[str, str] = {}

SCORES = re.compile(
    r"modelwatch_(reading|firing|feature_reading|quality_\w*(ratio|error)|detector_score_ratio|detector_flagged)\b"
)


RULES: list[dict[str, Any]] = [
    rule
    for file in sorted(data.folder("rules").glob("*.rules.yml"))
    for group in yaml.safe_load(file.read_text())["groups"]
    for rule in group["rules"]
]


RECORDED = {rule["record"] for rule in RULES if "record" in rule}

# Alerts whose panel shows what stands behind them, by another series.
OTHERWISE = {
    "ModelwatchBudgetUnknown",  # compares what should be there with what is; the panel has the calls that are the reason
    "ModelwatchCaseOpen",  # the table of open cases
    "ModelwatchCheckWithoutData",  # verdicts that say so; the panel has the rows
    "ModelwatchQuotaNearlyUsed",  # of a config with quotas; the panel has what is used
    "ModelwatchQuotaUsed",
    "ModelwatchRulesFailing",  # Prometheus's own series, which a dashboard of ours cannot know the labels of
    "ModelwatchSeriesMissing",
    "ModelwatchTrafficStopped",  # rows of an hour; the panel has the time since the last
    "ModelwatchWatchdog",
}
LEVEL = "llm_model|provider|model|environment|prompt|period|host|gpu"


def behind(expr: str) -> set[str]:
    """The series of ours that a query goes back to, through what the rules record."""
    found: set[str] = set()
    new = {expr}
    while new:
        names = {name for one in new for name in re.findall(r"[a-z]\w*:[\w:]+|\bmodelwatch_\w+|\bup\b|\bALERTS\w*", one)}
        new = {rule["expr"] for rule in RULES if rule.get("record") in names - found}
        found |= names
    return {re.sub(r"_(bucket|count|sum)$", "", name) for name in found}


def test_building_again_changes_nothing() -> None:
    assert sorted(build.DASHBOARDS) == NAMES
    for name in NAMES:
        assert build.render(name) == (FOLDER / name).read_text(), "make dashboards"


def test_there_are_four_with_their_links_to_each_other() -> None:
    found = [read(name) for name in NAMES]
    assert {dashboard["uid"] for dashboard in found} == UIDS
    assert len({dashboard["title"] for dashboard in found}) == len(UIDS)
    for dashboard in found:
        assert {link["url"] for link in dashboard["links"]} == {f"/d/{uid}" for uid in UIDS - {dashboard["uid"]}}
        for link in dashboard["links"]:
            assert link["includeVars"], "what was chosen goes along"
            assert link["keepTime"]


@pytest.mark.filterwarnings("ignore:Prefer using dashboardv2")
@pytest.mark.parametrize("name", NAMES)
def test_grafanas_own_model_of_a_dashboard_knows_every_field(name: str) -> None:
    # Warns when it is imported: the classic model is what every Grafana takes, the newer one is not.
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.models.dashboard import Dashboard

    def missing(ours: Any, theirs: Any, path: str = "") -> list[str]:
        """What is lost or changed on the way; their defaults may be added."""
        if isinstance(ours, dict) and isinstance(theirs, dict):
            return [m for key, value in ours.items() for m in missing(value, theirs.get(key), f"{path}/{key}")]
        if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
            return [m for i, pair in enumerate(zip(ours, theirs, strict=True)) for m in missing(*pair, f"{path}/{i}")]
        return [] if ours == theirs else [f"{path}: {ours!r} became {theirs!r}"]

    there = read(name)
    back = json.loads(JSONEncoder().encode(Dashboard.from_json(there)))
    assert missing(there, back) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_dashboard_has_the_usual_variables_and_cannot_be_edited_by_hand(name: str) -> None:
    found = variables(name)
    assert [*found][:5] == ["datasource", "records", "job", "instance", "model"]
    assert found["datasource"]["query"] == "prometheus"
    assert found["datasource"]["label"] == "Data source"
    sources = yaml.safe_load((FOLDER / "provisioning/datasources/modelwatch.yaml").read_text())["datasources"]
    assert (found["records"]["query"], found["records"]["current"]["value"]) in {(one["type"], one["uid"]) for one in sources}
    for variable in found.values():
        if variable["type"] == "datasource":
            continue
        assert variable["datasource"]["uid"] == "${datasource}"
        assert variable["refresh"] == 2, "on a change of the time range"
        assert variable["definition"] == variable["query"]["query"]
        if variable["name"] != "external_url":
            assert variable["multi"]
            assert variable["allValue"] == ".+"
    assert not read(name)["editable"]


@pytest.mark.parametrize("name", NAMES)
def test_a_panel_says_what_it_shows_in_which_unit_from_the_chosen_source(name: str) -> None:
    for panel in panels(name):
        assert panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["targets"], panel["title"]
        source = "${datasource}" if panel in asked(name) else "${records}"
        for one in (panel, *panel["targets"]):
            assert one["datasource"]["uid"] == source
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, panel["title"]
        if panel["type"] in ("timeseries", "state-timeline"):
            assert panel["options"]["legend"]["showLegend"]
            assert all(target["legendFormat"] for target in panel["targets"]), panel["title"]


def test_a_panel_is_found_by_an_id_that_is_made_of_its_name_and_is_like_no_other() -> None:
    assert panel_id("firing") == zlib.crc32(b"firing") % 10**6 == 51890, "links in the rules go by it"
    for name in NAMES:
        ids = [panel["id"] for panel in read(name)["panels"]]
        assert len(ids) == len(set(ids))


@pytest.mark.parametrize("name", NAMES)
def test_panels_do_not_lie_on_each_other(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in read(name)["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.parametrize("name", NAMES)
def test_queries_go_by_every_variable_that_their_metric_has_a_label_for(name: str) -> None:
    chosen = {variable for variable in variables(name) if variable in ("model", "check", "llm_model", "provider")}
    for expr in expressions(name):
        for metric, narrowed in selectors(expr):
            if metric.startswith("ALERTS"):
                # Rules drop the labels of the target where they sum over daemons. Alerts of no model concern all of them.
                assert 'model=~"$model|"' in narrowed
                continue
            if metric in RECORDED:
                # Summed over daemons by the rules, and named by the labels that are left.
                labels = tuple(re.findall(LEVEL, metric.partition(":")[0]))
                assert all(f'{one}=~"${one}"' in narrowed for one in chosen & set(labels)), f"{metric} of {expr}"
                continue
            assert 'job=~"$job"' in narrowed, expr
            assert 'instance=~"$instance"' in narrowed, expr
            if metric in FOREIGN:
                assert "and on (job, instance)" in expr, "other programs have it, too, and all jobs may be chosen"
                continue
            labels = SPECS[next(iter(metrics(metric)))].labels
            for variable in chosen & set(labels):
                if variable != "llm_model" or not metric.startswith(OTHER_LLM):
                    assert f'{variable}=~"${variable}"' in narrowed, f"{metric} of {expr}"


@pytest.mark.parametrize("name", NAMES)
def test_queries_use_counters_as_counters_over_a_window_that_fits_the_scrapes(name: str) -> None:
    for expr in [*expressions(name), *events(name)]:
        for window in re.findall(
            r"\[([^]]+)\]", expr.replace("last_over_time(modelwatch_firing", "") if "[30m]" in expr else expr
        ):
            # A daemon that is away stays on the board: its checks as long as its alerts stay up, itself for a day.
            last = {
                "30m": f"last_over_time(modelwatch_firing{{{CHECK}}}[30m])",
                "1d": f"last_over_time(modelwatch_build_info{{{TARGET}}}[1d])",
            }
            assert window == "$__rate_interval" or last[window] in expr, expr
        for counter in re.findall(r"\w+(?:_total|_bucket|_count)\{", expr):
            assert re.search(r"(rate|increase)\(" + re.escape(counter), expr), expr


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_all_clear_where_no_daemon_was_ever_scraped(name: str, tmp_path: Path) -> None:
    """What is not known is no data: neither 0 nor any other constant."""
    asks = [{"expr": filled(expr), "eval_time": "10m", "exp_samples": []} for expr in expressions(name)]
    other = {"interval": "1m", "input_series": [{"series": 'up{job="other"}', "values": "1x10"}], "promql_expr_test": asks}
    (tmp_path / "test.yml").write_text(yaml.safe_dump({"tests": [other]}))
    done = subprocess.run(["promtool", "test", "rules", tmp_path / "test.yml"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_queries_ask_for_metrics_that_exist_and_group_by_labels_that_they_have(name: str) -> None:
    for expr in queries(name):
        assert {metric for metric, _ in selectors(expr)} <= {*SPECS, *FOREIGN, *RECORDED} | {
            f"{m}_{part}" for m in SPECS for part in ("bucket", "count")
        }
        known = {"instance", "job", "le", "alertname", "alertstate", "severity", "model", "check"}
        known |= {label for metric in metrics(expr) if metric in SPECS for label in SPECS[metric].labels}
        for by in re.findall(r"(?:by|on|ignoring|group_left|group_right) \(([^)]*)\)", expr):
            assert {label.strip() for label in by.split(",") if by} <= known, expr


def test_every_metric_is_shown_or_alerted_on_or_it_is_said_why_not() -> None:
    used = {metric for name in NAMES for expr in queries(name) for metric in metrics(expr)}
    used |= {metric for rule in RULES for metric in metrics(rule["expr"])}
    assert {metric: "in no dashboard and no rule" for metric in SPECS if metric not in used | {*NOT_SHOWN}} == {}
    assert set(NOT_SHOWN) <= set(SPECS) - used, "shown by now, or gone"


@pytest.mark.parametrize("name", NAMES)
def test_whoever_sees_a_score_gets_to_the_records_behind_it(name: str) -> None:
    for panel in asked(name):
        exprs = [target["expr"] for target in panel["targets"]]
        if (panel["type"] == "timeseries" and any(SCORES.search(expr) for expr in exprs)) or panel["type"] == "state-timeline":
            assert panel["fieldConfig"]["defaults"]["links"], panel["title"]
        for link in panel["fieldConfig"]["defaults"]["links"]:
            assert link["url"].startswith("${external_url:raw}/"), "the daemon's pages lie where its config says"
            for label in re.findall(r"__field\.labels\.(\w+)", link["url"]):
                assert all(f"{{{{{label}}}}}" in target["legendFormat"] for target in panel["targets"]), panel["title"]
        for expr, target in zip(exprs, panel["targets"], strict=True):
            if re.search(r"modelwatch_(detector_score_ratio|llm_\w+)_bucket", expr):
                assert target["exemplar"], panel["title"]


@pytest.mark.parametrize("rule", [rule for rule in RULES if "alert" in rule], ids=lambda rule: rule["alert"])
def test_an_alert_leads_to_a_panel_that_shows_what_it_watches(rule: dict[str, Any]) -> None:
    there = {read(name)["uid"]: {panel["id"]: panel for panel in panels(name)} for name in NAMES}
    url = rule["annotations"]["dashboard_url"]
    found = re.search(r"/d/([\w-]+)\?viewPanel=(\d+)", url)
    assert found, url
    panel = there[found[1]].get(int(found[2]))
    assert panel, url
    shown = {metric for target in panel["targets"] for metric in behind(target.get("expr", ""))}
    assert shown & behind(rule["expr"]) or rule["alert"] in OTHERWISE, f"{panel['title']} shows {shown}"


@pytest.mark.parametrize("name", NAMES)
def test_a_table_of_records_asks_the_chosen_daemon_and_links_cells_that_it_has(name: str) -> None:
    for panel in tables(name):
        [target] = panel["targets"]
        assert target["url"].startswith("/v1/"), "below the address of the data source"
        assert target["parser"] == "backend"
        titles = {column["text"] for column in target["columns"]}
        for override in panel["fieldConfig"]["overrides"]:
            assert override["matcher"]["options"] in titles


@pytest.mark.parametrize("name", NAMES)
def test_prometheus_can_parse_every_query(name: str, tmp_path: Path) -> None:
    # promtool 2.42 checks no bare expression, so each is dressed as a recording rule, with Grafana's variables filled in.
    made = [{"record": f"panel:{i}", "expr": filled(expr)} for i, expr in enumerate(queries(name))]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": made}]}))
    done = subprocess.run(["promtool", "check", "rules", str(file)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_what_the_daemon_writes_into_grafana_is_drawn_by_its_tags(name: str) -> None:
    asked = [event["target"]["tags"] for event in read(name)["annotations"]["list"] if "target" in event]
    assert asked == [["modelwatch", kind] for kind in ("incident", "maintenance", "freeze", "deployment")]
