"""Bodies opened by a process of their own: the same rows as in the owner, and nothing lost with the process."""

from __future__ import annotations

import base64
import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest

from monitor.blocks import Opened
from monitor.child import Child
from monitor.config import Config
from monitor.errors import ChildAway, ChildFailed, StoreUnavailable
from monitor.inbox import Batch, Inbox
from monitor.intake import DEATHS, TARGET, processes
from monitor.metrics import Metrics
from monitor.opener import Body, Opener, Request, helper
from tests.monitor.otlp import as_json, export
from tests.monitor.support import MODELS, NOON, FakeClock, World, contexts, generation, label, prediction, sample, wait_for

GOLDEN = Path(__file__).parent.parent / "golden" / "spans"
JSON, NDJSON, PROTOBUF = "application/json", "application/x-ndjson", "application/x-protobuf"
CONFIG = Config.model_validate({"models": MODELS, "otlp": {"default_model": "bot"}})
PUSHED: dict[str, list[Any]] = {
    "predictions": [
        prediction("p1", features={"a": 1, "b": "x", "c": True}),
        prediction("p2", features={"b": "y", "a": 2.5}, probability=0.25, more={"left": "over"}),
        prediction("p3", features={"a": "not a number"}),
        prediction("p4", model="nobody"),
        "no object",
    ],
    "labels": [label("p1"), label("p2", "text", revision=2), {"record_id": "p3"}],
    "generations": [
        generation("g1", contexts=["one", {"text": "two", "score": 0.5}], input_tokens=3),
        generation("g2", messages=[{"role": "user", "content": "write to ann@example.org"}], extra="field"),
        generation("g3", contexts=["a"], input_tokens=-1),
    ],
    "contexts": [contexts("g1", "late"), contexts("g9")],
    "feedback": [{"record_id": "g1", "model": "bot", "name": "thumb", "value": True}],
    "deployments": [{"model": "bot", "version": "2", "timestamp": NOON.isoformat()}],
}


def bodies() -> Iterator[Body]:
    for kind, items in PUSHED.items():
        yield Body(kind, orjson.dumps(items), JSON)
        yield Body(kind, b"\n".join(map(orjson.dumps, items)) + b"\n{half", NDJSON)
    for file in sorted(GOLDEN.glob("*.json")):
        for call in json.loads(file.read_text(encoding="utf-8")).values():
            for signal_name, kind in (("traces", "spans"), ("logs", "logs")):
                for one in call.get(signal_name, ()):
                    yield Body(kind, orjson.dumps(one), JSON)
    made = export("one", "two")
    made.resource_spans[0].scope_spans[0].spans[1].trace_id = b"short"
    yield Body("spans", made.SerializeToString(), PROTOBUF)
    yield Body("spans", as_json(made), JSON)
    yield Body("spans", b"no protobuf", PROTOBUF)
    yield Body("predictions", b"{", JSON)


def shown(opened: Opened) -> dict[str, Any]:
    """All of it, in Python's values."""
    blocks = {
        place: (rows.index, rows.key, rows.content, dict(rows.columns), dict(rows.features), rows.kinds, rows.contexts)
        for place, rows in opened.blocks.items()
    }
    types = {place: {n: a.type for n, a in rows.columns.arrays.items()} for place, rows in opened.blocks.items()}
    rest = (opened.kind, opened.received_at, opened.total, opened.rejects, opened.ignored, opened.failed, opened.masked)
    return {"blocks": blocks, "types": types, "rest": rest}


@pytest.fixture
def child(clock: FakeClock, metrics: Metrics) -> Iterator[Child]:
    made = Child("intake-1", TARGET, True, nice=0, clock=clock, metrics=metrics)
    yield made
    made.stop()


@pytest.fixture
def inbox(world: World, child: Child) -> Inbox:
    return Inbox(world.config, world.store, clock=world.clock, metrics=world.metrics, processes=[child])


