"""`modelwatch export-dataset`: the records of an incident, ready to fine-tune on or to test against."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest

from monitor import cli, datasetfile
from monitor.exportdataset import DatasetError
from tests.monitor.support import NOON, World, check, contexts, generation, label, prediction

Make = Callable[..., World]
BARE = check("bare", "Bareness", model="bot", every="10m", threshold={"upper": 0.05})
HIGH = check("high", threshold={"upper": 10})
RULE = {"name": "all-bare", "model": "bot", "check": "bare", "at_least": 0.9, "key": "rule"}
KEY = "sk-" + "Ab3dEf6hIj9kLm2nOp5q" * 2
MINUTE = timedelta(minutes=1)


@pytest.fixture(autouse=True)
def _back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # the export leaves it for the store's


def exported(
    world: World, incident_id: str, name: str = "set.jsonl", **options: Any
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    world.audit.refresh()
    out = world.store.root.parent / name
    manifest = datasetfile.export(world.store.root, incident_id, out, **options)
    assert orjson.loads(out.with_name(f"{name}.manifest.json").read_bytes()) == manifest
    data = out.read_bytes()
    assert (manifest["sha256"], manifest["bytes"]) == (hashlib.sha256(data).hexdigest(), len(data))
    found = pq.read_table(out).to_pylist() if name.endswith("parquet") else [orjson.loads(line) for line in data.splitlines()]
    return found, manifest


def the_incident(world: World, name: str, model: str) -> str:
    (found,) = {row["incident_id"] for row in world.rows("incidents", model, where=f"check_name = '{name}'")}
    return str(found)


@pytest.fixture
def answers(make_world: Make) -> World:
    """Two bare answers among others, of which one was corrected by a person."""
    world = make_world(checks=[BARE], record_rules=[RULE])
    turns = [{"role": "user", "content": "earlier"}, {"role": "assistant", "content": "yes"}, {"role": "user", "content": "why?"}]
    world.send(
        "generations",
        generation("before", NOON - 20 * MINUTE, contexts=["a"]),
        generation("bad-2", NOON + 2 * MINUTE, contexts=[], system="be brief", response=f"use {KEY}", llm_model="m1"),
        generation("good", NOON + MINUTE, contexts=["a"]),
        generation("bad-1", NOON + MINUTE, contexts=[], messages=turns, prompt_version="v2", expected_output="sent with it"),
    )
    world.send(
        "feedback",
        {"record_id": "bad-2", "model": "bot", "name": "correction", "comment": "say nothing", "source": "human"},
        {"record_id": "bad-1", "model": "bot", "name": "thumbs", "value": 0},
    )
    world.settle(30)
    world.score()
    world.rules.step()
    return world


def test_answers_become_chats_with_scores_feedback_and_what_was_expected(answers: World) -> None:
    found, manifest = exported(answers, the_incident(answers, "all-bare", "bot"))
    assert [row["record_id"] for row in found] == ["bad-1", "bad-2"], "in the order of time"
    first, second = found
    assert [(said["role"], said["content"]) for said in first["messages"]] == [
        ("user", "earlier"), ("assistant", "yes"), ("user", "why?"), ("assistant", "so"),
    ]  # fmt: skip
    assert [said["role"] for said in second["messages"]] == ["system", "user", "assistant"]
    assert second["messages"][2]["content"] == "use [KEY]", "masked, as it is stored"
    assert (first["expected"], second["expected"]) == ("sent with it", "say nothing")
    assert first["scores"]["bareness"] == {"value": 1.0, "flagged": True, "outcome": "ok"}
    assert [(one["name"], one.get("value")) for one in first["feedback"]] == [("thumbs", 0.0)]
    assert (first["metadata"]["prompt_version"], second["metadata"]["llm_model"]) == ("v2", "m1")
    assert {row["split"] for row in found} == {"incident"}
    assert (manifest["records"], manifest["records_there"], manifest["baseline"], manifest["kind"]) == (2, 2, 0, "chat")


def test_the_same_store_gives_the_same_bytes_also_sealed(answers: World) -> None:
    incident = the_incident(answers, "all-bare", "bot")
    _, before = exported(answers, incident, "a.jsonl", baseline=5)
    answers.seal()
    _, after = exported(answers, incident, "b.jsonl", baseline=5)
    assert before["sha256"] == after["sha256"]


def test_records_of_before_come_as_another_split(answers: World) -> None:
    found, manifest = exported(answers, the_incident(answers, "all-bare", "bot"), baseline=3)
    assert [(row["record_id"], row["split"]) for row in found][-1] == ("before", "baseline")
    assert (manifest["baseline"], len(found)) == (1, 3)


def test_a_limit_is_kept_and_said(answers: World) -> None:
    found, manifest = exported(answers, the_incident(answers, "all-bare", "bot"), limit=1)
    assert [row["record_id"] for row in found] == ["bad-1"]
    assert (manifest["records"], manifest["records_there"]) == (1, 2)


def test_chats_as_parquet_keep_their_turns(answers: World) -> None:
    found, _ = exported(answers, the_incident(answers, "all-bare", "bot"), "set.parquet", form="parquet")
    assert found[1]["messages"][2] == {"role": "assistant", "content": "use [KEY]"}
    assert orjson.loads(found[0]["scores"])["bareness"]["value"] == 1.0


def test_of_a_row_check_the_flagged_records_of_all_its_windows(make_world: Make) -> None:
    world = make_world(checks=[BARE])
    world.clock.move(3600)
    for n in range(3):
        at = NOON + n * 10 * MINUTE + MINUTE
        world.send("generations", generation(f"bad-{n}", at, contexts=[]), generation(f"good-{n}", at, contexts=["a"]))
    world.send("generations", generation("also-1", NOON + 12 * MINUTE, contexts=[]))
    world.send("generations", generation("later", NOON + 40 * MINUTE, contexts=["a"]))
    world.send("contexts", contexts("bad-1", "late"))
    world.settle(30)
    world.score()
    world.look()
    found, _ = exported(world, the_incident(world, "bare", "bot"))
    assert [row["record_id"] for row in found] == ["bad-0", "also-1", "bad-2"], "one was taken back by a late passage"


def test_of_a_row_check_its_own_flag_counts_and_the_last_score_of_a_record(make_world: Make) -> None:
    """The detector's flag is 0.75, and one passage gives 0.5."""
    world = make_world(checks=[{**BARE, "flag": 0.4}])
    world.clock.move(3600)
    passages: dict[str, list[str]] = {"mild": ["a"], "bare": [], "good": ["a", "b"], "mended": []}
    world.send("generations", *(generation(one, NOON + MINUTE, contexts=texts) for one, texts in passages.items()))
    world.send("generations", generation("later", NOON + 40 * MINUTE, contexts=["a", "b"]))
    world.settle(30)
    world.score()
    world.send("contexts", contexts("mended", "late", "later"))
    world.settle(30)
    world.score()
    assert {row["revision"] for row in world.rows("scores", "bot", where="record_id = 'mended'")} == {1, 2}
    world.look()
    found, _ = exported(world, the_incident(world, "bare", "bot"))
    assert {row["record_id"] for row in found} == {"mild", "bare"}


