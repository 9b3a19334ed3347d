"""`modelwatch ingest`: a backfill that can be repeated, interrupted and refused without storing anything twice."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from monitor import cli
from monitor.auth import Tokens
from monitor.ingest import Ingest, IngestFailed
from monitor.records import KINDS
from monitor.sources.mapping import Columns
from tests.monitor.support import NOON, Door, Held, append_labels, check, prediction


def send(door: Door, *files: Path | str, kind: str = "predictions", **options: Any) -> Ingest:
    ingest = Ingest(door.client, kind, model="houses", sleep=options.pop("sleep", lambda seconds: None))
    stdin = io.BytesIO(options.pop("stdin", b""))
    form = options.pop("form", None)
    for file in files:
        ingest.file(str(file), stdin, Columns.model_validate(options), form, None)
    return ingest


def history(path: Path, size: int, prefix: str = "r") -> Path:
    path.write_text(
        "".join(json.dumps(prediction(f"{prefix}{i}", NOON - timedelta(days=30, seconds=-i))) + "\n" for i in range(size))
    )
    return path


def test_a_file_is_sent_in_batches_and_a_repeated_run_stores_nothing_twice(door: Door, tmp_path: Path) -> None:
    path = history(tmp_path / "old.jsonl", 2500)
    first = send(door, path).summary
    assert (first.accepted, first.duplicates, first.rejected) == (2500, 0, 0)
    assert len(door.world.rows("batches", "")) == 3
    again = send(door, path).summary
    assert (again.accepted, again.duplicates, again.rejected) == (0, 2500, 0)
    assert len(door.world.rows("batches", "")) == 3, "each was recognised as a whole"
    assert len(door.world.ids("predictions")) == 2500


def test_an_interrupted_run_is_gone_on_with_by_another(door: Door, tmp_path: Path) -> None:
    path = history(tmp_path / "old.jsonl", 2500)
    sent: list[int] = []

    def cut(request: httpx.Request) -> None:
        sent.append(1)
        if len(sent) == 2:
            raise KeyboardInterrupt

    door.client.event_hooks["request"].append(cut)
    with pytest.raises(KeyboardInterrupt):
        send(door, path)
    summary = send(door, path).summary
    assert (summary.accepted, summary.duplicates) == (1500, 1000)
    assert len(door.world.ids("predictions")) == 2500


def test_a_file_that_grew_sends_what_is_new(door: Door, tmp_path: Path) -> None:
    path = history(tmp_path / "old.jsonl", 10)
    send(door, path)
    history(path, 20)
    summary = send(door, path).summary
    assert (summary.accepted, summary.duplicates, summary.rejected) == (10, 10, 0)


def test_windows_of_the_past_are_read(make_door: Callable[..., Door], tmp_path: Path) -> None:
    door = make_door(checks=[check("mean", idle_timeout="1s")])
    send(door, history(tmp_path / "old.jsonl", 5))
    door.world.look()
    door.world.look()
    assert list(door.world.readings("mean").values()) == [("ok", 1.0, 5)]


def test_rejects_are_counted_by_reason_and_shown_with_their_row(door: Door, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("record_id,prediction,timestamp\na,1,\nb,1,yesterday\nc\nd,inf,\n")
    summary = send(door, path).summary
    assert (summary.accepted, dict(summary.reasons)) == (1, {"undecodable": 1, "bad_timestamp": 1, "not_finite": 1})
    assert [line.partition(": ")[0] for line in summary.errors] == [f"{path}:3", f"{path}:2", f"{path}:4"]
    assert str(summary).startswith("1 accepted, 0 stored already, 3 rejected (1 ")


def test_a_damaged_file_is_sent_up_to_the_damage(door: Door, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    whole = gzip.compress("".join(json.dumps(prediction(f"r{i}")) + "\n" for i in range(3000)).encode())
    path.write_bytes(whole[: len(whole) - 100])
    summary = send(door, path).summary
    assert 0 < summary.accepted < 3000
    assert dict(summary.reasons) == {"undecodable": 1}


def test_stdin_and_other_columns(door: Door) -> None:
    text = b"id,y\n1,2\n"
    summary = send(door, "-", stdin=text, columns={"record_id": "id", "prediction": "y"}, form="csv").summary
    assert summary.accepted == 1
    assert door.world.ids("predictions") == ["1"]


def test_while_the_daemon_is_full_it_waits_as_long_as_it_is_told(make_door: Callable[..., Door], tmp_path: Path) -> None:
    door = make_door(server={"queue_records": 1})
    held = Held(door.world.store)
    door.world.store.submit(append_labels(door.world.store, ["x"]), records=1)
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            held.release()

    assert send(door, history(tmp_path / "old.jsonl", 10), sleep=sleep).summary.accepted == 10
    assert waits[:2] == [1.0, 1.0], "Retry-After"


def test_a_daemon_that_comes_back_in_time_is_waited_for_and_one_that_does_not_is_given_up(tmp_path: Path) -> None:
    path = history(tmp_path / "old.jsonl", 1)
    waits: list[float] = []
    with closing(httpx.Client(base_url="http://127.0.0.1:9")) as client:  # nobody listens there
        ingest = Ingest(client, "predictions", model="houses", sleep=waits.append)
        with pytest.raises(IngestFailed, match="gave up after 30 attempts: ConnectError"):
            ingest.file(str(path), io.BytesIO(), Columns(), None, None)
    assert len(waits) == 30
    assert waits[-1] == 10.0


def test_what_will_not_pass_ends_it_at_once(door: Door, tmp_path: Path) -> None:
    path = history(tmp_path / "old.jsonl", 1)
    with pytest.raises(IngestFailed, match="404"):
        send(door, path, kind="nothing")
    (tmp_path / "a.xlsx").touch()
    with pytest.raises(IngestFailed, match=r"a\.xlsx: its name does not say the format; give --format"):
        send(door, tmp_path / "a.xlsx")


def test_its_progress_is_shown(door: Door, tmp_path: Path) -> None:
    shown = io.StringIO()
    Ingest(door.client, "predictions", model="houses").file(
        str(history(tmp_path / "old.jsonl", 10)), io.BytesIO(), Columns(), None, shown
    )
    assert "old.jsonl: 100%" in shown.getvalue()
    assert "10 accepted, 0 rejected" in shown.getvalue()


@pytest.fixture
def run(door: Door, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*arguments: str) -> tuple[int, str, str]:
        where = () if "--config" in arguments else ("--server", f"http://{door.server.address}")
        with pytest.raises(SystemExit) as left:
            cli.main(["ingest", *where, *arguments])
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return call


def test_the_command_says_what_became_of_it(run: Callable[..., tuple[int, str, str]], tmp_path: Path, door: Door) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id,at,y,rooms,city\n1,2026-01-01 10:00,5,3,Oslo\n")
    told = ("--kind", "predictions", "--model", "houses", "--timezone", "UTC")
    columns = ("--columns", "record_id=id,timestamp=at,prediction=y,features=rooms+city")
    assert run(str(path), *told, *columns) == (0, "1 accepted, 0 stored already, 0 rejected\n", "")
    (row,) = door.world.rows("predictions")
    assert (row["f_rooms"], row["f_city"], row["prediction"]) == (3.0, "Oslo", 5.0)
    path.write_text("id,at,y\n2,soon,5\n")
    code, out, err = run(str(path), *told, "--columns", '{"record_id": "id", "timestamp": "at", "prediction": "y"}')
    assert (code, out) == (1, "0 accepted, 0 stored already, 1 rejected (1 bad_timestamp)\n")
    assert err.startswith(f"modelwatch: {path}:1: bad_timestamp: timestamp: 'soon'")


def test_the_command_finds_the_daemon_by_its_config(run: Callable[..., tuple[int, str, str]], tmp_path: Path, door: Door) -> None:
    (tmp_path / "monitor.yaml").write_text(f"server: {{listen: '{door.server.address}'}}\n", encoding="utf-8")
    told = (str(history(tmp_path / "a.jsonl", 1)), "--kind", "predictions", "--model", "houses")
    assert run(*told, "--config", str(tmp_path / "monitor.yaml")) == (0, "1 accepted, 0 stored already, 0 rejected\n", "")
    code, _, err = run(*told, "--config", str(tmp_path / "nowhere.yaml"))
    assert code != 0
    assert "nowhere.yaml" in err


def test_the_token_comes_from_the_environment_or_a_file(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"ingest:{hashlib.sha256(b'sender').hexdigest()}\n")
    door.server.tokens = Tokens(tokens)
    told = (str(history(tmp_path / "a.jsonl", 1)), "--kind", "predictions", "--model", "houses")
    monkeypatch.delenv("MODELWATCH_TOKEN", raising=False)
    code, _, err = run(*told)
    assert code == 1
    assert "a token of the role ingest is needed; put it into MODELWATCH_TOKEN or name --token-file" in err
    monkeypatch.setenv("MODELWATCH_TOKEN", "sender")
    assert run(*told) == (0, "1 accepted, 0 stored already, 0 rejected\n", "")
    monkeypatch.setenv("MODELWATCH_TOKEN", "another")
    (tmp_path / "token").write_text("sender\n")
    assert run(*told, "--token-file", str(tmp_path / "token"))[0] == 0, "the file that was named goes before"


def test_the_command_says_what_is_wrong_with_it(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    told = (str(history(tmp_path / "a.jsonl", 1)), "--kind", "predictions")
    for wrong, message in {
        "--columns=record_id": "--columns: 'record_id' is not FIELD=COLUMN",
        "--columns=lable=y": "--columns: lable: no field of predictions",
        "--timezone=Mars": "--timezone: Value error, 'Mars' is no time zone",
        "--token-file=nowhere": "nowhere",
    }.items():
        code, _, err = run(*told, wrong)
        assert code == 1
        assert message in err
    code, _, err = run("nowhere.jsonl", "--kind", "labels")
    assert code == 1
    assert "nowhere.jsonl" in err
    assert "run it again to go on" in err


def test_every_kind_can_be_ingested() -> None:
    assert cli.KINDS == KINDS
