"""An incident's page: the rows of its reading, by HTTP with its own rules, kept for the next, and with clear refusals."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import httpx
import numpy as np
import pytest

from detectors.contract import Frame, NotEnoughData
from detectors.evidently_report import Plan, render
from monitor import reportclient
from monitor.auth import Tokens
from monitor.child import Child
from monitor.deadletter.adminclient import TOKEN
from monitor.errors import ChildFailed
from monitor.receiving import Budget
from monitor.references import References
from monitor.report import HEADERS, Reports
from monitor.reportclient import ReportError
from monitor.server import PushServer
from tests.monitor.support import NOON, World, check, generation, prediction
from tests.monitor.test_cli import run

DAWN = NOON - timedelta(hours=6)
MINUTE = timedelta(minutes=1)

DRIFT = {
    **check("drift", reference={"start": DAWN.isoformat(), "end": (DAWN + 10 * MINUTE).isoformat()}, threshold={"upper": 0.4}),
    "detector": "data_drift",
    "settings": {"policy": "evidently", "method": "ks"},
}


def rows(world: World, minute: float, n: int, shift: float = 0.0) -> None:
    rng = np.random.default_rng(int(minute))
    world.send(
        "predictions",
        *(
            prediction(
                f"{minute}-{i}",
                DAWN + minute * MINUTE,
                features={"temperature": float(rng.normal(shift)), "wind": float(rng.normal()), "town": "a</script>b"},
            )
            for i in range(n)
        ),
    )


def incident(world: World, name: str = "drift", model: str = "houses") -> str:
    world.look()
    (found,) = {row["incident_id"] for row in world.rows("incidents", model, where=f"check_name = '{name}'")}
    return str(found)


def reports(world: World) -> Reports:
    return Reports(
        world.store,
        References(world.store.root),
        cast(Child, world.worker),
        config=lambda: world.config,
        runners=lambda: world.runners,
    )


@pytest.fixture
def drifted(make_world: Callable[..., World]) -> World:
    world = make_world(checks=[DRIFT])
    rows(world, 1, 200)
    rows(world, 11, 150, shift=3.0)
    rows(world, 21, 1)
    return world


def test_the_page_shows_the_rows_of_the_reading_and_says_whose_they_are(drifted: World) -> None:
    page = reports(drifted).page(incident(drifted)).decode()
    for text in ("temperature", "wind", "drift: data_drift on houses", "150 of 150 in the window, 200 of 200 compared with"):
        assert text in page, text
    assert "2026-03-01 06:10:00 to 2026-03-01 06:20:00 UTC" in page
    assert "a</script>b" not in page, "what a sender names ends no script"


def test_a_page_is_rendered_once_and_kept(drifted: World) -> None:
    found, made = incident(drifted), reports(drifted)
    drifted.worker.asked.clear()
    assert made.page(found) == made.page(found)
    assert len(drifted.worker.asked) == 1
    assert reports(drifted).page(found), "also for a daemon that was restarted"
    assert len(drifted.worker.asked) == 1


def test_scores_are_shown_beside_those_of_the_window_before(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("bare", "Bareness", model="bot", threshold={"upper": 0.5})])
    for minute, passages in ((1, ["as it is"]), (11, None)):
        items = [
            generation(f"{minute}-{i}", DAWN + minute * MINUTE, contexts=passages or [], input_tokens=10 + i) for i in range(40)
        ]
        world.send("generations", *items)
    world.send("generations", generation("last", DAWN + 21 * MINUTE))
    world.settle(40)
    world.score()
    page = reports(world).page(incident(world, "bare", "bot")).decode()
    for text in ("score.bare", "input_tokens", "the window before, until 2026-03-01 06:10:00 UTC", "40 of 40 in the window"):
        assert text in page, text


def test_errors_of_a_model_are_shown_with_its_labels(make_world: Callable[..., World]) -> None:
    error = check("error", threshold={"upper": 1}) | {
        "detector": "performance",
        "settings": {"task": "regression", "metric": "mae", "min_labels": 10},
    }
    world = make_world(checks=[error])
    for minute, off in ((1, 0.5), (11, 5.0)):
        ids = [f"{minute}-{i}" for i in range(40)]
        at = DAWN + minute * MINUTE
        world.send("predictions", *(prediction(r, at, prediction=float(i)) for i, r in enumerate(ids)))
        world.send("labels", *({"record_id": r, "model": "houses", "label": i + off * (-1) ** i} for i, r in enumerate(ids)))
    world.send("predictions", prediction("last", DAWN + 21 * MINUTE))
    page = reports(world).page(incident(world, "error")).decode()
    assert "reading</th><td>mae 5; threshold upper 1" in page
    assert "Regression Model" in page or "Mean Error" in page


# --- by HTTP -----------------------------------------------------------------------------------------------------------


def serve(world: World, tokens: Path | None = None) -> PushServer:
    budget = Budget(2**20)
    config = world.config.server.model_copy(update={"listen": "127.0.0.1:0"})
    return PushServer(
        config,
        world.inbox,
        tokens=Tokens(tokens),
        budget=budget,
        clock=world.clock,
        metrics=world.metrics,
        reports=reports(world),
    )


def test_the_page_comes_with_rules_of_its_own_and_for_who_may_ask(drifted: World, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    lines = [f"{role}:{hashlib.sha256(role.encode()).hexdigest()}" for role in ("ingest", "query")]
    tokens.write_text("\n".join(lines))
    found = incident(drifted)
    server = serve(drifted, tokens)
    server.start()
    try:
        with httpx.Client(base_url=f"http://{server.address}", timeout=60) as client:
            path = f"/v1/incidents/{found}/report"
            assert client.get(path).status_code == 401
            assert client.get(path, headers={"Authorization": "Bearer ingest"}).status_code == 401
            answer = client.get(path, headers={"Authorization": "Bearer query"})
            assert answer.status_code == 200
            assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
            policy = answer.headers["Content-Security-Policy"]
            assert policy.startswith("sandbox allow-scripts; ")
            assert "allow-same-origin" not in policy
            assert "connect-src 'none'" in policy
            for name in HEADERS:
                assert answer.headers[name] == HEADERS[name]
            gone = client.get("/v1/incidents/i-0/report", headers={"Authorization": "Bearer query"})
            assert (gone.status_code, gone.json()["error"]) == (404, "unknown_incident")
            with pytest.raises(ReportError, match="a token of the role query is needed"):
                reportclient.fetch(client, "", found)
            client.headers["Authorization"] = "Bearer query"
            assert reportclient.fetch(client, "", found) == answer.content
            with pytest.raises(ReportError, match="404: no incident 'i-0'"):
                reportclient.fetch(client, "", "i-0")
            with pytest.raises(ReportError, match="is no id of an incident"):
                reportclient.fetch(client, "", "../sql")
    finally:
        server.stop()


def test_the_command_writes_the_page_that_the_running_daemon_gives(
    drifted: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TOKEN, raising=False)
    found, tokens, key, out = incident(drifted), tmp_path / "tokens", tmp_path / "key", tmp_path / "page.html"
    tokens.write_text(f"query:{hashlib.sha256(b'query').hexdigest()}")
    key.write_text("query\n")
    server = serve(drifted, tokens)
    server.start()
    try:
        asked = ("report", found, "--server", f"http://{server.address}/", "--out", out)
        assert run(*asked) == 1
        assert "a token of the role query is needed" in capsys.readouterr().err
        assert run(*asked, "--token-file", key) == 0
        assert capsys.readouterr().out == f"{out}: {out.stat().st_size:,} bytes\n"
        page = httpx.get(
            f"http://{server.address}/v1/incidents/{found}/report", headers={"Authorization": "Bearer query"}, timeout=60
        )
        assert out.read_bytes() == page.content
        assert run(*asked, "--token-file", key, "--out", tmp_path / "nowhere" / "page.html") == 1
        assert "name another file with --out" in capsys.readouterr().err
    finally:
        server.stop()
    assert run(*asked, "--token-file", key) == 1
    assert "start the daemon with modelwatch run FILE" in capsys.readouterr().err
    assert run("report") == 2, "an incident has to be named"
    assert run("report", found, "--ca-file", tokens) == 1
    assert "name a PEM file" in capsys.readouterr().err


def refusal(world: World, found: str) -> tuple[int, str, str]:
    server = serve(world)
    server.start()
    try:
        answer = httpx.get(f"http://{server.address}/v1/incidents/{found}/report", timeout=60)
        return answer.status_code, answer.json()["error"], answer.json()["message"]
    finally:
        server.stop()


def test_a_check_that_is_gone_is_said_to_be(drifted: World) -> None:
    found = incident(drifted)
    drifted.config = drifted.config.model_copy(update={"checks": ()})
    status, reason, message = refusal(drifted, found)
    assert (status, reason) == (409, "check_gone")
    assert "put it back" in message


@pytest.mark.parametrize(("fault", "status"), ((ChildFailed("worker: died"), 503), (None, 422)))
def test_a_worker_that_fails_is_said_and_nothing_is_kept(drifted: World, fault: Exception | None, status: int) -> None:
    found = incident(drifted)

    def before(request: Any) -> None:
        if fault is not None:
            raise fault

    drifted.worker.before = before
    if fault is None:
        drifted.worker._answer = lambda request: "not done within 120 s: there is too much on this page"
    assert refusal(drifted, found)[0] == status
    assert not list((drifted.store.root / "reports").glob("*.html"))


# --- the page itself -----------------------------------------------------------------------------------------------------


def test_bad_columns_cost_themselves_and_much_is_sampled() -> None:
    rng = np.random.default_rng(0)

    def frame(shift: float) -> Frame:
        columns: dict[str, Any] = {
            "fine": rng.normal(shift, 1, 900),
            "empty": np.full(900, np.nan),
            "infinite": np.where(np.arange(900) % 2 == 0, np.inf, 1.0 * np.arange(900)),
            "ids": np.array([f"id {i}" for i in range(900)], dtype=object),
        }
        return Frame({**columns, **{f"more {i:02}": rng.normal(0, 1, 900) for i in range(5)}})

    page = render(Plan("Title", columns=("fine",), max_rows=100, max_columns=6), frame(0), frame(2))
    assert set(page.columns) == {"fine", "infinite", "ids", "more 00", "more 01"}
    assert dict(page.left_out)["empty"] == "no values on one side"
    assert dict(page.left_out)["more 04"] == "more than 6 columns"
    assert "100 of 900 in the window" in page.html
    assert "(others)" in page.html


def test_a_side_without_rows_is_no_page() -> None:
    with pytest.raises(NotEnoughData, match="2 rows in the window and 0 in what it is compared with"):
        render(Plan("Title"), Frame({"x": np.zeros(0)}), Frame({"x": [1.0, 2.0]}))
