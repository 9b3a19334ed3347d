"""The rules of a config: its limits and names stand in them, Prometheus takes them, and they fire by them."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitor import cli, configfile, rendering
from monitor.config import Config
from monitor.errors import ConfigError
from monitor.serving import RulesConfig
from tests.rules.reading import FILES, RULES
from tests.rules.test_rules import run

FULL: dict[str, Any] = {
    "external_url": "https://watch.example.org/mw",
    "models": [{"name": "bot", "task": "llm"}],
    "checks": [
        {"name": "unsafe", "model": "bot", "detector": "toxicity", "every": "1h", "lateness": "2m", "threshold": {"upper": 0.1}},
    ],
    "serving": {
        "availability": {
            "objective": 0.9,
            "errors": ["timeout", "auth"],
            "min_requests": 10,
            "objectives": [
                {"provider": "openai", "objective": 0.95},
                {"provider": "openai", "llm_model": 'odd "name"\\', "objective": 0.999},
                {"llm_model": "llama", "objective": 0.99},
            ],
        },
        "quotas": [
            {"provider": "openai", "tokens_per_minute": 60_000},
            {"provider": "openai", "llm_model": "gpt-4o", "tokens_per_minute": 30_000, "requests_per_minute": 100},
        ],
        "hosts": {
            "waiting": "tgi_queue_size",
            "running": "tgi_batch_size",
            "cache_usage": ["tgi_cache"],
            "served_model": "served",
            "served_host": "node",
            "gpu_memory_used": "gpu_used",
            "gpu_memory_free": "gpu_free",
            "gpu_host": "Hostname",
            "max_waiting": 5,
            "expected": True,
        },
    },
    "slo": {"flagged": [{"model": "bot", "detector": "toxicity", "objective": 0.9}], "min_records": 20},
    "rules": {
        "job": "watch: it",
        "runbook_url": "https://wiki.example.org/runbook",
        "grafana_url": "https://grafana.example.org/g/",
    },
}


def written(tmp_path: Path, config: dict[str, Any] = FULL) -> Path:
    path = tmp_path / "modelwatch.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


@pytest.fixture
def rendered(tmp_path: Path) -> Path:
    out = tmp_path / "rules"
    assert command("render", "--config", str(written(tmp_path)), "--out", str(out)) == 0
    return out


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exited:
        cli.main(["rules", *arguments])
    assert isinstance(exited.value.code, int)
    return exited.value.code


def test_a_config_that_says_nothing_gives_the_shipped_rules() -> None:
    """So nobody has to render who has nothing to say; when this fails, `modelwatch rules render` writes config.rules.yml anew."""
    assert rendering.render(Config(), RULES) == {path.name: path.read_text(encoding="utf-8") for path in FILES}


def test_prometheus_takes_what_is_rendered_and_it_is_the_same_each_time(rendered: Path, tmp_path: Path) -> None:
    run("promtool", "check", "rules", *map(str, sorted(rendered.glob("*.yml"))))
    first = {path.name: path.read_bytes() for path in rendered.iterdir()}
    assert command("render", "--config", str(tmp_path / "modelwatch.yaml"), "--out", str(rendered)) == 0
    assert {path.name: path.read_bytes() for path in rendered.iterdir()} == first


def test_the_names_of_a_config_stand_in_place_of_the_shipped_ones(rendered: Path) -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in rendered.glob("*.yml"))
    for shipped in (
        'job="modelwatch"',
        "job: modelwatch\n",
        "github.com/modelwatch",
        "localhost:3000",
        "modelwatch_external_url_info",
    ):
        assert shipped not in text, shipped
    for shipped in ("DCGM_", "vllm:", "rate_limit"):
        assert shipped not in text, shipped
    alerts = {
        rule["alert"]: rule
        for path in rendered.glob("*.yml")
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
        for rule in group["rules"]
        if "alert" in rule
    }
    down = alerts["ModelwatchDown"]
    assert down["expr"] == 'absent(up{job="watch: it"} == 1)'
    assert down["labels"]["job"] == "watch: it"
    assert down["annotations"]["runbook_url"] == "https://wiki.example.org/runbook#modelwatchdown"
    assert down["annotations"]["dashboard_url"].startswith("https://grafana.example.org/g/d/modelwatch-overview?viewPanel=")
    spent = alerts["ModelwatchBudgetSpent"]["annotations"]["case_url"]
    assert spent == "https://watch.example.org/mw/cases?model={{ $labels.model }}"


def test_links_lead_to_the_grafana_of_the_config_unless_people_open_it_elsewhere() -> None:
    config = Config.model_validate({"grafana": {"url": "http://grafana:3000", "token": "glsa_" + "x" * 20}})
    assert "http://grafana:3000/d/modelwatch-overview" in rendering.render(config, RULES)["daemon.rules.yml"]
    config = config.model_copy(update={"rules": RulesConfig(grafana_url="https://grafana.example.org")})
    assert "https://grafana.example.org/d/modelwatch-overview" in rendering.render(config, RULES)["daemon.rules.yml"]


# What is rendered is asked for by values that only the limits of the config tell apart.
SERIES = {
    'modelwatch_llm_requests_total{provider="openai",llm_model="gpt-4o"}': "0+10x240",
    'modelwatch_llm_errors_total{provider="openai",llm_model="gpt-4o",class="auth"}': "0+10x240",
    'modelwatch_llm_requests_total{provider="openai",llm_model="plain"}': "0+10x240",
    'modelwatch_llm_errors_total{provider="openai",llm_model="plain",class="rate_limit"}': "0+10x240",
    'modelwatch_llm_requests_total{provider="other",llm_model="llama"}': "0+10x240",
    'modelwatch_llm_errors_total{provider="other",llm_model="llama",class="timeout"}': "0+0.5x240",
    'modelwatch_llm_requests_total{provider="other",llm_model="else"}': "0+10x240",
    'modelwatch_llm_errors_total{provider="other",llm_model="else",class="timeout"}': "0+0.5x240",
    'modelwatch_llm_input_tokens_total{provider="openai",llm_model="gpt-4o"}': "0+20000x240",
    'modelwatch_llm_output_tokens_total{provider="openai",llm_model="gpt-4o"}': "0+16000x240",
    'modelwatch_detector_score_ratio_count{model="bot",detector="toxicity"}': "0+1x240",
    'modelwatch_detector_flagged_total{model="bot",detector="toxicity"}': "0+0.9x240",
    'tgi_queue_size{node="gpu-7",served="llama"}': "6x240",
    'tgi_cache{node="gpu-7",served="llama"}': "0.98x240",
    'gpu_used{Hostname="gpu-7:9400",gpu="0"}': "50x240",
    'gpu_free{Hostname="gpu-7:9400",gpu="0"}': "50x240",
}
FIRING = (
    '{alertname="ModelwatchAvailabilityBurnsFast", provider="openai", llm_model="gpt-4o"}',  # auth counts, at 0.95
    '{alertname="ModelwatchAvailabilityBurnsSlowly", provider="openai", llm_model="gpt-4o"}',
    '{alertname="ModelwatchAvailabilityBurnsSlowly", provider="other", llm_model="llama"}',  # 5 %: too much at 0.99, not at 0.9
    '{alertname="ModelwatchFlaggedBurnsFast"}',
    '{alertname="ModelwatchFlaggedBurnsSlowly"}',
    '{alertname="ModelwatchQuotaUsed", provider="openai", llm_model="gpt-4o"}',  # 36,000 of 30,000
    '{alertname="ModelwatchQuotaNearlyUsed", provider="openai", llm_model="gpt-4o"}',
    '{alertname="ModelwatchServingQueueGrows", llm_model="llama"}',
    '{alertname="ModelwatchServingMemoryFull", llm_model="llama"}',
)


def test_what_is_rendered_fires_by_the_limits_and_names_of_the_config(rendered: Path) -> None:
    test = {
        "rule_files": [f"{name}.rules.yml" for name in ("config", "slo", "serving")],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": 'up{job="watch: it"}', "values": "1x240"},
                    {"series": 'modelwatch_ingest_records_total{kind="generations", model="bot"}', "values": "0+5x240"},
                    *({"series": series, "values": values} for series, values in SERIES.items()),
                ],
                "promql_expr_test": [
                    {
                        "expr": 'count by (alertname, provider, llm_model) (ALERTS{alertstate="firing"})',
                        "eval_time": "200m30s",
                        "exp_samples": [{"labels": labels, "value": 1} for labels in FIRING],
                    },
                    {
                        "expr": 'quota:modelwatch_llm_limit:per_minute{llm_model="all"}',
                        "eval_time": "200m30s",
                        "exp_samples": [
                            {
                                "labels": "quota:modelwatch_llm_limit:per_minute"
                                '{kind="tokens", llm_model="all", provider="openai"}',
                                "value": 60_000,
                            }
                        ],
                    },
                    {
                        "expr": "model_check:modelwatch_window_age_limit:seconds",
                        "eval_time": "200m30s",
                        "exp_samples": [
                            {
                                "labels": 'model_check:modelwatch_window_age_limit:seconds{model="bot", check="unsafe"}',
                                "value": 2 * 3600 + 120 + 300 + 600,
                            }
                        ],
                    },
                    {
                        "expr": "provider_llm_model:modelwatch_availability_objective:ratio",
                        "eval_time": "200m30s",
                        "exp_samples": [
                            {
                                "labels": "provider_llm_model:modelwatch_availability_objective:ratio"
                                f'{{provider="{provider}", llm_model="{llm}"}}',
                                "value": value,
                            }
                            for provider, llm, value in (
                                ("openai", "gpt-4o", 0.95),
                                ("openai", "plain", 0.95),
                                ("other", "llama", 0.99),
                                ("other", "else", 0.9),
                            )
                        ],
                    },
                ],
            }
        ],
    }
    path = rendered / "test.yml"
    path.write_text(yaml.safe_dump(test), encoding="utf-8")
    run("promtool", "test", "rules", str(path))


def test_diff_says_what_would_change_and_nothing_once_it_is_rendered(
    rendered: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "modelwatch.yaml"
    assert command("diff", "--config", str(path), "--out", str(rendered)) == 0
    capsys.readouterr()
    written(tmp_path, FULL | {"slo": {"min_records": 77}})
    assert command("diff", "--config", str(path), "--out", str(rendered)) == 1
    printed = capsys.readouterr().out
    assert "+        expr: vector(77)" in printed
    assert "-        expr: vector(20)" in printed
    assert "slo.rules.yml" not in printed


def test_a_window_from_before_a_quiet_night_is_not_stale_and_one_that_is_not_read_is(rendered: Path) -> None:
    """Windows of an hour. What the labels of yesterday's predictions bring in at night fills none."""
    records, end = "modelwatch_ingest_records_total", 'modelwatch_window_end_timestamp_seconds{check="unsafe", model="bot"}'
    night = {
        f'{records}{{kind="generations", model="bot"}}': "0+5x120 600x479 600+5x300",
        f'{records}{{kind="labels", model="bot"}}': "0+5x900",
    }
    evening = "0x60 3600x60 7200x"  # an hour's window is read as soon as it is over

    def tested(name: str, ends: str, asked: dict[str, list[str]]) -> dict[str, Any]:
        return {
            "name": name,
            "interval": "1m",
            "input_series": [{"series": one, "values": values} for one, values in (night | {end: ends}).items()],
            "promql_expr_test": [
                {
                    "expr": 'ALERTS{alertname="ModelwatchWindowsStale", alertstate="firing"}',
                    "eval_time": at,
                    "exp_samples": [{"labels": labels, "value": 1} for labels in firing],
                }
                for at, firing in asked.items()
            ],
        }

    quiet: dict[str, list[str]] = {at: [] for at in ("130m30s", "180m30s", "400m30s", "620m30s", "650m30s", "850m30s")}
    stale = 'ALERTS{alertname="ModelwatchWindowsStale", alertstate="firing", check="unsafe", model="bot", severity="warning"}'
    test = {
        "rule_files": ["config.rules.yml", "drift.rules.yml", "detectors.rules.yml"],
        "evaluation_interval": "1m",
        "tests": [
            tested("read again in the morning", evening + "540 39600x59 43200x59 46800x59 50400x59", quiet),
            tested("not read again", evening + "800", {"650m30s": [], "850m30s": [stale]}),
        ],
    }
    path = rendered / "stale_test.yml"
    path.write_text(yaml.safe_dump(test))
    run("promtool", "test", "rules", str(path))