def test_calls_of_tools_and_what_came_of_them_are_turns(make_world: Make) -> None:
    world = make_world(checks=[BARE], record_rules=[RULE])
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"town": "Oslo"}'}}
    turns = [
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    ]
    world.send("generations", generation("g", NOON + MINUTE, contexts=[], messages=turns, response="It is sunny."))
    world.send("generations", generation("plain", NOON + 2 * MINUTE, contexts=[]))
    world.settle(30)
    world.score()
    world.rules.step()
    incident = the_incident(world, "all-bare", "bot")
    found, _ = exported(world, incident)
    (asked,) = found[0]["messages"][1].pop("tool_calls")
    assert (asked["id"], asked["function"]["name"], orjson.loads(asked["function"]["arguments"])) == (
        "c1",
        "weather",
        {"town": "Oslo"},
    )
    assert found[0]["messages"] == [
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": ""},
        {"role": "tool", "content": "sunny", "tool_call_id": "c1"},
        {"role": "assistant", "content": "It is sunny."},
    ]
    table, _ = exported(world, incident, "set.parquet", form="parquet")
    assert [turn["content"] for turn in table[0]["messages"]] == ["weather?", "", "sunny", "It is sunny."]
    assert table[0]["messages"][1]["tool_calls"][0]["function"]["name"] == "weather"


def test_predictions_become_rows_with_features_and_label(make_world: Make) -> None:
    world = make_world(checks=[HIGH])
    world.clock.move(7200)
    for n, value in enumerate([1.0, 50.0, 60.0, 1.0]):
        at = NOON + n * 10 * MINUTE + MINUTE
        world.send("predictions", prediction(f"p{n}", at, features={"rooms": 3, "town": "Oslo"}, prediction=value, trace_id="t"))
    world.send("labels", label("p1", 2.0), label("p1", 3.0, revision=1))
    world.clock.move(3600)
    world.look()
    found, manifest = exported(world, the_incident(world, "high", "houses"), baseline=1)
    assert [(row["record_id"], row["prediction"], row["label"], row["split"]) for row in found] == [
        ("p1", 50.0, 3.0, "incident"), ("p2", 60.0, None, "incident"), ("p0", 1.0, None, "baseline"),
    ]  # fmt: skip
    assert found[0]["features"] == {"rooms": 3.0, "town": "Oslo"}
    assert manifest["kind"] == "tabular"
    table, _ = exported(world, the_incident(world, "high", "houses"), "set.parquet", form="parquet")
    assert [(row["feature.rooms"], row["feature.town"], row["label"]) for row in table] == [
        (3.0, "Oslo", 3.0),
        (3.0, "Oslo", None),
    ]


def test_what_cannot_be_written_is_told(answers: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    incident = the_incident(answers, "all-bare", "bot")
    exported(answers, incident)
    with pytest.raises(DatasetError, match="is there already; name another file with --out, or say --force"):
        exported(answers, incident)
    exported(answers, incident, force=True)
    with pytest.raises(DatasetError, match="no incident 'nope'"):
        exported(answers, "nope", "other.jsonl")
    with pytest.raises(SystemExit) as ended:
        cli.main(["export-dataset", incident, "--store", str(tmp_path / "nowhere")])
    assert ended.value.code == 1
    assert "not there" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        cli.main(["export-dataset", incident, "--store", str(answers.store.root), "--out", str(tmp_path / "by-hand.jsonl")])
    assert ended.value.code == 0
    assert "2 records" in capsys.readouterr().out