def send(inbox: Inbox, kind: str, *items: Any) -> Any:
    return inbox.put(Batch(kind, Body(kind, orjson.dumps(items), JSON), "test")).result(30)


def test_a_process_opens_every_body_as_the_owner_would(child: Child) -> None:
    counts: dict[str, int] = {}

    def count(kind: str, many: int) -> None:
        counts[kind] = counts.get(kind, 0) + many

    opener = Opener(CONFIG, lambda model: {}, count)
    seen = 0
    for body in bodies():
        counts.clear()
        here = opener.open(body, None, NOON)
        here.masked = dict(counts)
        there = child.call(Request(Body(body.kind, body.data, body.content_type), None, NOON, (0, 0), CONFIG, {}), 60)
        assert shown(there) == shown(here), body.data[:500]
        seen += sum(len(rows.index) for rows in here.blocks.values()) + len(here.rejects)
    assert seen > 300


def test_it_asks_for_the_config_and_the_features_it_does_not_know() -> None:
    answer = helper(limited=False)
    body = Body("predictions", orjson.dumps([prediction("p", features={"a": 1})]), JSON)
    assert answer(Request(body, None, NOON, (0, 0))) is None
    assert answer(Request(body, None, NOON, (0, 0), CONFIG, {})) is not None
    assert answer(Request(body, None, NOON, (0, 0))) is not None
    assert answer(Request(body, None, NOON, (0, 1))) is None, "a feature has come since"
    later = answer(Request(body, None, NOON, (0, 1), CONFIG, {"houses": {"a": "category"}}))
    assert later is not None
    assert [reject.reason for reject in later.rejects] == ["type_changed"]


def test_rows_and_answers_are_the_same_through_a_process(world: World, inbox: Inbox) -> None:
    assert send(inbox, "predictions", *PUSHED["predictions"]).as_json()["accepted"] == 2
    assert [(r["record_id"], r["f_a"], r["f_b"]) for r in world.rows("predictions")] == [("p1", 1.0, "x"), ("p2", 2.5, "y")]
    again = send(inbox, "predictions", prediction("p1", features={"a": 9, "b": "x", "c": True}))
    assert [(r.record_id, r.reason) for r in again.rejects] == [("p1", "conflict")]
    assert send(inbox, "generations", *PUSHED["generations"]).accepted == 2
    assert [row["text"] for row in world.rows("contexts", "bot")] == ["one", "two"]
    assert set(world.letters()) == {
        ("p3", "type_changed"), ("p4", "unknown_model"), (None, "not_an_object"), ("p1", "conflict"), ("g3", "wrong_type")
    }  # fmt: skip


def test_what_a_process_masks_is_counted_once_and_set_aside_masked(world: World, inbox: Inbox) -> None:
    record = generation("g", question="write to ann@example.org")
    assert send(inbox, "generations", record).accepted == 1
    assert sample(world.metrics, "modelwatch_masked_values_total", kind="email") == 1
    send(inbox, "generations", {**record, "response": "another"})
    assert "[EMAIL]" in world.rows("deadletters", "")[0]["payload"]
    assert sample(world.metrics, "modelwatch_masked_values_total", kind="email") == 2


def test_a_reload_reaches_the_process(world: World, inbox: Inbox) -> None:
    send(inbox, "generations", generation("g1", question="ann@example.org"))
    masking = world.config.masking.model_copy(update={"kinds": ()})
    inbox.configure(world.config.model_copy(update={"masking": masking}))
    send(inbox, "generations", generation("g2", question="ann@example.org"))
    assert [row["question"] for row in world.rows("generations", "bot")] == ["[EMAIL]", "ann@example.org"]


