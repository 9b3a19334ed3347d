"""The Grafana for tests is as strict as it says: what it lets pass proves something."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from monitor.grafana.client import Grafana, GrafanaError
from monitor.grafana.config import GrafanaConfig
from tests.grafana.server import GrafanaServer

HEADERS = {"Authorization": "Bearer glsa_admin", "User-Agent": "modelwatch", "Content-Type": "application/json"}


@pytest.fixture
def server() -> Iterator[GrafanaServer]:
    with GrafanaServer() as made:
        yield made


def ask(server: GrafanaServer, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, str]:
    sent = {**HEADERS, **{name.replace("_", "-"): value for name, value in headers.items()}}
    content = None if body is None else (body if isinstance(body, bytes) else httpx.Request("POST", "http://x", json=body).read())
    with httpx.Client(base_url=server.url, headers=sent) as client:
        answer = client.request(method, f"/api{path}", content=content)
    found = answer.json()
    return answer.status_code, found.get("message", "") if isinstance(found, dict) else ""


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "message"),
    (
        ("GET", "/folders/none", None, 404, "folder not found"),
        ("GET", "/dashboards/uid/none", None, 404, "Dashboard not found"),
        ("GET", "/datasources/uid/none", None, 404, "Data source not found"),
        ("PATCH", "/annotations/7", {"text": "x"}, 404, "Annotation not found"),
        ("GET", "/v1/provisioning/folder/f/rule-groups/g", None, 404, "rule group not found"),
        ("POST", "/folders", b"{", 400, "bad request data"),
        ("POST", "/folders", {"uid": "f"}, 400, "folder title cannot be empty"),
        ("POST", "/dashboards/db", {"dashboard": {"uid": "d"}}, 400, "Dashboard title cannot be empty"),
        ("POST", "/dashboards/db", {"dashboard": {"title": "t"}, "folderUid": "none"}, 400, "folder not found"),
        ("POST", "/dashboards/db", {"dashboard": {"title": "t", "uid": "u" * 41}}, 400, "uid contains illegal characters"),
        ("POST", "/annotations", {"time": 1_700_000_000_000}, 400, "Failed to save annotation"),
        ("POST", "/annotations", {"text": "x", "time": "now"}, 400, "bad request data"),
        ("POST", "/datasources", {"name": "d", "type": "prometheus", "access": "proxy", "url": "p"}, 400, "Validation error"),
        ("PUT", "/v1/provisioning/folder/f/rule-groups/g", {"interval": 60, "rules": []}, 400, "folder does not exist"),
    ),
)
def test_it_refuses_as_grafana_does(server: GrafanaServer, method: str, path: str, body: Any, status: int, message: str) -> None:
    code, told = ask(server, method, path, body)
    assert (code, message in told) == (status, True), told
    assert server.strange == []


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "strange"),
    (
        ("GET", "/org", None, {}, "GET /org"),
        ("GET", "/annotations?tag=x", None, {}, "parameters ['tag']"),
        ("POST", "/folders", {"title": "t", "name": "n"}, {}, "folder: fields ['name']"),
        ("POST", "/folders", {"title": "t"}, {"Content_Type": "text/plain"}, "Content-Type text/plain"),
        ("POST", "/annotations", {"text": "x", "time": 1_700_000_000}, {}, "no milliseconds"),
        ("GET", "/folders/f", None, {"User_Agent": "curl"}, "User-Agent curl"),
    ),
)
def test_it_notes_what_the_documentation_does_not_know(
    server: GrafanaServer, method: str, path: str, body: Any, headers: dict[str, str], strange: str
) -> None:
    ask(server, method, path, body, **headers)
    assert [strange in one for one in server.strange] == [True]


@pytest.mark.parametrize(
    ("headers", "status"),
    (
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": "Basic glsa_admin"}, 401),
        ({"X_Grafana_Org_Id": "7"}, 401),
        ({"Authorization": "Bearer glsa_viewer"}, 403),
    ),
)
def test_it_asks_who_is_there(server: GrafanaServer, headers: dict[str, str], status: int) -> None:
    assert ask(server, "POST", "/folders", {"title": "t"}, **headers)[0] == status
    assert server.folders == {}


def test_a_version_is_held_to_and_a_file_has_charge_of_its_dashboard(server: GrafanaServer) -> None:
    grafana = Grafana(GrafanaConfig.model_validate({"url": server.url, "token": "glsa_editor"}))
    grafana.create_folder("f", "f")
    grafana.save_dashboard({"uid": "d", "title": "t"}, "f", "first", overwrite=False)
    for version, overwrite, reason in ((0, False, "changed"), (1, False, None), (1, True, None), (3, False, None)):
        try:
            grafana.save_dashboard({"uid": "d", "title": "t", "version": version}, "f", "", overwrite=overwrite)
            seen = None
        except GrafanaError as exc:
            seen = exc.reason
        assert seen == reason, (version, overwrite)
    server.provisioned("p", {"title": "from a file"})
    with pytest.raises(GrafanaError, match="Cannot save provisioned dashboard") as caught:
        grafana.save_dashboard({"uid": "p", "title": "t", "version": 1}, "f", "", overwrite=True)
    assert (caught.value.reason, caught.value.status) == ("rejected", 400)
    grafana.close()


def test_a_patch_with_an_empty_list_of_tags_takes_them_away(server: GrafanaServer) -> None:
    at = 1_700_000_000_000
    assert ask(server, "POST", "/annotations", {"text": "x", "time": at, "tags": ["a", "b:c"]}) == (200, "Annotation added")
    assert ask(server, "PATCH", "/annotations/1", {"time": None, "timeEnd": at + 1, "tags": ["a"]})[0] == 200
    assert (server.annotations[0]["time"], server.annotations[0]["timeEnd"], server.annotations[0]["tags"]) == (at, at + 1, ["a"])
    assert ask(server, "PATCH", "/annotations/1", {"tags": []})[0] == 200
    assert server.annotations[0]["tags"] == []
