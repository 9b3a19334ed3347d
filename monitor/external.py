"""Where people reach the daemon's pages: `external_url`, from which every link is built."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote, urlsplit

from pydantic import AfterValidator

if TYPE_CHECKING:
    from monitor.config import Config


def _url(value: str) -> str:
    try:
        parts = urlsplit(value)
        port_is_one = parts.port is None or parts.port > 0
    except ValueError as exc:
        raise ValueError(f"{value!r} is no URL; give one such as https://modelwatch.example.org") from exc
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_one or not value.isprintable():
        raise ValueError(f"{value!r} is no URL of http or https; give one such as https://modelwatch.example.org")
    if parts.query or parts.fragment or parts.username is not None or any(c in value for c in " \"'<>\\`"):
        raise ValueError(f"{value!r}: links are made of it, so no query, no fragment, no user and no quotes; give host and path")
    return value.rstrip("/")


ExternalUrl = Annotated[str, AfterValidator(_url)]


def base(config: Config) -> str:
    """What links begin with: `external_url`, else the address of the API, which is of use on this machine only."""
    if config.external_url is not None:
        return config.external_url
    server = config.server
    host = "127.0.0.1" if server.host in ("0.0.0.0", "") else "::1" if server.host == "::" else server.host
    return f"{'https' if server.tls else 'http'}://{f'[{host}]' if ':' in host else host}:{server.port}"


def warnings(config: Config) -> Iterator[str]:
    """Why the links in alerts lead nowhere, where they do."""
    if config.external_url is None:
        yield (
            f"external_url: not set; links in alerts begin with {base(config)}, which leads nowhere from other machines; "
            "set it to the address that people open"
        )
    elif _is_loopback(urlsplit(config.external_url).hostname or ""):
        yield (
            f"external_url: {config.external_url} is a loopback address; links in alerts lead nowhere from other machines; "
            "set it to the address that people open"
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def case_path(case_id: str) -> str:
    return f"/cases/{quote(case_id, safe='')}"


def incident_path(incident_id: str) -> str:
    return f"/incidents/{quote(incident_id, safe='')}"


def trace_path(trace_id: str) -> str:
    return f"/traces/{quote(trace_id, safe='')}"


def report_path(incident_id: str) -> str:
    return f"/v1/incidents/{quote(incident_id, safe='')}/report"