def test_a_body_in_hand_of_a_process_that_dies_is_refused_and_the_next_is_taken(
    world: World, inbox: Inbox, child: Child, metrics: Metrics
) -> None:
    send(inbox, "generations", generation("g1"))
    assert child.pid is not None
    os.kill(child.pid, signal.SIGSTOP)  # so that it surely has the body in hand
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(send, inbox, "generations", generation("g2"))
        wait_for(lambda: child.busy, "the body to be asked about")
        os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(StoreUnavailable, match="intake-1: died while it was asked; nothing was taken, send it again"):
            asked.result(30)

    def taken() -> bool:  # by a process, once there is one: not by the owner
        try:
            return bool(send(inbox, "generations", generation("g2")).accepted)
        except StoreUnavailable:
            return False

    wait_for(taken, "the body to be taken")
    assert world.ids("generations", "bot") == ["g1", "g2"]


def test_while_the_process_is_away_the_owner_opens_bodies_itself(world: World, clock: FakeClock, metrics: Metrics) -> None:
    class Away:
        name, pid = "intake-1", None

        def call(self, request: Any, timeout_seconds: float) -> Any:
            raise ChildAway("intake-1: being restarted")

    inbox = Inbox(world.config, world.store, clock=clock, metrics=world.metrics, processes=[Away()])  # type: ignore[list-item]
    assert send(inbox, "generations", generation("g1", question="ann@example.org")).accepted == 1
    assert sample(world.metrics, "modelwatch_masked_values_total", kind="email") == 1


class Fatal:
    """A process that dies of each body, and is away each second time that it is asked."""

    name, pid = "intake-1", None

    def __init__(self) -> None:
        self.asked = 0

    def call(self, request: Any, timeout_seconds: float) -> Any:
        self.asked += 1
        raise ChildFailed("intake-1: died while it was asked") if self.asked % 2 else ChildAway("intake-1: being restarted")


def test_a_body_that_a_process_died_with_is_never_opened_by_the_owner_and_refused_in_the_end(world: World) -> None:
    process = Fatal()
    inbox = Inbox(world.config, world.store, clock=world.clock, metrics=world.metrics, processes=[process])  # type: ignore[list-item]
    for _ in range(2 * DEATHS - 1):
        with pytest.raises(StoreUnavailable, match="send it again"):
            send(inbox, "generations", generation("g1"))
    answer = send(inbox, "generations", generation("g1"))
    assert process.asked == 2 * DEATHS - 1, "nobody is asked any more"
    assert answer.failed is not None
    assert answer.failed.status == 400
    assert world.letters() == [(None, "undecodable")]
    assert world.ids("generations", "bot") == []
    assert process.asked % 2 == 1, "it is away from here on"
    assert send(inbox, "generations", generation("g2")).accepted == 1, "what nothing is known of, the owner opens"
    inbox.configure(world.config)
    process.asked = 0
    with pytest.raises(StoreUnavailable, match="died while it was asked"):  # with another config it is tried again
        send(inbox, "generations", generation("g1"))


def test_a_record_that_pickle_does_not_take_costs_the_others_nothing(world: World, inbox: Inbox) -> None:
    deep: Any = 1
    for _ in range(900):
        deep = [deep]
    text = "[" * 900 + "1" + "]" * 900
    body = f'[{{"record_id": "a", "model": "nobody", "x": {text}}}, {orjson.dumps(generation("g1")).decode()}]'
    answer = inbox.put(Batch("generations", Body("generations", body.encode(), JSON), "test")).result(30)
    assert answer.accepted == 1
    assert [(reject.reason, reject.payload) for reject in answer.rejects] == [
        ("unknown_model", {"record_id": "a", "model": "nobody", "x": deep})
    ]
    assert text in world.rows("deadletters", "")[0]["payload"]


def test_a_body_that_cannot_be_read_is_refused_each_time_it_comes_under_its_name(world: World, inbox: Inbox) -> None:
    for _ in range(2):
        batch = Batch("generations", Body("generations", b"{", JSON), "test", key="k", body_hash="h")
        failed = inbox.put(batch).result(30).failed
        assert failed is not None
        assert (failed.status, failed.reason) == (400, "bad_json")
    assert len(world.letters()) == 1


