"""What happened is on Grafana's time axis, each once, whatever happens to Grafana, to us and to the answers between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from monitor import faultpoints
from monitor.grafana.annotations import GROW_SECONDS, Filling, Notes, sender
from monitor.grafana.attendant import Attendant
from monitor.grafana.client import Grafana
from monitor.outbox import Courier, Outbox, Retrying
from tests.grafana.server import GrafanaServer
from tests.monitor.support import NOON, World, check, prediction, sample, wait_for

STEADY = Retrying(first_seconds=1, most_seconds=60, give_up_seconds=3 * 86_400)
TEN = timedelta(minutes=10)
HIGH, LOW = 100.0, 1.0


@pytest.fixture
def server() -> Iterator[GrafanaServer]:
    with GrafanaServer() as made:
        yield made
    assert made.strange == []


class Watched:
    """A world that tells a Grafana, a step at a time. `restart` is a kill: whatever was in memory is gone."""

    def __init__(self, world: World, server: GrafanaServer) -> None:
        self.world = world
        self.server = server
        self.open()

    def open(self) -> None:
        config = self.world.config
        assert config.grafana is not None
        self.grafana = Grafana(config.grafana)
        self.box = Outbox("grafana", self.world.store, clock=self.world.clock, metrics=self.world.metrics)
        self.filling = Filling(self.box, config)
        self.filling.feed.begin()
        self.courier = Courier(self.box, sender(self.grafana), fill=self.filling.step, retrying=STEADY, chance=lambda: 0.0)

    def restart(self) -> None:
        self.grafana.close()
        self.world.restart()
        self.open()

    def window(self, n: int, value: float) -> None:
        """The n-th ten minutes bring this value, and the check is run on them."""
        at, clock = NOON + n * TEN, self.world.clock
        clock.move(max(0, (at + TEN - clock.now()).total_seconds()))
        self.world.send("predictions", prediction(f"r{n}", at + TEN / 2, prediction=value))
        self.world.look(1)
        assert self.world.look(301) > 0

    def tell(self) -> int:
        return sum(self.courier.step() for _ in range(3))

    def later(self, seconds: float = 120) -> int:
        self.world.clock.move(seconds)
        return self.tell()

    def regions(self, word: str = "incident") -> list[dict[str, Any]]:
        return [one for one in self.server.annotations if word in one["tags"]]

    def waiting(self) -> float | None:
        return sample(self.world.metrics, "modelwatch_outbox_messages", sink="grafana", state="waiting")


@pytest.fixture
def watched(make_world: Callable[..., World], server: GrafanaServer) -> Iterator[Watched]:
    section = {"url": server.url, "token": "glsa_editor", "timeout_seconds": 2}
    one = Watched(make_world(checks=[check("mean")], grafana=section, external_url="https://watch.example.com"), server)
    yield one
    one.grafana.close()


def ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)


def opened(watched: Watched) -> datetime:
    ((slot, state, _),) = watched.world.incidents("mean")
    assert state == "open"
    return slot


def test_an_incident_is_a_region_from_its_first_slot_to_the_one_that_resolved_it(watched: Watched) -> None:
    watched.window(0, HIGH)
    slot = opened(watched)
    watched.tell()
    (one,) = watched.regions()
    incident = watched.world.rows("incidents")[0]["incident_id"]
    assert one["time"] == ms(slot)
    assert one["timeEnd"] > one["time"]
    assert one["tags"] == [
        "modelwatch", "incident", "model:houses", "severity:warning", "check:mean", f"incident:{incident}"
    ]  # fmt: skip
    assert f'<a href="https://watch.example.com/incidents/{incident}">' in one["text"]
    watched.window(1, LOW)
    watched.tell()
    (closed,) = watched.regions()
    assert (closed["id"], closed["time"], closed["timeEnd"]) == (one["id"], ms(slot), ms(slot + TEN))
    assert closed["tags"] == one["tags"]
    assert ": resolved, warning" in closed["text"]
    server_writes = [method for method, path in watched.server.writes() if "/annotations" in path]
    assert server_writes == ["POST", "PATCH"]


def test_it_is_one_region_through_an_outage_and_restarts(watched: Watched) -> None:
    watched.server.stop()
    watched.window(0, HIGH)
    watched.tell()
    watched.restart()
    watched.later()
    assert watched.waiting() == 1
    watched.window(1, LOW)
    watched.restart()
    watched.tell()
    watched.server.start()
    watched.restart()
    for _ in range(4):
        watched.later()
    ((slot, _, resolved),) = watched.world.incidents("mean")
    assert resolved is not None
    (one,) = watched.regions()
    assert (one["time"], one["timeEnd"]) == (ms(slot), ms(resolved))
    assert watched.waiting() == 0


def test_an_answer_that_is_lost_makes_no_second_one(watched: Watched) -> None:
    watched.window(0, HIGH)
    watched.server.next.extend(["pass", "drop"])
    watched.tell()
    assert watched.waiting() == 1
    assert len(watched.regions()) == 1
    watched.restart()
    watched.later()
    assert watched.waiting() == 0
    assert len(watched.regions()) == 1


def test_a_daemon_that_dies_between_sending_and_noting_it_sends_no_second_one(watched: Watched) -> None:
    def die(name: str) -> None:
        if name == "outbox.sent":
            raise SystemExit

    watched.window(0, HIGH)
    faultpoints.arm(die)
    try:
        with pytest.raises(SystemExit):
            watched.tell()
    finally:
        faultpoints.arm(None)
    assert len(watched.regions()) == 1
    watched.restart()
    watched.tell()
    assert watched.waiting() == 0
    assert len(watched.regions()) == 1
    assert [method for method, path in watched.server.writes() if "/annotations" in path].count("POST") == 1


def test_one_that_came_in_late_after_all_is_taken_away(watched: Watched) -> None:
    """The first POST is taken only after we had given it up, looked, and sent another."""
    watched.window(0, HIGH)
    watched.server.next.extend(["pass", "late"])
    watched.tell()
    assert watched.waiting() == 1
    assert watched.regions() == []
    watched.later()
    assert [method for method, path in watched.server.writes() if "/annotations" in path] == ["POST", "POST", "DELETE"]
    assert len(watched.regions()) == 1


def test_a_region_of_what_is_open_is_drawn_on_to_the_present(watched: Watched) -> None:
    watched.window(0, HIGH)
    watched.tell()
    (first,) = [one.copy() for one in watched.regions()]
    watched.later(GROW_SECONDS)
    (one,) = watched.regions()
    assert one["timeEnd"] == ms(watched.world.clock.now()) > first["timeEnd"]
    writes = len(watched.server.writes())
    watched.later(1)
    assert len(watched.server.writes()) == writes
    watched.window(1, LOW)
    watched.later(GROW_SECONDS)
    assert watched.regions()[0]["timeEnd"] == ms(opened_and_resolved(watched)[1])


def opened_and_resolved(watched: Watched) -> tuple[datetime, datetime]:
    ((slot, _, resolved),) = watched.world.incidents("mean")
    assert resolved is not None
    return slot, resolved


def test_of_the_messages_that_draw_it_on_the_outbox_keeps_the_last(watched: Watched) -> None:
    watched.window(0, HIGH)
    for _ in range(20):
        watched.later(GROW_SECONDS)
    kept = [row["key"] for row in watched.world.state("SELECT key FROM outbox ORDER BY id")]
    assert [key.partition("/")[2].partition("/")[0] for key in kept] == ["1", "until"]
    assert watched.regions()[0]["timeEnd"] == ms(watched.world.clock.now())


def test_a_grafana_that_says_when_is_not_asked_before(watched: Watched) -> None:
    watched.window(0, HIGH)
    watched.server.next.append("busy")
    watched.tell()
    asked = len(watched.server.asked)
    watched.later(39)
    assert len(watched.server.asked) == asked, "not for its other annotations either"
    watched.later(1)
    assert len(watched.regions()) == 1
    assert sample(watched.world.metrics, "modelwatch_outbox_failures_total", sink="grafana", reason="busy") == 1


def test_a_store_that_begins_anew_does_not_write_over_the_changes_of_the_one_before(watched: Watched) -> None:
    row = {"model": "houses", "seq": 1, "what": "model_version", "value": "v1", "previous": None, "event_time": NOON}
    notes, send = Notes(watched.world.config), sender(watched.grafana)
    for one in (row, row, row | {"event_time": NOON + TEN, "value": "v2"}):
        (message,) = notes.of("changes", one)
        send(message)
    assert [one["time"] for one in watched.regions("change")] == [ms(NOON), ms(NOON + TEN)]


def test_while_grafana_is_away_what_is_open_does_not_pile_up(watched: Watched) -> None:
    watched.server.stop()
    watched.window(0, HIGH)
    for _ in range(20):
        watched.later(GROW_SECONDS)
    assert watched.waiting() == 1


def test_an_incident_that_a_restated_reading_takes_back_is_gone(watched: Watched) -> None:
    watched.window(0, HIGH)
    watched.tell()
    assert len(watched.regions()) == 1
    late = [prediction(f"late{i}", NOON + TEN / 2, prediction=LOW) for i in range(100)]
    watched.world.send("predictions", *late)
    for _ in range(3):
        watched.world.look(400)
    assert watched.world.incidents("mean") == []
    watched.tell()
    assert watched.regions() == []


def test_of_the_time_before_grafana_was_there_only_what_is_open_is_told(
    make_world: Callable[..., World], server: GrafanaServer
) -> None:
    section = {"url": server.url, "token": "glsa_editor", "timeout_seconds": 2}
    world = make_world(checks=[check("mean"), check("other", threshold={"upper": 1000})], grafana=section)
    for n, value in enumerate((HIGH, LOW, HIGH)):
        world.send("predictions", prediction(f"r{n}", NOON + n * TEN + TEN / 2, prediction=value))
        world.clock.move(600)
    world.look(1)
    world.look(1200)
    assert [state for _, state, _ in world.incidents("mean")] == ["resolved", "open"]
    watched = Watched(world, server)
    watched.tell()
    (one,) = watched.regions()
    assert one["time"] == ms(world.incidents("mean")[1][0])
    watched.grafana.close()


def test_a_wrong_token_is_no_reason_to_lose_anything(watched: Watched) -> None:
    good, bad = watched.grafana, {"token": "glsa_viewer"}
    assert watched.world.config.grafana is not None
    section = watched.world.config.grafana.model_dump() | bad
    viewer = Grafana(type(watched.world.config.grafana).model_validate(section))
    watched.courier = Courier(watched.box, sender(viewer), fill=watched.filling.step, retrying=STEADY, chance=lambda: 0.0)
    watched.window(0, HIGH)
    watched.tell()
    assert sample(watched.world.metrics, "modelwatch_outbox_failures_total", sink="grafana", reason="forbidden") == 1
    assert watched.waiting() == 1
    viewer.close()
    watched.courier = Courier(watched.box, sender(good), fill=watched.filling.step, retrying=STEADY)
    watched.later()
    assert len(watched.regions()) == 1


def test_what_grafana_will_never_take_is_dead_and_holds_nothing_up(watched: Watched) -> None:
    watched.window(0, HIGH)
    watched.server.next.extend(["pass", 400])
    watched.tell()
    assert sample(watched.world.metrics, "modelwatch_outbox_messages", sink="grafana", state="dead") == 1
    watched.window(1, LOW)
    watched.tell()
    (one,) = watched.regions()
    assert ": resolved, warning" in one["text"]


def test_an_annotation_that_a_person_deleted_comes_back_when_its_incident_ends(watched: Watched) -> None:
    watched.window(0, HIGH)
    watched.tell()
    watched.server.annotations.clear()
    watched.window(1, LOW)
    watched.tell()
    assert [one["timeEnd"] for one in watched.regions()] == [ms(opened_and_resolved(watched)[1])]


def test_what_is_new_in_the_traffic_and_what_was_deployed_are_points(watched: Watched) -> None:
    evil = "v2<script>alert(1)</script>" + "x" * 500
    for n, version in enumerate(("v1", evil)):
        watched.world.send("predictions", prediction(f"r{n}", NOON + n * TEN, model_version=version))
    deployed = {"model": "houses", "version": "v2", "timestamp": (NOON + TEN).isoformat(), "origin": "push"}
    watched.world.send("deployments", deployed)
    watched.tell()
    watched.tell()
    (change,), (deployment,) = watched.regions("change"), watched.regions("deployment")
    assert (change["time"], change["timeEnd"]) == (ms(NOON + TEN), ms(NOON + TEN))
    assert "<script>" not in change["text"]
    assert len(change["text"]) < 400
    assert "model:houses" in change["tags"]
    assert deployment["text"] == "houses v2: deployed"
    watched.restart()
    watched.later()
    assert len(watched.server.annotations) == 2


def test_a_window_of_maintenance_is_a_region_that_ends_when_it_is_ended(watched: Watched) -> None:
    row = {
        "model": "", "window_id": "w1", "revision": 1, "name": "move", "window_kind": "freeze", "models": '["houses"]',
        "start_time": NOON, "end_time": NOON + 6 * TEN, "weekly": None, "reason": "a & b", "ended_at": None,
    }  # fmt: skip
    notes, send = Notes(watched.world.config), sender(watched.grafana)
    (message,) = notes.of("maintenance", row)
    send(message)
    (one,) = watched.regions("freeze")
    assert (one["time"], one["timeEnd"], one["text"]) == (ms(NOON), ms(NOON + 6 * TEN), "freeze move: a &amp; b")
    for ended, left in ((NOON + TEN, 1), (NOON - TEN, 0)):
        (message,) = notes.of("maintenance", row | {"revision": 2, "ended_at": ended})
        send(message)
        assert len(watched.regions("freeze")) == left
    assert list(notes.of("maintenance", row | {"start_time": None, "end_time": None, "weekly": "{}"})) == []


def test_the_longest_names_are_short_enough_for_grafanas_tags(watched: Watched) -> None:
    long = "n" * 63
    row = {
        "model": long, "incident_id": "0" * 16, "revision": 1, "check_name": long, "slice": "country=" + "é" * 3000,
        "state": "open", "severity": "critical", "opened_slot": NOON, "resolved_slot": None, "received_at": NOON + TEN,
    }  # fmt: skip
    (message,) = Notes(watched.world.config).of("incidents", row)
    sender(watched.grafana)(message)
    (one,) = watched.regions()
    assert f"check:{long}" in one["tags"]


def test_the_daemons_part_works_on_threads_of_its_own_and_stops_with_a_grafana_that_hangs(watched: Watched) -> None:
    world = watched.world
    attendant = Attendant(world.config, world.store, clock=world.clock, metrics=world.metrics)
    attendant.start()
    watched.window(0, HIGH)
    wait_for(lambda: watched.regions(), "a region")
    wait_for(lambda: len(watched.server.dashboards) >= 4, "the dashboards")
    watched.server.next.extend(["hang"] * 4)
    watched.window(1, LOW)
    attendant.stop()
    watched.server.next.clear()
    again = Attendant(world.config, world.store, clock=world.clock, metrics=world.metrics)
    world.clock.move(600)
    again.start()
    wait_for(lambda: ": resolved" in watched.regions()[0]["text"], "its end")
    again.stop()
    assert len(watched.regions()) == 1
