"""The admin API as a client meets it, and the client."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from monitor.config import Server, Tls
from monitor.deadletter import admin
from monitor.deadletter.adminclient import AdminClient, AdminError, url_of
from tests.monitor.support import Door, Held, prediction

EVERYTHING: dict[str, Any] = {"which": {"everything": True}, "by": "ann"}


def ask(door: Door, path: str = admin.DROP, body: Any = None, **headers: str) -> httpx.Response:
    sent = body if isinstance(body, bytes) else orjson.dumps(EVERYTHING | (body or {}))
    return door.client.post(path, content=sent, headers={"Content-Type": "application/json", **headers})


def test_a_drop_says_how_many_and_records_who_and_from_where(door: Door) -> None:
    door.post("predictions", [prediction("a", model="nobody"), prediction("b", model="nobody")])
    response = ask(door, body={"comment": "a test"})
    assert (response.status_code, response.json()) == (200, {
        "until": 2, "next": None, "matched": 2, "replayed": 0, "queued": 0, "dropped": 2, "still_refused": 0,
        "refused_by_reason": {}, "refused": [],
    })  # fmt: skip
    rows = door.world.rows("resolutions", "")
    assert [(r["asked_by"], r["address"], r["comment"]) for r in rows] == [("ann", "127.0.0.1", "a test")] * 2


@pytest.mark.parametrize(
    ("body", "words"),
    (
        (b"{", "body: "),
        ({"which": {}}, "say which"),
        ({"which": {"everything": True, "raeson": "x"}}, "which.raeson"),
        ({"which": {"since": "2026-01-01T00:00:00"}}, "time zone"),
        ({"by": ""}, "by: "),
        ({"comment": "  "}, "say why they are dropped"),
        ({"which": {"ids": ["1; DROP TABLE deadletters"]}}, "which.ids.0"),
    ),
)
def test_what_is_wrong_with_a_request_is_said_and_nothing_is_done(door: Door, body: Any, words: str) -> None:
    door.post("predictions", [prediction("a", model="nobody")])
    response = ask(door, body=body)
    assert response.status_code == 400
    assert words in response.json()["message"]
    assert door.world.rows("resolutions", "") == []


def test_a_page_in_a_browser_cannot_send_it(door: Door) -> None:
    assert ask(door, body={"comment": "x"}, **{"Content-Type": "text/plain"}).status_code == 415


def test_only_the_role_admin_may(make_door: Callable[..., Door], tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    roles = {"ingest": "in", "query": "q", "admin": "root"}
    tokens.write_text("".join(f"{role}:{hashlib.sha256(t.encode()).hexdigest()}\n" for role, t in roles.items()))
    door = make_door(tokens)
    for token, status in (("in", 401), ("q", 401), ("root", 200)):
        for path in admin.PATHS:
            response = ask(door, path, {"comment": "x"}, Authorization=f"Bearer {token}")
            assert (response.status_code, token) == (status, token)
    with (
        pytest.raises(AdminError, match="a token of the role admin is needed"),
        AdminClient(f"http://{door.server.address}") as c,
    ):
        c.ask(admin.DROP, EVERYTHING)
    with AdminClient(f"http://{door.server.address}", token="root") as client:
        assert client.ask(admin.REPLAY, EVERYTHING)["matched"] == 0


def test_the_client_goes_on_until_nothing_is_left(door: Door) -> None:
    door.post("predictions", [prediction(str(i), model="nobody") for i in range(2500)])
    with AdminClient(f"http://{door.server.address}") as client:
        steps = list(client.steps(admin.REPLAY, {"everything": True}, by="ann"))
        assert [s["matched"] for s in steps] == [1000, 1000, 500]
        assert [len(s["refused"]) for s in steps] == [100, 100, 100]
        limited = list(client.steps(admin.DROP, {"everything": True, "limit": 1200}, by="ann", comment="x"))
        assert [s["dropped"] for s in limited] == [1000, 200]
        assert [s["dropped"] for s in client.steps(admin.DROP, {"everything": True}, by="ann", comment="x")] == [1000, 300]


def test_the_client_waits_while_the_inbox_is_full(make_door: Callable[..., Door]) -> None:
    door = make_door(server={"queue_records": 1})
    door.post("predictions", prediction("a", model="nobody"))
    held = Held(door.world.store)
    waited: list[float] = []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        held.release()

    from monitor.inbox import Batch

    door.world.inbox.put(Batch("predictions", [prediction("b")], "test"))
    with AdminClient(f"http://{door.server.address}", wait=wait) as client:
        assert client.ask(admin.REPLAY, EVERYTHING)["still_refused"] == 1
    assert waited == [1.0]


def test_no_daemon_is_an_error_that_names_the_address_and_the_remedy() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens there
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with AdminClient(url) as client, pytest.raises(AdminError) as caught:
            client.ask(admin.REPLAY, EVERYTHING)
    message = str(caught.value)
    assert message.startswith(f"{url}: no daemon answers there")
    assert "modelwatch run FILE" in message
    assert "--server or --config" in message


def test_another_program_at_the_address_is_told_apart(door: Door) -> None:
    with AdminClient(f"http://{door.server.address}") as client, pytest.raises(AdminError, match=r"server\.listen"):
        client.ask("/v1/elsewhere", EVERYTHING)


def test_a_certificate_has_to_be_trusted(make_door: Callable[..., Door], tls: Tls) -> None:
    door = make_door(server={"tls": tls.model_dump()})
    url = f"https://{door.server.address}"
    with AdminClient(url) as client, pytest.raises(AdminError, match="--ca-file"):
        client.ask(admin.REPLAY, EVERYTHING)
    with AdminClient(url, ca_file=tls.cert_file) as client:
        assert client.ask(admin.REPLAY, EVERYTHING)["matched"] == 0
    with pytest.raises(AdminError, match="cannot be read as certificates"):
        AdminClient(url, ca_file=tls.key_file)


@pytest.mark.parametrize(
    ("listen", "url"),
    (
        ("127.0.0.1:9710", "http://127.0.0.1:9710"),
        ("[::1]:9710", "http://[::1]:9710"),
        ("localhost:1", "http://localhost:1"),
        ("0.0.0.0:9710", "http://127.0.0.1:9710"),
        ("[::]:9710", "http://[::1]:9710"),
    ),
)
def test_a_daemon_is_asked_where_it_listens(listen: str, url: str) -> None:
    assert url_of(Server(listen=listen, insecure=True)) == url