def test_what_comes_under_a_name_of_another_body_is_set_aside_as_it_came(world: World, inbox: Inbox) -> None:
    for number, data in enumerate((orjson.dumps(generation("g1")), b"{half \xff", b"{half \xff\n{more")):
        batch = Batch("generations", Body("generations", data, NDJSON), "test", key="k", body_hash=str(number))
        assert inbox.put(batch).result(30).accepted == (number == 0)
    assert [row["reason"] for row in world.rows("deadletters", "")] == ["conflict"] * 3
    assert [base64.b64decode(row["payload"]) for row in world.rows("deadletters", "")[:2]] == [b"{half \xff"] * 2


def test_a_restarted_process_is_told_everything_again(inbox: Inbox, child: Child) -> None:
    send(inbox, "predictions", prediction("p1", features={"a": 1}))
    send(inbox, "predictions", prediction("p2", features={"a": 1}))
    first = child.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: child.pid not in (None, first), "another process")
    for n in range(3, 6):
        try:
            assert send(inbox, "predictions", prediction(f"p{n}", features={"a": 1})).accepted == 1
        except StoreUnavailable:  # the pipe of the dead one
            assert n == 3


def test_many_senders_share_the_processes(make_world: Callable[..., World], clock: FakeClock, metrics: Metrics) -> None:
    world = make_world()
    children = [Child(f"intake-{n}", TARGET, True, nice=0, clock=clock, metrics=metrics) for n in (1, 2)]
    try:
        inbox = Inbox(world.config, world.store, clock=clock, metrics=world.metrics, processes=children)
        with ThreadPoolExecutor(8) as pool:
            ids = [f"p{n}" for n in range(60)]
            # The features differ, so that what the processes were told is out of date all the time.
            done = pool.map(lambda i: send(inbox, "predictions", prediction(i, features={f"f{i}": 1.0, "a": 2.0})), ids)
            assert all(answer.accepted == 1 for answer in done)
    finally:
        for child in children:
            child.stop()
    assert sorted(world.ids("predictions")) == sorted(ids)
    rows = world.rows("predictions")
    assert all(row[f"f_f{row['record_id']}"] == 1.0 for row in rows)


