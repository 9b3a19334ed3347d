"""`modelwatch deadletter` as an operator meets it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import monitor
from monitor.cli import main
from monitor.records import REASONS, Reject
from monitor.transaction import Transaction
from tests.monitor.support import NOON, Door, World, label, prediction

HOSTILE = "\x1b[31mred\x1b[0m \x9b2J \x07 \u202eevil\u2066 \x7f \x00"


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # the command goes to the store's folder


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(["deadletter", *(str(a) for a in arguments)])
    assert isinstance(caught.value.code, int)
    captured = capsys.readouterr()
    return caught.value.code, captured.out, captured.err


def fill(world: World) -> None:
    """1: of nobody; 2: without an id; 3: of nobody and by another way; 4: dropped."""
    world.send("predictions", prediction("a", model="nobody"))
    world.clock.move(1)
    world.send("labels", {"model": "houses", "label": 1})
    world.send("labels", label("c", model="nobody"), label("d", model="somebody"))
    row = {
        "deadletter_seq": [4], "reason": "unknown_model", "action": "dropped", "asked_by": "ann", "comment": "a test",
        "received_at": NOON,
    }  # fmt: skip
    world.store.run(lambda t: t.append("resolutions", "", row))
    world.audit.refresh()


def test_list_shows_the_open_ones_the_newest_first(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    fill(world)
    code, out, err = run(capsys, "list", "--store", world.store.root)
    lines = [line.split() for line in out.splitlines()]
    assert (code, lines[0]) == (0, ["id", "received_at", "reason", "state", "kind", "model", "source", "record_id", "message"])
    assert [(x[0], x[3], x[4], x[5], x[6], x[7]) for x in lines[1:]] == [
        ("3", "unknown_model", "open", "labels", "nobody", "test"),
        ("2", "missing_id", "open", "labels", "houses", "test"),
        ("1", "unknown_model", "open", "predictions", "nobody", "test"),
    ]
    assert err.startswith("as of 20")
    assert "s ago" in err


@pytest.mark.parametrize(
    ("filters", "ids"),
    (
        (("--reason", "missing_id"), [2]),
        (("--kind", "labels"), [3, 2]),
        (("--model", "nobody"), [3, 1]),
        (("--source", "te", "--kind", "predictions"), [1]),
        (("--source", "push"), []),
        (("--since", (NOON + timedelta(seconds=1)).isoformat()), [3, 2]),
        (("--limit", 1), [3]),
        (("--all",), [4, 3, 2, 1]),
    ),
)
def test_list_can_be_narrowed_down(
    world: World, capsys: pytest.CaptureFixture[str], filters: tuple[object, ...], ids: list[int]
) -> None:
    fill(world)
    _, out, _ = run(capsys, "list", "--json", "--store", world.store.root, *filters)
    assert [json.loads(line)["id"] for line in out.splitlines()] == ids


def test_list_counts_by_reason(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    fill(world)
    _, out, _ = run(capsys, "list", "--count", "--all", "--store", world.store.root)
    assert [line.split() for line in out.splitlines()] == [
        ["reason", "state", "count"],
        ["missing_id", "open", "1"],
        ["unknown_model", "dropped", "1"],
        ["unknown_model", "open", "2"],
    ]


def test_an_unknown_reason_is_answered_with_the_ones_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "list", "--reason", "because")
    assert code == 2
    assert all(reason in err for reason in REASONS)


def test_the_readme_has_every_reason() -> None:
    text = (Path(monitor.__file__).parent / "README.md").read_text(encoding="utf-8")
    section = text.partition("## Dead letter\n")[2].partition("\n## ")[0].partition("Reasons: ")[2].partition("\n\n")[0]
    assert set(re.findall(r"`([a-z0-9_]+)`", section)) == REASONS


def test_since_takes_a_duration_and_refuses_what_is_neither(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    fill(world)  # at a time that is not now
    assert run(capsys, "list", "--since", "2h", "--store", world.store.root)[1].splitlines()[0].startswith(("id", "none"))
    for wrong in ("yesterday", "2026-01-01T00:00:00"):
        assert "neither a time with its zone" in run(capsys, "list", "--since", wrong)[2]


def test_a_store_without_a_daemon_says_so_and_still_answers(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    fill(world)
    long_ago = time.time() - 3600
    os.utime(world.store.root / "audit.duckdb", (long_ago, long_ago))
    code, out, err = run(capsys, "list", "--store", world.store.root)
    assert (code, len(out.splitlines())) == (0, 4)
    assert "3600 s ago; the daemon does not seem to run" in err


def test_the_view_is_as_young_as_its_last_refresh_even_if_nothing_was_new(world: World) -> None:
    fill(world)
    view = world.store.root / "audit.duckdb"
    os.utime(view, (0, 0))
    assert world.audit.refresh() is False
    assert time.time() - view.stat().st_mtime < 60


def test_show_prints_all_there_is_of_one(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    fill(world)
    code, out, _ = run(capsys, "show", 1, "--store", world.store.root)
    assert code == 0
    assert "id: 1\nstate: open\n" in out
    assert "reason: unknown_model\nmessage: model: 'nobody' is not configured" in out
    assert '  "record_id": "a",' in out
    dropped = run(capsys, "show", 4, "--store", world.store.root)[1]
    assert "state: dropped\n" in dropped
    assert "dropped_comment: a test\ndropped_asked_by: ann\n" in dropped
    as_json = json.loads(run(capsys, "show", 4, "--json", "--store", world.store.root)[1])
    assert (as_json["seq"], as_json["resolution"]["asked_by"]) == (4, "ann")
    code, _, err = run(capsys, "show", 99, "--store", world.store.root)
    assert (code, "no dead letter 99" in err) == (1, True)


def test_what_a_stranger_wrote_cannot_steer_the_terminal(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.send("predictions", {"record_id": HOSTILE, "model": HOSTILE, "text": HOSTILE})
    world.send(
        "labels", Reject(0, "bad_json", HOSTILE, None, f"{{{HOSTILE}".encode()), Reject(1, "bad_json", "m", None, b"\xff\x1b")
    )
    world.audit.refresh()
    shown = [run(capsys, *verb, "--store", world.store.root)[1] for verb in (
        ["list"], ["list", "--json"], ["show", 1], ["show", 1, "--json"], ["show", 2], ["show", 3],
    )]  # fmt: skip
    for out in shown:
        assert out.replace("\n", "").isprintable() or out.isascii()
        assert not {"\x1b", "\x9b", "\x07", "\u202e", "\x00"} & set(out)
    assert "\\x1b[31mred" in shown[0]
    assert json.loads(shown[3])["record_id"] == HOSTILE


def test_raw_gives_the_bytes_as_they_came_to_a_pipe(world: World) -> None:
    body = b"\xff\xfe\x1b[31m{"
    world.send("labels", Reject(0, "bad_json", "m", None, body), label("é", model="nobody"))
    world.audit.refresh()
    command = [sys.executable, "-m", "monitor", "deadletter", "show", "--raw", "--store", str(world.store.root)]
    found = [subprocess.run([*command, str(i)], capture_output=True, timeout=60).stdout for i in (1, 2)]
    assert found[0] == body
    assert json.loads(found[1])["record_id"] == "é"


def test_a_hundred_thousand_dead_letters_are_listed_in_seconds(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    payload = json.dumps(prediction("x", model="nobody", note="n" * 2000))
    for _ in range(4):
        rows = {
            "source": "push", "kind": "predictions", "reason": ["unknown_model"] * 25_000, "message": "m", "payload": payload,
            "payload_encoding": "json", "payload_bytes": len(payload), "monitored_model": "nobody", "received_at": NOON,
        }  # fmt: skip
        world.store.run(partial(append, rows))
    world.seal()
    world.audit.refresh()
    started = time.monotonic()
    _, out, err = run(capsys, "list", "--store", world.store.root)
    assert time.monotonic() - started < 3
    assert len(out.splitlines()) == 51
    assert "50 of 100000" in err


def append(rows: dict[str, Any], transaction: Transaction) -> int:
    return transaction.append("deadletters", "", rows)


# --- replay and drop ---


def daemon(door: Door) -> tuple[str, str]:
    return "--server", f"http://{door.server.address}"


def test_replay_says_what_became_of_each(door: Door, capsys: pytest.CaptureFixture[str]) -> None:
    door.post("predictions", [prediction("a"), prediction("a", prediction=2), prediction("b", model="nobody\x1b[31m")])
    code, out, _ = run(capsys, "replay", "--all-open", *daemon(door))
    assert code == 1
    assert out.splitlines()[0] == "0 stored or stored already, 0 queued for scoring, 2 refused again and left open"
    assert sorted(line.split(": ")[1] for line in out.splitlines()[1:]) == ["conflict", "unknown_model"]
    assert "a record never changes" in out
    assert "\x1b" not in out


def test_a_dry_replay_tells_and_does_nothing(door: Door, capsys: pytest.CaptureFixture[str]) -> None:
    late = {
        "source": "push",
        "kind": "labels",
        "reason": ["type_changed"],
        "payload": json.dumps(label("a")),
        "received_at": NOON,
    }
    door.world.store.run(lambda t: t.append("deadletters", "", late))
    code, out, _ = run(capsys, "replay", 1, "--dry-run", *daemon(door))
    assert code == 0
    assert out == "1 would be stored or stored already, 0 would be queued for scoring, 0 refused again and left open\n"
    assert door.world.rows("labels") == []
    code, out, _ = run(capsys, "replay", 1, *daemon(door))
    assert (code, out.split(" stored")[0]) == (0, "1")
    assert door.world.ids("labels") == ["a"]


def test_a_drop_takes_a_reason_and_somebody_who_is_sure(door: Door, capsys: pytest.CaptureFixture[str]) -> None:
    door.post("predictions", [prediction("a", model="nobody"), prediction("b", model="nobody")])
    code, _, err = run(capsys, "drop", "--all-open", "--yes", *daemon(door))
    assert (code, "--because" in err) == (1, True)
    code, _, err = run(capsys, "drop", "--all-open", "--because", "a test", *daemon(door))
    assert (code, "say --yes" in err) == (1, True)  # pytest's input is no terminal
    assert run(capsys, "drop", "--all-open", "--dry-run", *daemon(door))[1] == "2 would be dropped\n"
    assert door.world.rows("resolutions", "") == []
    assert run(capsys, "drop", 2, "--yes", "--because", "a test", "--by", "ann", *daemon(door))[:2] == (0, "1 dropped\n")
    rows = door.world.rows("resolutions", "")
    assert [(r["deadletter_seq"], r["asked_by"], r["comment"]) for r in rows] == [(2, "ann", "a test")]


def test_who_asks_is_recorded_even_if_they_do_not_say(door: Door, capsys: pytest.CaptureFixture[str]) -> None:
    door.post("predictions", [prediction("a", model="nobody")])
    run(capsys, "drop", "--reason", "unknown_model", "--yes", "--because", "a test", *daemon(door))
    by = door.world.rows("resolutions", "")[0]["asked_by"]
    user, at, host = by.partition("@")
    assert all((user, at, host))


@pytest.mark.parametrize("verb", (["replay"], ["drop", "--yes", "--because", "x"]))
def test_naming_none_chooses_none(capsys: pytest.CaptureFixture[str], verb: list[str]) -> None:
    code, _, err = run(capsys, *verb)
    assert (code, "say which" in err) == (1, True)


def test_replay_without_a_daemon_names_the_address_of_the_config(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = tmp_path / "monitor.yaml"
    config.write_text("server: {listen: '127.0.0.1:9'}\n")
    code, _, err = run(capsys, "replay", "--all-open", "--config", config)
    assert code == 1
    assert "modelwatch: http://127.0.0.1:9: no daemon answers there" in err
    assert "modelwatch run FILE" in err


def test_the_token_comes_from_the_environment_or_a_file(
    make_door: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hashlib

    tokens = tmp_path / "tokens"
    tokens.write_text(f"admin:{hashlib.sha256(b'root').hexdigest()}\n")
    door = make_door(tokens)
    assert "MODELWATCH_TOKEN" in run(capsys, "replay", "--all-open", *daemon(door))[2]
    (tmp_path / "token").write_text("root\n")
    assert run(capsys, "replay", "--all-open", "--token-file", tmp_path / "token", *daemon(door))[0] == 0
    monkeypatch.setenv("MODELWATCH_TOKEN", "root")
    assert run(capsys, "replay", "--all-open", *daemon(door))[0] == 0
    assert "name a file" in run(capsys, "replay", "--all-open", "--token-file", tmp_path / "none", *daemon(door))[2]