def test_without_a_folder_the_rules_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("render", "--config", str(written(tmp_path))) == 0
    assert set(yaml.safe_load(capsys.readouterr().out.partition("# --- config.rules.yml\n")[2].partition("# --- ")[0])) == {
        "groups"
    }


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert command("render", "--config", str(written(tmp_path)), "--out", str(tmp_path / "file")) == 1
    assert f"{tmp_path / 'file'}: cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("section", "problem"),
    (
        pytest.param({"serving": {"availability": {"objective": 1}}}, "serving.availability.objective", id="nothing may fail"),
        pytest.param({"serving": {"availability": {"errors": ["slow"]}}}, "serving.availability.errors.0", id="no class"),
        pytest.param(
            {"serving": {"availability": {"objectives": [{"objective": 0.9}]}}}, "give provider, llm_model", id="nobody"
        ),
        pytest.param({"serving": {"quotas": [{"provider": "openai"}]}}, "give tokens_per_minute", id="quota of nothing"),
        pytest.param({"serving": {"quotas": [{"provider": "a", "tokens_per_minute": 1}] * 2}}, "0 and 1 are both", id="twice"),
        pytest.param({"serving": {"hosts": {"waiting": "a b"}}}, "serving.hosts.waiting", id="no metric name"),
        pytest.param({"serving": {"hosts": {"gpu_host": "a-b"}}}, "serving.hosts.gpu_host", id="no label name"),
        pytest.param({"slo": {"flagged": [{"model": "x", "detector": "d", "objective": 0.9}]}}, "no model 'x'", id="no model"),
        pytest.param(
            {"slo": {"flagged": [{"model": "bot", "detector": "pii", "objective": 0.9}]}},
            "slo.flagged.0.detector: no check of bot scores by 'pii'; there are toxicity",
            id="no such detector",
        ),
        pytest.param({"rules": {"job": 'a"b'}}, "rules.job", id="a job that ends the string"),
        pytest.param({"rules": {"job": "bob's"}}, "rules.job", id="a job that ends a scalar"),
        pytest.param({"rules": {"grafana_url": "grafana:3000"}}, "rules.grafana_url", id="no URL"),
        pytest.param({"rules": {"runbook_url": "https://x/{{ . }}"}}, "rules.runbook_url", id="a template"),
    ),
)
def test_a_wrong_value_is_a_problem_with_its_place(tmp_path: Path, section: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configfile.load(written(tmp_path, {"models": FULL["models"], "checks": FULL["checks"], **section}))
    assert any(problem in line for line in caught.value.problems), caught.value.problems


def test_the_table_of_alerts_can_be_printed() -> None:
    import sys

    done = subprocess.run([sys.executable, "-m", "tests.rules"], capture_output=True, text=True, timeout=60, check=True)
    assert "| ModelwatchDown | daemon_test.yml: no daemon at all |" in done.stdout
