"""kill -9 of any of our processes at any moment: nothing acknowledged is lost, nothing is stored or scored twice, and the
readings end as if nothing had happened."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitor import helpers
from monitor.audit import FILE
from monitor.demo import data
from monitor.demo.data import Batch
from monitor.demo.stack import ANY, HOST
from monitor.demo.stop import Stop
from monitor.helpers import DetectorSpec, ScoreRequest
from tests.faults.stored import assert_scored_once, assert_stored_once, count, rows
from tests.faults.supervisor import Kill, kills, under_fire

START = datetime(2026, 3, 2, tzinfo=UTC)
HOUR = timedelta(hours=1)
SETTLED_SECONDS = 60.0

pytestmark = pytest.mark.faults


# --- the traffic, and what must come of it ---------------------------------------------------------------------------

PREDICTIONS, GENERATIONS = 50_000, 500
PER_HOUR = 1_000
HOURS = PREDICTIONS // PER_HOUR
LABELLED = 10  # one in so many
BETWEEN_GENERATIONS = HOURS * HOUR / GENERATIONS


def value(i: int) -> float:
    return (i * 7919 % 1000) / 10 + i // PER_HOUR % 5


def error(i: int) -> int:
    return i % 13 - 6


def prediction(i: int) -> dict[str, Any]:
    features = {"rooms": i % 7, "area": value(i) * 2, "city": f"c{i % 11}"}
    at = (START + i * HOUR / PER_HOUR).isoformat()
    return {"record_id": f"p{i}", "timestamp": at, "prediction": value(i), "features": features}


def label(i: int) -> dict[str, Any]:
    return {"record_id": f"p{i}", "label": value(i) + error(i), "timestamp": START.isoformat()}


def generation(i: int) -> dict[str, Any]:
    at = (START + i * BETWEEN_GENERATIONS).isoformat()
    contexts = [f"passage {n} of {i}" for n in range(i % 3)]
    return {"record_id": f"g{i}", "timestamp": at, "question": "why?", "response": "so", "contexts": contexts}


def late_contexts(i: int) -> dict[str, Any]:
    return {"record_id": f"g{i}", "contexts": [f"late passage {n} of {i}" for n in range(2)]}


def has_late_contexts(i: int) -> bool:
    return i % 5 == 0


def slots(every: timedelta, last: datetime) -> Iterator[datetime]:
    """Due times of all windows that the traffic has closed."""
    slot = START + every
    while slot <= last:
        yield slot
        slot += every


def expected() -> dict[tuple[str, datetime], float]:
    """The readings of all checks, by their definition."""
    readings = {}
    for hour, slot in enumerate(slots(HOUR, START + (PREDICTIONS - 1) * HOUR / PER_HOUR)):
        rows = range(hour * PER_HOUR, (hour + 1) * PER_HOUR)
        readings["mean", slot] = sum(map(value, rows)) / PER_HOUR
        labelled = [abs(error(i)) for i in rows if i % LABELLED == 0]
        readings["error", slot] = sum(labelled) / len(labelled)
    per_slot = int(2 * HOUR / BETWEEN_GENERATIONS)
    for n, slot in enumerate(slots(2 * HOUR, START + (GENERATIONS - 1) * BETWEEN_GENERATIONS)):
        answers = range(n * per_slot, (n + 1) * per_slot)
        readings["bare", slot] = sum(i % 3 + 2 * has_late_contexts(i) < 2 for i in answers) / per_slot
    return readings


def in_batches(kind: str, model: str, records: Sequence[dict[str, Any]], size: int) -> list[Batch]:
    return [Batch(kind, model, records[i : i + size]) for i in range(0, len(records), size)]


CONFIG: dict[str, Any] = {
    "store": {"path": "store", "tail_seconds": "1s", "seal_seconds": "5s", "seal_rows": 5_000},
    "scoring": {"settle_seconds": 1},
    "models": [{"name": "houses", "task": "regression"}, {"name": "bot", "task": "llm"}],
    "checks": [
        {
            "name": "mean",
            "model": "houses",
            "detector": "tests.plugins:IsolatedMean",  # in the worker
            "every": "1h",
            "threshold": {"upper": 52.5},
        },
        {
            "name": "error",
            "model": "houses",
            "detector": "performance",  # restated by late labels
            "settings": {"task": "regression", "metric": "mae"},
            "every": "1h",
            "threshold": {"upper": 100},
        },
        {
            "name": "bare",
            "model": "bot",
            "detector": "tests.plugins:Bareness",  # in the scorer
            "every": "2h",
            "min_records": 10,
            "flag": 0.4,
            "threshold": {"upper": 0.9},
        },
    ],
}


# --- the store -------------------------------------------------------------------------------------------------------


def latest(table: str, key: str, columns: str) -> str:
    return f"SELECT {key}, {columns} FROM {table} QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY revision DESC) = 1"


@dataclass(frozen=True)
class Word:
    """What the daemon ended up saying."""

    readings: list[tuple[Any, ...]]
    verdicts: list[tuple[Any, ...]]
    incidents: list[tuple[Any, ...]]
    scores: list[tuple[Any, ...]]

    @classmethod
    def of(cls, store: Path) -> Word:
        reading = "outcome, reason, statistic, value, lower, upper, n_current, metrics"
        return cls(
            sorted(rows(store, latest("readings", "check_name, slot", reading)), key=str),
            sorted(rows(store, latest("verdicts", "check_name, slot", "outcome, beyond, firing")), key=str),
            sorted(
                rows(
                    store,
                    f"FROM ({latest('incidents', 'check_name, opened_slot', 'state, resolved_slot, peak')}) "
                    "WHERE state != 'withdrawn'",
                ),
                key=str,
            ),
            sorted(rows(store, latest("scores", "record_id, detector, settings_hash", "outcome, reason, value")), key=str),
        )

    def values(self) -> dict[tuple[str, datetime], float]:
        return {(check, slot): reading for check, slot, _, _, _, reading, *_ in self.readings}


# --- the tests -------------------------------------------------------------------------------------------------------


def run(
    folder: Path,
    config: dict[str, Any],
    streams: Sequence[Sequence[Batch]],
    kills: Sequence[Kill],
    done: Callable[[Word], bool],
    *,
    go_by_scores: int | None = None,
) -> Path:
    """The store of a daemon that got the streams while it was shot at, once `done`."""
    folder.mkdir()
    ports, _ = ANY.free()
    file, store = folder / "modelwatch.yaml", folder / "store"
    addresses = {"server": {"listen": f"{HOST}:{ports.push}"}, "metrics": {"listen": f"{HOST}:{ports.metrics}"}}
    file.write_text(yaml.safe_dump({**config, "otlp": {"http": False, "grpc": False}, **addresses}))

    def scored() -> float:
        assert go_by_scores
        return count(store, "scores") / go_by_scores if (store / FILE).exists() else 0.0

    with under_fire(file, ports, streams, kills, scored if go_by_scores else None):
        Stop().wait_for("the last readings", lambda: (store / FILE).exists() and done(Word.of(store)), SETTLED_SECONDS)
    return store


@pytest.mark.slow
def test_thirty_kills_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    main: list[Batch] = []
    for start in range(0, PREDICTIONS, 250):
        indices = range(start, start + 250)
        main.append(Batch("predictions", "houses", [prediction(i) for i in indices]))
        main.append(Batch("labels", "houses", [label(i) for i in indices if i % LABELLED == 0]))
    answers = in_batches("generations", "bot", [generation(i) for i in range(GENERATIONS)], 5)
    contexts = in_batches("contexts", "bot", [late_contexts(i) for i in range(GENERATIONS) if has_late_contexts(i)], 2)
    streams = (main, answers, contexts)
    wanted = expected()

    def done(word: Word) -> bool:
        return word.values() == pytest.approx(wanted) and len(word.scores) == GENERATIONS

    calm = run(tmp_path / "calm", CONFIG, streams, (), done)
    shot = run(tmp_path / "shot", CONFIG, streams, kills(30, ("owner", "scorer", "worker"), seed=11), done)

    total = pytest.approx(sum(map(value, range(PREDICTIONS))))
    assert rows(shot, "SELECT count(DISTINCT record_id), sum(prediction) FROM predictions") == [(PREDICTIONS, total)]
    assert count(shot, "labels") == PREDICTIONS // LABELLED
    assert count(shot, "generations") == GENERATIONS
    assert count(shot, "deadletters") == 0
    assert_stored_once(shot)
    assert_scored_once(shot)
    assert Word.of(shot) == Word.of(calm)


@pytest.mark.slow
def test_kills_while_the_encoder_works_change_no_score(tmp_path: Path) -> None:
    """The same with the faithfulness detector, which takes seconds to load and works on a batch for a while."""
    batches = data.answers(START, each=24)[1]
    config = {
        **CONFIG,
        "scoring": {"batch_records": 2, "nice": 0},
        "models": [{"name": data.BOT, "task": "llm"}],
        "checks": [
            {"name": "unsupported", "model": data.BOT, "detector": "faithfulness", "every": "10m", "threshold": {"upper": 0.3}}
        ],
    }
    generations = [g for batch in batches for g in batch.records]
    request = ScoreRequest((DetectorSpec("faithfulness", "{}"),), generations)
    expected = helpers.scorer({"device": "cpu"})(request).scores[0]

    shot = run(
        tmp_path / "shot",
        config,
        [batches],
        kills(3, ("scorer", "owner"), seed=5, up_to_seconds=0.2),
        lambda word: len(word.scores) == len(generations),
        go_by_scores=len(generations),
    )
    assert_stored_once(shot)
    found = {row[0]: row[-3:] for row in Word.of(shot).scores}
    for sent, score in zip(generations, expected, strict=True):
        outcome, reason, number = found[sent["record_id"]]
        assert (outcome, reason) == (score.outcome, score.reason)
        assert number == pytest.approx(score.value, abs=1e-4)
