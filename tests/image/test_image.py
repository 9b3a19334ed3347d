"""What can be known of the image and the compose file without running them. `tests.image.rehearse` runs them, as root."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from string import Template
from typing import Any

import pytest
import yaml

from monitor import configfile
from tests.image import rehearse
from tests.image.imagefile import stages

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
STAGES = stages(DOCKER / "Dockerfile")
CONFIG = configfile.load(DOCKER / "modelwatch.yaml")


@pytest.mark.parametrize("target", ("cpu", "gpu"))
def test_what_runs_is_no_root_has_a_process_one_that_reaps_and_says_whether_it_is_ready(target: str) -> None:
    stage = STAGES[target]
    assert stage.user == "10001:10001"
    assert [*stage.entrypoint, *stage.command][:3] == ["/usr/bin/tini", "--", "modelwatch"]
    assert f"127.0.0.1:{CONFIG.metrics.port}/-/ready" in stage.health[-1]
    assert stage.environment["HF_HUB_OFFLINE"] == "1"


@pytest.mark.parametrize("target", ("cpu", "gpu"))
def test_the_last_layer_takes_the_environment_and_nothing_else(target: str) -> None:
    assert STAGES[target].steps == (("COPY", f"--from=build-{target} /opt/modelwatch /opt/modelwatch"),)
    assert [step for step, _ in STAGES["base"].steps] == ["COPY", "RUN"]


def test_every_path_that_a_service_mounts_is_there_and_read_only() -> None:
    for name, service in COMPOSE["services"].items():
        assert service["read_only"], name
        for entry in service["volumes"]:
            source, _, mode = entry.partition(":")
            if source.startswith("."):
                assert (DOCKER / source).resolve().exists(), entry
                assert mode.endswith(":ro"), entry
            else:
                assert source in COMPOSE["volumes"], entry


def test_what_is_published_is_what_listens_and_only_on_the_loopback_address() -> None:
    listens = {CONFIG.server.port, CONFIG.metrics.port, *(one.port for one in CONFIG.otlp.listeners.values())}
    published = COMPOSE["services"]["modelwatch"]["ports"]
    assert {int(one.rpartition(":")[2]) for one in published} == listens
    for service in COMPOSE["services"].values():
        assert all(re.fullmatch(r"127\.0\.0\.1:(\d+):\1", one) for one in service["ports"]), service["ports"]


def test_the_store_lies_in_the_volume_whose_folder_the_image_gives_to_its_user() -> None:
    inside = next(e.partition(":")[2] for e in COMPOSE["services"]["modelwatch"]["volumes"] if e.startswith("store:"))
    assert CONFIG.store.path.is_relative_to(inside)
    assert f"-o modelwatch -g modelwatch {inside}" in (DOCKER / "install.sh").read_text()


def test_no_image_is_taken_without_a_version() -> None:
    for name, service in COMPOSE["services"].items():
        if name != "modelwatch":
            assert re.search(r":v?\d+\.\d+\.\d+$", service["image"]), service["image"]


def test_prometheus_takes_its_config_with_the_rules_where_they_are_mounted(tmp_path: Path) -> None:
    assert "../rules:/etc/prometheus/rules:ro" in COMPOSE["services"]["prometheus"]["volumes"]
    text = (DOCKER / "prometheus.yml").read_text().replace("/etc/prometheus/rules", str(ROOT / "rules"))
    config = tmp_path / "prometheus.yml"
    config.write_text(text)
    found = subprocess.run(["promtool", "check", "config", config], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert re.search(r"SUCCESS: \d+ rules found", found.stdout + found.stderr)
    jobs = {job["job_name"]: job["static_configs"][0]["targets"] for job in yaml.safe_load(text)["scrape_configs"]}
    itself = "localhost:9090"  # whose series ModelwatchRulesFailing reads
    assert jobs == {"modelwatch": [f"modelwatch:{CONFIG.metrics.port}"], "prometheus": [itself]}


def test_grafana_reads_the_dashboards_and_data_sources_that_are_in_this_network() -> None:
    provisioning, grafana = ROOT / "dashboards/provisioning", COMPOSE["services"]["grafana"]
    text = (provisioning / "datasources/modelwatch.yaml").read_text()
    metrics, records = yaml.safe_load(text)["datasources"]
    assert metrics["url"] == "http://prometheus:9090"
    assert records["url"] == f"http://modelwatch:{CONFIG.server.port}"
    assert records["jsonData"]["allowedHosts"] == [records["url"]], "whom its token may be sent to"
    assert records["jsonData"]["customHealthCheckUrl"].startswith(records["url"])
    # Grafana fills in $NAME and ${NAME} from its environment, and makes $ of $$.
    filled = Template(text).substitute(grafana["environment"])
    [link] = yaml.safe_load(filled)["datasources"][0]["jsonData"]["exemplarTraceIdDestinations"]
    assert link["url"] == f"{CONFIG.external_url}/traces/${{__value.raw}}"
    assert re.fullmatch(rf"{records['type']}@\d+\.\d+\.\d+", grafana["environment"]["GF_PLUGINS_PREINSTALL_SYNC"])
    provider = yaml.safe_load((provisioning / "dashboards/modelwatch.yaml").read_text())["providers"][0]
    assert f"../dashboards:{provider['options']['path']}:ro" in grafana["volumes"]
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (ROOT / "dashboards" / Path(home).name).is_file()


def test_the_build_sees_what_an_install_needs_and_no_more() -> None:
    assert (DOCKER / "Dockerfile.dockerignore").read_text().startswith("**\n"), "all is left out but what follows"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    installed = {project["project"]["readme"], *project["project"]["license-files"], *wheel["packages"], *wheel["force-include"]}
    assert set(rehearse.CONTEXT) == {"docker/install.sh", "pyproject.toml", "requirements.lock", *installed}


def test_the_unit_runs_the_programs_that_the_image_has_and_waits_until_the_daemon_is_ready() -> None:
    unit = (DOCKER / "modelwatch.service").read_text()
    settings = dict(line.split("=", 1) for line in unit.splitlines() if "=" in line and not line.startswith("#"))
    assert settings["Type"] == "notify"
    assert settings["ExecStart"] == "/opt/modelwatch/bin/modelwatch run /etc/modelwatch/modelwatch.yaml"
    assert settings["DynamicUser"] == "yes"
    [mode] = re.findall(r"install -D -m (\d+) modelwatch.yaml", unit)
    assert int(mode, 8) & 0o004, "a user made at the start belongs to no group that the file could be given to"


def test_an_instruction_that_the_reader_does_not_know_is_named(tmp_path: Path) -> None:
    file = tmp_path / "Dockerfile"
    file.write_text("FROM debian:12-slim AS base\nONBUILD RUN true\n")
    with pytest.raises(ValueError, match="Dockerfile:2: ONBUILD RUN true"):
        stages(file)
