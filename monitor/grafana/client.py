"""The calls we make to Grafana, one method each, and their errors.

Written against the HTTP API's documentation (grafana.com/docs, developer resources, HTTP API; the `/api` part, which Grafana 13
keeps) and grafana-client 5.1. Not all of that client's ways are ours: it does not quote tags in an address, and its patch of an
annotation takes away the tags it is not given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args
from urllib.parse import quote, urlsplit

from monitor import retryafter
from monitor.clock import Clock, SystemClock
from monitor.errors import ModelwatchError
from monitor.grafana.config import GrafanaConfig

Reason = Literal[
    "unauthorized", "forbidden", "not_found", "conflict", "changed", "rejected", "busy", "server", "timeout", "unreachable",
    "answer",
]  # fmt: skip
REASONS: tuple[Reason, ...] = get_args(Reason)
HINTS: Mapping[str, str] = {
    "unauthorized": "is grafana.token that of a service account, and not expired?",
    "forbidden": "the service account needs the role Editor, and Admin for the datasource",
    "timeout": "raise grafana.timeout_seconds, or see what keeps Grafana busy",
    "unreachable": "does Grafana run, and is grafana.url its address?",
    "answer": "is grafana.url the address of Grafana itself?",
}
BY_STATUS: Mapping[int, Reason] = {
    401: "unauthorized", 403: "forbidden", 404: "not_found", 409: "conflict", 412: "changed", 429: "busy"
}  # fmt: skip
LASTING: frozenset[Reason] = frozenset({"rejected", "conflict", "changed", "not_found"})


class GrafanaError(ModelwatchError):
    """Grafana did not do it. `reason` is one of `REASONS`; `passing` says that the same call may succeed later, not
    before `seconds` where it said so."""

    def __init__(
        self, reason: Reason, message: str, status: int = 0, hint: str | None = None, seconds: float | None = None
    ) -> None:
        hint = HINTS.get(reason) if hint is None else hint
        super().__init__(f"{message}; {hint}" if hint else message)
        self.reason = reason
        self.status = status
        self.seconds = seconds

    @property
    def passing(self) -> bool:
        return self.reason not in LASTING

    @property
    def everywhere(self) -> bool:
        """Every other call would end so as well."""
        return self.reason in ("unauthorized", "busy", "server", "timeout", "unreachable", "answer")


@dataclass(frozen=True, slots=True)
class Version:
    """The last time a dashboard was saved."""

    number: int
    message: str
    by: str
    at: str


class Grafana:
    """One Grafana, as one service account sees it. For one thread."""

    def __init__(self, config: GrafanaConfig, clock: Clock | None = None) -> None:
        from grafana_client.api import GrafanaApi  # only who uses it needs it

        parts = urlsplit(config.url)
        path = parts.path.strip("/")
        self.url = config.url
        self._clock = clock or SystemClock()
        self._retry_after: str | None = None  # of the last answer; the client's errors do not have it
        self._api: Any = GrafanaApi(
            config.token.get_secret_value(),
            host=f"[{parts.hostname}]" if parts.hostname and ":" in parts.hostname else parts.hostname,
            port=parts.port,
            url_path_prefix=f"{path}/" if path else "",
            protocol=parts.scheme,
            verify=str(config.ca_file) if config.verify and config.ca_file else config.verify,
            timeout=config.timeout_seconds,
            organization_id=config.org,
            user_agent="modelwatch",
        )
        # A redirect would be followed with the token, and make of a POST a GET: whoever moved Grafana has to say where to.
        self._api.client.s.max_redirects = 0
        self._api.client.s.hooks["response"].append(self._answered)

    def close(self) -> None:
        self._api.client.s.close()

    def folder(self, uid: str) -> dict[str, Any] | None:
        return self._maybe(lambda: self._api.folder.get_folder(uid))

    def create_folder(self, uid: str, title: str) -> None:
        self._ask(lambda: self._api.folder.create_folder(title, uid=uid))

    def datasource(self, uid: str) -> dict[str, Any] | None:
        return self._maybe(lambda: self._api.datasource.get_datasource_by_uid(uid))

    def create_datasource(self, body: Mapping[str, Any]) -> None:
        self._ask(lambda: self._api.datasource.create_datasource(dict(body)))

    def update_datasource(self, uid: str, body: Mapping[str, Any]) -> None:
        self._ask(lambda: self._api.datasource.update_datasource_by_uid(uid, dict(body)))

    def dashboard(self, uid: str) -> dict[str, Any] | None:
        """`dashboard` and `meta`."""
        return self._maybe(lambda: self._api.dashboard.get_dashboard(uid))

    def last_version(self, uid: str) -> Version | None:
        """None where Grafana keeps none. Newer ones put a list into an object."""
        found = self._ask(lambda: self._api.client.GET(f"/dashboards/uid/{uid}/versions?limit=1"), kind=(dict, list))
        versions = found.get("versions", []) if isinstance(found, dict) else found
        if not versions:
            return None
        one = max(versions, key=lambda v: int(v["version"]))
        return Version(int(one["version"]), one.get("message") or "", one.get("createdBy") or "", one.get("created") or "")

    def save_dashboard(self, dashboard: Mapping[str, Any], folder: str, message: str, *, overwrite: bool) -> None:
        """
        Raises:
            GrafanaError: `changed`, where `dashboard` has not the version that Grafana has, and not `overwrite`.
        """
        body = {"dashboard": dict(dashboard), "folderUid": folder, "message": message, "overwrite": overwrite}
        self._ask(lambda: self._api.dashboard.update_dashboard(body))

    def annotations(self, tag: str) -> list[dict[str, Any]]:
        """Those with the tag, the oldest first."""
        tags = [quote(tag, safe="")]
        found = self._ask(lambda: self._api.annotations.find_annotations(ann_type="annotation", tags=tags, limit=100), kind=list)
        return sorted(found, key=lambda one: int(one["id"]))

    def add_annotation(self, start: int, end: int | None, tags: Sequence[str], text: str) -> None:
        """`start` and `end` in milliseconds; without an end it is a point in time."""
        self._ask(lambda: self._api.annotations.add_annotation(time_from=start, time_to=end, tags=[*tags], text=text))

    def patch_annotation(self, annotation: int, start: int, end: int | None, tags: Sequence[str], text: str) -> None:
        self._ask(
            lambda: self._api.annotations.partial_update_annotation(
                annotation, time_from=start, time_to=end, tags=[*tags], text=text
            )
        )

    def delete_annotation(self, annotation: int) -> None:
        """Also where it is gone already."""
        self._maybe(lambda: self._api.annotations.delete_annotations_by_id(annotation))

    def rule_group(self, folder: str, group: str) -> dict[str, Any] | None:
        return self._maybe(lambda: self._api.alertingprovisioning.get_rule_group(folder, quote(group, safe="")))

    def put_rule_group(self, folder: str, group: str, body: Mapping[str, Any]) -> None:
        self._ask(lambda: self._api.alertingprovisioning.update_rule_group(folder, quote(group, safe=""), dict(body)))

    def rules(self) -> list[dict[str, Any]]:
        """All alert rules of the organisation."""
        found: list[dict[str, Any]] = self._ask(lambda: self._api.alertingprovisioning.get_alertrules_all(), kind=list)
        return found

    def delete_rule(self, uid: str) -> None:
        self._ask(lambda: self._api.alertingprovisioning.delete_alertrule(uid), kind=(dict, type(None)))

    def _answered(self, response: Any, **_: Any) -> None:
        self._retry_after = response.headers.get("Retry-After")

    def _maybe(self, call: Callable[[], Any]) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = self._ask(call)
        except GrafanaError as exc:
            if exc.reason == "not_found":
                return None
            raise
        return found

    def _ask(self, call: Callable[[], Any], kind: type | tuple[type, ...] = dict) -> Any:
        """
        Raises:
            GrafanaError: whatever went wrong.
        """
        import niquests
        from grafana_client.client import GrafanaException, GrafanaTimeoutError

        try:
            found = call()
        except GrafanaTimeoutError as exc:
            raise GrafanaError("timeout", f"{self.url}: no answer in time") from exc
        except GrafanaException as exc:
            if not exc.status_code:
                raise GrafanaError("unreachable", f"{self.url}: {exc.message}") from exc
            reason = BY_STATUS.get(exc.status_code, "server" if exc.status_code >= 500 else "rejected")
            wait = retryafter.seconds(self._retry_after, self._clock.now())
            raise GrafanaError(reason, f"{self.url}: {exc.status_code}, {_said(exc)}", exc.status_code, seconds=wait) from exc
        except niquests.exceptions.Timeout as exc:
            raise GrafanaError("timeout", f"{self.url}: no answer in time") from exc
        except (niquests.exceptions.TooManyRedirects, niquests.exceptions.JSONDecodeError) as exc:
            raise GrafanaError("answer", f"{self.url}: what answers there is not Grafana's API ({type(exc).__name__})") from exc
        except niquests.exceptions.SSLError as exc:
            hint = "give grafana.ca_file, or correct grafana.url"
            raise GrafanaError("unreachable", f"{self.url}: its certificate is not trusted", hint=hint) from exc
        except (niquests.exceptions.RequestException, OSError) as exc:
            raise GrafanaError("unreachable", f"{self.url}: {type(exc).__name__}") from exc
        if not isinstance(found, kind):
            raise GrafanaError("answer", f"{self.url}: what answers there is not Grafana's API")
        return found


def _said(exc: Any) -> str:
    """Grafana's own words, of which there may be a page."""
    found = exc.response.get("message") if isinstance(exc.response, dict) else exc.response
    return " ".join(str(found or exc.message).split())[:300]
