"""Pages and JSON of cases, incidents and traces: what they show, whom they show it, and that nothing on them runs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from monitor import external
from monitor.auth import Tokens
from monitor.receiving import Budget
from monitor.server import PushServer
from monitor.web.look import Looks
from monitor.web.pages import Pages
from tests.monitor.support import NOON, World, check, generation, prediction

DAWN = NOON - timedelta(hours=6)
MINUTE = timedelta(minutes=1)
EVIL = "</script><script>alert(1)</script>\"'&"
URL = "https://watch.example.org"


@pytest.fixture
def serve() -> Iterator[Callable[..., httpx.Client]]:
    started: list[tuple[PushServer, httpx.Client]] = []

    def make(world: World, tokens: Path | None = None) -> httpx.Client:
        config = world.config.server.model_copy(update={"listen": "127.0.0.1:0"})
        server = PushServer(
            config, world.inbox, tokens=Tokens(tokens), budget=Budget(2**20), clock=world.clock, metrics=world.metrics,
            web=Pages(Looks(world.store, url=lambda: URL)),
        )  # fmt: skip
        server.start()
        client = httpx.Client(base_url=f"http://{server.address}", timeout=30)
        started.append((server, client))
        return client

    yield make
    for server, client in started:
        client.close()
        server.stop()


def bad(world: World) -> None:
    """Two checks of the houses that fire, after which nothing has resolved."""
    for minute, value in ((1, 1.0), (11, 15.0), (21, 15.0)):
        world.send("predictions", prediction(f"r{minute}", DAWN + minute * MINUTE, prediction=value, model_version=EVIL))
    world.look()
    world.cases.step()


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    return make_world(checks=[check("one", owner=EVIL), check("two", severity="critical")])


def test_a_case_and_its_incidents_are_there_as_soon_as_they_are_stored(world: World, serve: Callable[..., httpx.Client]) -> None:
    client = serve(world)
    assert client.get("/v1/cases").json() == {"cases": [], "next": None}
    bad(world)
    (case,) = client.get("/v1/cases", params={"model": "houses", "state": "open"}).json()["cases"]
    assert (case["state"], case["severity"], case["incident_count"]) == ("open", "critical", 2)
    assert case["url"] == f"{URL}/cases/{case['case_id']}"
    whole = client.get(f"/v1/cases/{case['case_id']}").json()
    assert {one["check"] for one in whole["incidents"]} == {one["check"] for one in whole["causes"]["checks"]} == {"one", "two"}
    listed = client.get("/v1/incidents", params={"check": "one"}).json()["incidents"]
    assert [(one["check"], one["state"], one["upper"], one["value"]) for one in listed] == [("one", "open", 10.0, 15.0)]
    one = client.get(f"/v1/incidents/{listed[0]['incident_id']}").json()
    assert (one["case_id"], one["evidence"]["value"]) == (case["case_id"], 15.0)
    assert one["report_url"] == f"{URL}/v1/incidents/{one['incident_id']}/report"


def test_an_alert_that_knows_only_the_model_leads_to_its_open_case(world: World, serve: Callable[..., httpx.Client]) -> None:
    client = serve(world)
    bad(world)
    answer = client.get("/cases", params={"model": "houses"}, follow_redirects=True)
    assert answer.url.path.startswith("/cases/")
    incident = re.search(r'href="(\.\./incidents/\w+)"', answer.text)
    assert incident, "relative, wherever a proxy has put the pages"
    assert client.get(answer.url.join(incident[1])).status_code == 200
    assert 'href="/' not in answer.text
    assert "Case of houses" in answer.text
    other = client.get("/cases", params={"model": "bot"}, follow_redirects=True)
    assert (other.url.path, "None." in other.text) == ("/cases", True)


@pytest.mark.parametrize(
    ("chosen", "found"), (("houses", 1), ("bot,houses", 1), (".+", 1), ("", 1), ("bot", 0), ("bot,house", 0))
)
def test_a_list_is_of_the_models_that_a_dashboard_has_chosen(
    world: World, serve: Callable[..., httpx.Client], chosen: str, found: int
) -> None:
    bad(world)
    # Sent as Grafana sends it, a plus as it stands.
    answer = serve(world).get(f"/v1/cases?state=open&model={chosen}")
    assert len(answer.json()["cases"]) == found


def test_what_models_and_senders_wrote_is_shown_and_runs_nothing(world: World, serve: Callable[..., httpx.Client]) -> None:
    client = serve(world)
    bad(world)
    world.send("generations", generation("g", trace_id="ab" * 16, question=EVIL, response=EVIL))
    incident = client.get("/v1/incidents").json()["incidents"][0]["incident_id"]
    for path in ("/cases?state=open", "/cases?model=houses", "/incidents", f"/incidents/{incident}", f"/traces/{'ab' * 16}"):
        answer = client.get(path, follow_redirects=True)
        assert answer.status_code == 200, path
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        assert "<script" not in answer.text, path
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert "unsafe" not in answer.headers["Content-Security-Policy"]
    assert "&lt;script&gt;alert(1)" in answer.text


def test_lists_are_paged_and_what_cannot_be_asked_is_said(world: World, serve: Callable[..., httpx.Client]) -> None:
    client = serve(world)
    bad(world)
    first = client.get("/v1/incidents", params={"limit": 1}).json()
    second = client.get("/v1/incidents", params={"limit": 1, "offset": first["next"]}).json()
    assert (first["next"], second["next"]) == (1, None)
    assert {one["incidents"][0]["check"] for one in (first, second)} == {"one", "two"}
    for asked in ({"limit": "0"}, {"limit": "1e9"}, {"offset": "-1"}, {"state": "bad"}, {"since": "yesterday"}, {"limit": "٣"}):
        answer = client.get("/v1/incidents", params=asked)
        assert (answer.status_code, answer.json()["error"]) == (400, "bad_parameter"), asked
    assert client.get("/v1/incidents", params={"since": NOON.isoformat()}).json()["incidents"] == []
    assert client.get("/v1/incidents", params={"model": "'; DROP TABLE incidents; --"}).json()["incidents"] == []


def test_older_ones_are_of_what_was_asked_for(world: World, serve: Callable[..., httpx.Client]) -> None:
    client = serve(world)
    bad(world)
    first = client.get("/incidents", params={"limit": 1, "state": "open", "model": "houses"})
    older = re.search(r'href="(incidents[?][^"]*)">older', first.text)
    assert older
    assert older[1] == "incidents?limit=1&amp;state=open&amp;model=houses&amp;offset=1"
    evil = client.get("/incidents", params={"limit": 1, "x": EVIL})
    assert "<script" not in evil.text
    assert "older ones" in evil.text


def test_a_case_that_was_withdrawn_leads_to_the_one_that_took_over(
    make_world: Callable[..., World], serve: Callable[..., httpx.Client]
) -> None:
    world = make_world(checks=[check("one")])
    for minute, value in ((1, 1.0), (11, 1.0), (21, 15.0), (31, 15.0)):
        world.send("predictions", prediction(f"r{minute}", DAWN + minute * MINUTE, prediction=value))
    world.look()
    world.cases.step()
    client = serve(world)
    (old,) = client.get("/v1/cases").json()["cases"]
    assert client.get(f"/cases/{old['case_id']}").status_code == 200
    world.send("predictions", prediction("late", DAWN + 12 * MINUTE, prediction=200.0))
    world.look()
    world.cases.step()
    (new,) = client.get("/v1/cases").json()["cases"]
    assert old["case_id"] != new["case_id"]
    assert client.get(f"/v1/cases/{old['case_id']}").json()["successor"] == new["case_id"]
    page = client.get(f"/cases/{old['case_id']}", follow_redirects=True)
    assert (page.url.path, page.status_code) == (f"/cases/{new['case_id']}", 200)
    for one in client.get("/v1/incidents", params={"state": "open"}).json()["incidents"]:
        assert client.get(f"/v1/incidents/{one['incident_id']}").json()["case_id"] == new["case_id"]


@pytest.mark.parametrize("path", ("cases", "incidents", "traces"))
def test_what_is_not_there_is_said_to_be_unknown(world: World, serve: Callable[..., httpx.Client], path: str) -> None:
    answer = serve(world).get(f"/v1/{path}/nobody")
    assert (answer.status_code, answer.json()["error"]) == (404, f"unknown_{path.removesuffix('s')}")


def test_only_those_with_a_token_may_look(world: World, serve: Callable[..., httpx.Client], tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("".join(f"{role}:{hashlib.sha256(role.encode()).hexdigest()}\n" for role in ("ingest", "query")))
    client = serve(world, tokens)
    for path in ("/cases", "/v1/cases", "/incidents/x", "/v1/traces/x"):
        assert client.get(path).status_code == 401
        assert client.get(path, headers={"Authorization": "Bearer ingest"}).status_code == 401
        assert client.get(path, headers={"Authorization": "Bearer query"}).status_code in (200, 404)


def test_a_browser_asks_for_the_token_as_a_password(world: World, serve: Callable[..., httpx.Client], tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"query:{hashlib.sha256(b'query').hexdigest()}\nadmin:{hashlib.sha256(b'admin').hexdigest()}\n")
    client = serve(world, tokens)
    asked = client.get("/cases")
    assert (asked.status_code, asked.headers["WWW-Authenticate"]) == (401, 'Basic realm="modelwatch", Bearer')
    assert client.get("/cases", auth=("anybody", "query")).status_code == 200
    assert client.get("/cases", auth=("query", "")).status_code == 401
    assert client.get("/cases", headers={"Authorization": "Basic %%%"}).status_code == 401
    # A browser sends a password along with whatever another page has it post.
    posted = client.post("/v1/generations", auth=("", "admin"), json={})
    assert (posted.status_code, posted.headers["WWW-Authenticate"]) == (401, "Bearer")


def test_a_trace_is_shown_with_its_scores_hot_and_sealed(
    make_world: Callable[..., World], serve: Callable[..., httpx.Client]
) -> None:
    world = make_world(checks=[check("bare", "Bareness", model="bot", threshold={"upper": 0.5})])
    world.send("generations", generation("g", trace_id="AB" * 16, contexts=["a"]), generation("other", trace_id="cd" * 16))
    world.settle(40)
    world.score()
    client = serve(world)
    for _ in range(2):
        found: dict[str, Any] = client.get(f"/v1/traces/{'ab' * 16}").json()
        assert (found["models"], [row["record_id"] for row in found["generations"]]) == (["bot"], ["g"])
        assert [(row["record_id"], row["detector"], row["outcome"]) for row in found["scores"]] == [("g", "bareness", "ok")]
        world.seal()


def test_an_incident_of_a_record_rule_has_its_records_and_no_link_to_charts_that_are_not(
    make_world: Callable[..., World], serve: Callable[..., httpx.Client]
) -> None:
    bare = check("bare", "Bareness", model="bot", threshold={"upper": 0.5})
    world = make_world(checks=[bare], record_rules=[{"name": "all-bare", "model": "bot", "check": "bare", "at_least": 0.9}])
    world.send("generations", generation("g", world.clock.now(), trace_id="ab" * 16, contexts=[], response=EVIL))
    world.settle(40)
    world.score()
    world.rules.step()
    client = serve(world)
    (one,) = client.get("/v1/incidents", params={"check": "all-bare"}).json()["incidents"]
    assert client.get(f"/v1/incidents/{one['incident_id']}").json()["report_url"] is None
    page = client.get(f"/incidents/{one['incident_id']}").text
    assert f"../traces/{'ab' * 16}" in page
    assert "Charts of the same rows" not in page


@pytest.mark.parametrize("trace_id", ("ef" * 16, "a/b", EVIL))
def test_a_prediction_is_found_by_its_trace(world: World, serve: Callable[..., httpx.Client], trace_id: str) -> None:
    world.send("predictions", prediction("p", trace_id=trace_id))
    client = serve(world)
    assert client.get(external.trace_path(trace_id)).status_code == 200
    found = client.get(f"/v1{external.trace_path(trace_id)}").json()
    assert [row["record_id"] for row in found["predictions"]] == ["p"]
