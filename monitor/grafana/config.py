"""What the config file may say of Grafana."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, model_validator

from monitor.section import Seconds, Section

UID = r"^[A-Za-z0-9_-]{1,40}$"  # as Grafana has it: longer ones are refused


def _http(value: str) -> str:
    try:
        parts = urlsplit(value)
    except ValueError as exc:
        raise ValueError(f"{value!r} is no address of a server; write it like https://grafana.example.com") from exc
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{value!r} is no address of a server; write it like https://grafana.example.com")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a name or password does not stand in an address; give token as ${env:NAME} or ${file:PATH}")
    if parts.query or parts.fragment:
        raise ValueError(f"{value!r} has more than a path; leave out what begins with ? or #")
    try:
        _ = parts.port
    except ValueError as exc:
        raise ValueError(f"{value!r} has no usable port; it is a number up to 65535") from exc
    return value.rstrip("/")


HttpUrl = Annotated[str, AfterValidator(_http)]


class Folder(Section):
    """Where dashboards and alert rules go. Known by `uid`; `title` is what it is called when it is made."""

    uid: str = Field("modelwatch", pattern=UID)
    title: str = Field("modelwatch", min_length=1, max_length=189)


class Datasource(Section):
    """The Prometheus that scrapes the daemon, as Grafana reaches it. Known by `uid`."""

    url: HttpUrl
    uid: str = Field("modelwatch-prometheus", pattern=UID)
    name: str = Field("modelwatch Prometheus", min_length=1, max_length=190)
    scrape_seconds: Seconds = Field(15, description="Prometheus' scrape interval: no rate is read over less")


class Records(Section):
    """The daemon's own JSON API, as Grafana reaches it: what the tables of cases, incidents and records are read from, by the
    plugin Infinity. Known by `uid`, which is the one that the dashboards ask unless another is chosen."""

    url: HttpUrl
    token: SecretStr | None = Field(None, min_length=1, description="of the role query; as ${env:NAME} or ${file:PATH}")
    uid: str = Field("modelwatch-records", pattern=UID)
    name: str = Field("modelwatch records", min_length=1, max_length=190)


class GrafanaConfig(Section):
    url: HttpUrl
    token: SecretStr = Field(min_length=1, description="of a service account; as ${env:NAME} or ${file:PATH}")
    org: int | None = Field(None, ge=1, description="id of the organisation; default: that of the token")
    verify: bool = Field(True, description="false trusts any certificate")
    ca_file: Path | None = Field(None, description="who may have signed its certificate")
    timeout_seconds: float = Field(5.0, gt=0, le=10, allow_inf_nan=False, description="a daemon that is stopped waits for it")
    sync: bool = Field(True, description="folder, datasources, dashboards; false for all but one of several daemons")
    every: Seconds = Field(300, description="so often it is looked whether all is in step")
    folder: Folder = Folder()
    datasource: Datasource | None = Field(None, description="default: it is there already, and left alone")
    records: Records | None = Field(None, description="default: it is there already, and left alone")
    overwrite: bool = Field(False, description="dashboards that a person changed are made ours again")
    annotations: bool = Field(True, description="incidents and changes are shown on the time axis")
    alerts: bool = Field(False, description="our alert rules as Grafana's own, where Prometheus has none")

    @model_validator(mode="after")
    def _alerts_ask_something(self) -> GrafanaConfig:
        if self.alerts and self.datasource is None:
            raise ValueError("alerts: true needs datasource: the alert rules have to ask one; give its url and uid")
        return self


def problems(
    config: GrafanaConfig | None, folder: Path, find: Callable[[str], object] = importlib.util.find_spec
) -> Iterator[str]:
    """Why it cannot be used on this machine, as `path: what is wrong; what to do`. Relative paths begin at `folder`."""
    if config is None:
        return
    if config.ca_file is not None and not (folder / config.ca_file).exists():
        yield f"grafana.ca_file: {folder / config.ca_file} is not there; create it or correct the path"
    if find("grafana_client") is None:
        install = "URLLIB3_NO_OVERRIDE=1 pip install --no-binary urllib3-future 'modelwatch[grafana]'"
        yield f"grafana: needs Grafana's client; {install}"