def test_features_that_get_no_column_do_not_have_every_body_read_again_by_the_writer(
    world: World, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = {"Age": 1, "age": 2}
    assert send(inbox, "predictions", prediction("p1", features=both)).accepted == 1

    def read(self: Any) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr("monitor.inbox._Again.read", read)
    assert send(inbox, "predictions", prediction("p2", features=both)).accepted == 1
    no_id = {"model": "houses", "features": {"Age": 1, "other": 2}}
    assert send(inbox, "predictions", prediction("p3", features={"Age": 3}), no_id).accepted == 1
    rows = [(r["record_id"], r["f_Age"], r["extra"]) for r in world.rows("predictions")]
    assert rows == [("p1", 1.0, '{"features":{"age":2}}'), ("p2", 1.0, '{"features":{"age":2}}'), ("p3", 3.0, None)]


def test_a_service_whose_name_is_no_text_costs_the_others_of_its_export_nothing(world: World, inbox: Inbox) -> None:
    one = json.loads(as_json(export("one")))["resourceSpans"]
    odd = json.loads(as_json(export("two")))["resourceSpans"]
    (name,) = [a for a in odd[0]["resource"]["attributes"] if a["key"] == "service.name"]
    odd_values: tuple[dict[str, Any], ...] = ({"arrayValue": {"values": [{"stringValue": "bot"}]}}, {"kvlistValue": {}})
    for value in odd_values:
        name["value"] = value
        body = Body("spans", orjson.dumps({"resourceSpans": one + odd}), JSON)
        answer = inbox.put(Batch("spans", body, "test")).result(30)
        assert [reject.reason for reject in answer.rejects] == ["unknown_model"]
        assert answer.accepted + answer.duplicates == 1


def test_a_record_that_no_rule_foresaw_is_set_aside_alone() -> None:
    config = Config.model_validate({"models": [{"name": n, "task": "regression"} for n in ("houses", "flats")]})
    columns: dict[str, dict[str, str]] = {"houses": {}}  # not to know of flats is a fault that nothing expects
    opener = Opener(config, lambda model: columns[model], lambda kind, many: None)
    items = [prediction("p1", features={"a": 1}), prediction("p2", model="flats", features={"a": 1}), prediction("p3")]
    opened = opener.open(Body("predictions", orjson.dumps(items), JSON), None, NOON)
    assert opened.blocks["predictions", "houses"].columns["record_id"] == ["p1", "p3"]
    assert [(r.index, r.reason, r.payload) for r in opened.rejects] == [(1, "undecodable", items[1])]


def test_rows_cross_as_one_piece_of_arrow() -> None:
    opener = Opener(CONFIG, lambda model: {}, lambda kind, many: None)
    opened = opener.open(Body("predictions", orjson.dumps(PUSHED["predictions"]), JSON), None, NOON)
    assert shown(pickle.loads(pickle.dumps(opened))) == shown(opened)


def test_the_number_of_processes_is_as_asked_for_and_else_by_the_processors() -> None:
    assert (processes(0), processes(3)) == (0, 3)
    assert processes(None) == min(len(os.sched_getaffinity(0)), max(2, min(4, len(os.sched_getaffinity(0)) // 2)))


def test_a_process_loads_neither_the_store_nor_torch() -> None:
    code = "import sys, monitor.opener; print([n for n in ('duckdb', 'torch', 'uvicorn', 'grpc') if n in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_body_is_masked_by_the_config_of_when_it_came_whatever_is_loaded_meanwhile(world: World, inbox: Inbox) -> None:
    lax = world.config.model_copy(update={"masking": world.config.masking.model_copy(update={"kinds": ()})})

    class Reloading(FakeClock):
        """A reload comes between the arrival of a body and the process that opens it."""

        def now(self) -> datetime:
            if self.armed:
                self.armed = False
                strict.configure(lax)
            return super().now()

        armed = False

    clock = Reloading()
    process = Direct()
    strict = Inbox(world.config, world.store, clock=clock, metrics=world.metrics, processes=[process])  # type: ignore[list-item]
    send(strict, "generations", generation("g1", question="ann@example.org"))
    clock.armed = True
    send(strict, "generations", generation("g2", question="bob@example.org"))
    send(strict, "generations", generation("g3", question="cat@example.org"))
    assert [row["question"] for row in world.rows("generations", "bot")] == ["[EMAIL]", "[EMAIL]", "cat@example.org"]


class Direct:
    """A process that is none, and keeps what it was asked."""

    name, pid = "intake-1", 1

    def __init__(self) -> None:
        self._answer = helper(limited=False)
        self.limits: list[float] = []

    def call(self, request: Any, timeout_seconds: float) -> Any:
        self.limits.append(timeout_seconds)
        return self._answer(request)


def test_a_longer_body_has_more_time(world: World) -> None:
    process = Direct()
    inbox = Inbox(world.config, world.store, clock=world.clock, metrics=world.metrics, processes=[process])  # type: ignore[list-item]
    inbox.put(Batch("generations", Body("generations", b" " * 2**22 + b"[]", JSON), "test")).result(30)
    inbox.put(Batch("generations", Body("generations", b"[]", JSON), "test")).result(30)
    long, *_, short = process.limits
    assert 80 <= short < 81
    assert 120 <= long < 121


USED_UP = """
import threading, resource
from datetime import UTC, datetime
from monitor import limits, opener
from monitor.config import Config

answer = opener.helper(limited=True)
body = opener.Body("generations", b" " * 2**22 + b"[]", "application/json")
answer(opener.Request(body, None, datetime.now(UTC), (0, 0), Config(), {}))
print(resource.getrlimit(resource.RLIMIT_CPU)[0], flush=True)
limits.allow_processor(1)
threading.Event().wait(2.5)  # others have the processor
print("alive", flush=True)
while True:
    pass
"""


def test_a_body_may_take_so_much_of_the_processor_and_not_of_the_clock() -> None:
    ended = subprocess.run([sys.executable, "-c", USED_UP], capture_output=True, text=True, timeout=60)
    allowed, alive = ended.stdout.split()
    assert 8 < int(allowed) < 20, "anew for each body"
    assert alive == "alive"
    assert ended.returncode == -signal.SIGXCPU


def test_while_all_processes_hang_one_more_is_started_for_the_others(
    world: World, child: Child, clock: FakeClock, metrics: Metrics
) -> None:
    started: list[Child] = []

    def spare() -> Child:
        started.append(Child("intake-spare", TARGET, True, nice=0, clock=clock, metrics=metrics))
        return started[-1]

    inbox = Inbox(world.config, world.store, clock=clock, metrics=metrics, processes=[child], spare=spare)
    assert child.pid is not None
    try:
        os.kill(child.pid, signal.SIGSTOP)  # with the first body in hand
        with ThreadPoolExecutor(2) as pool:
            hangs = pool.submit(send, inbox, "generations", generation("g1"))
            wait_for(lambda: child.busy, "the body to be asked about")
            other = pool.submit(send, inbox, "generations", generation("g2"))
            assert not started, "it may just be a long one"
            clock.move(10)
            assert other.result(30).accepted == 1
            assert len(started) == 1
            os.kill(child.pid, signal.SIGCONT)
            assert hangs.result(30).accepted == 1
        assert send(inbox, "generations", generation("g3")).accepted == 1
    finally:
        for one in started:
            one.stop()


def test_a_body_for_which_there_is_not_enough_memory_costs_a_refusal_and_the_process_lives(
    world: World, inbox: Inbox, child: Child
) -> None:
    send(inbox, "generations", generation("g1"))
    pid = child.pid
    assert pid is not None
    text = "much to be read " * 100
    body = Body("generations", orjson.dumps([generation(f"m{n}", question=text + str(n)) for n in range(20_000)]), JSON)
    taken = psutil.Process(pid).memory_info().vms
    resource.prlimit(pid, resource.RLIMIT_AS, (taken + 7 * len(body.data) // 2, resource.RLIM_INFINITY))
    for _ in range(DEATHS):
        with pytest.raises(StoreUnavailable, match="not enough memory; nothing was taken, send it again"):
            inbox.put(Batch("generations", body, "test"))
    answer = inbox.put(Batch("generations", body, "test")).result(30)
    assert answer.failed is not None
    assert (answer.failed.status, answer.failed.reason) == (413, "too_large")
    assert world.letters() == [(None, "too_large")]
    assert child.pid == pid
    assert send(inbox, "generations", generation("g2")).accepted == 1
    assert world.ids("generations", "bot") == ["g1", "g2"]


class Watched(Body):
    """One that keeps who reads it."""

    def __init__(self, kind: str, *items: Any) -> None:
        super().__init__(kind, orjson.dumps(items), JSON)
        self.readers: set[str] = set()

    def read(self) -> Any:
        self.readers.add(threading.current_thread().name)
        return super().read()


@pytest.mark.parametrize(
    ("first", "then"),
    (
        ([generation("g")], [generation("h"), generation("g", question="another")]),
        ([], [generation("g"), generation("g", question="another")]),
        ([prediction("p", features={"a": 1})], [prediction("q", features={"b": 1})]),
    ),
    ids=["a conflict", "a conflict within the batch", "a new feature"],
)
def test_what_has_to_be_shown_is_not_read_again_by_the_writer(
    world: World, inbox: Inbox, first: list[Any], then: list[Any]
) -> None:
    kind = "predictions" if "features" in then[0] else "generations"
    send(inbox, kind, *first)
    body = Watched(kind, *then)
    inbox.put(Batch(kind, body, "test")).result(30)
    assert body.readers == {threading.current_thread().name}
    clean = Watched(kind, *first, {**then[0], "record_id": "new"})
    inbox.put(Batch(kind, clean, "test")).result(30)
    assert clean.readers == set(), "nothing of it had to be shown"
