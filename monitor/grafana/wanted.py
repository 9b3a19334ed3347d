"""What should be there: the datasource as the config has it, and the dashboards and rules that travel with the program."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from monitor import data, external, rendering
from monitor.errors import ModelwatchError
from monitor.grafana import alerts
from monitor.grafana.config import Datasource, Folder, Records

if TYPE_CHECKING:
    from monitor.config import Config

NOT_OURS = ("id", "version")
"""Of a dashboard: what Grafana gives it."""


@dataclass(frozen=True, slots=True)
class Dashboard:
    uid: str
    title: str
    content: Mapping[str, Any]

    @property
    def hash(self) -> str:
        """Of what we want it to be; stands in the message of the version that we save."""
        return hashlib.sha256(json.dumps(self.content, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Wanted:
    folder: Folder
    datasources: Sequence[Mapping[str, Any]]
    dashboards: Sequence[Dashboard]
    groups: Sequence[Mapping[str, Any]] = ()  # of alert rules, as Grafana takes them
    left_out: Mapping[str, str] = field(default_factory=dict)  # alerts that Grafana cannot have, and why
    overwrite: bool = False
    force: bool = False  # secrets, which Grafana does not show, are sent again


def of(config: Config, *, force: bool = False) -> Wanted:
    """What a config asks for; `force`: dashboards that a person changed as well.

    Raises:
        ModelwatchError: the installation is not whole.
    """
    assert config.grafana is not None
    one, link = config.grafana, external.base(config)
    found = alerts.Converted()
    if one.alerts:
        assert one.datasource is not None, "the config has seen to it"
        found = alerts.convert(rules(config), datasource=one.datasource.uid, folder=one.folder.uid, external_url=link)
    sources = [prometheus(one.datasource, link)] if one.datasource is not None else []
    if one.records is not None:
        sources.append(records(one.records))
    return Wanted(
        one.folder,
        sources,
        dashboards(data.folder("dashboards")),
        found.groups,
        found.left_out,
        one.overwrite or force,
        force,
    )


def rules(config: Config) -> list[Mapping[str, Any]]:
    """The groups of the rule files as the config has them, with links to its Grafana."""
    assert config.grafana is not None
    here = config.rules.model_copy(update={"grafana_url": config.grafana.url})
    files = rendering.render(config.model_copy(update={"rules": here}), data.folder("rules"))
    return [group for text in files.values() for group in yaml.safe_load(text)["groups"]]


def dashboards(folder: Path) -> list[Dashboard]:
    """Those of the folder, by file name.

    Raises:
        ModelwatchError: one of the files is no dashboard.
    """
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            content = {key: value for key, value in content.items() if key not in NOT_OURS}
            found.append(Dashboard(content["uid"], content["title"], content))
        except (OSError, ValueError, KeyError, AttributeError) as exc:
            raise ModelwatchError(f"{path}: cannot be read as a dashboard ({exc!r}); install modelwatch again") from exc
    return found


def prometheus(config: Datasource, external_url: str) -> dict[str, Any]:
    """Of Prometheus, with a link from each exemplar to the page of its trace."""
    return {
        "uid": config.uid,
        "name": config.name,
        "type": "prometheus",
        "access": "proxy",
        "url": config.url,
        "jsonData": {
            "httpMethod": "POST",
            "prometheusType": "Prometheus",
            "timeInterval": f"{config.scrape_seconds}s",
            "exemplarTraceIdDestinations": [
                {"name": "trace_id", "url": f"{external_url}/traces/${{__value.raw}}", "urlDisplayLabel": "Open trace"}
            ],
        },
    }


def records(config: Records) -> dict[str, Any]:
    """Of the plugin Infinity, on the daemon's API. It wants a token even where nobody asks for one."""
    token = config.token.get_secret_value() if config.token is not None else "none"
    return {
        "uid": config.uid,
        "name": config.name,
        "type": "yesoreyeram-infinity-datasource",
        "access": "proxy",
        "url": config.url,
        "jsonData": {
            "auth_method": "bearerToken",
            "allowedHosts": [config.url],
            "customHealthCheckEnabled": True,
            "customHealthCheckUrl": f"{config.url}/v1/cases?limit=1",
        },
        "secureJsonData": {"bearerToken": token},
    }
