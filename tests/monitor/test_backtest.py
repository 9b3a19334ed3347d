"""The past replayed: what the daemon said is said again, to the bit; other thresholds beside it; and nothing is written."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml

from monitor import cli
from monitor.backtestreader import Shown
from monitor.backtestrules import Trial, Unreplayable, rules
from monitor.backtestrun import Replay, replay
from monitor.config import Threshold
from monitor.errors import StoreError
from tests.monitor.support import MODELS, NOON, World, check, generation, label, prediction
from tests.monitor.test_runner import at, values
from tests.plugins import Bareness

LATER = NOON + timedelta(hours=1)
FIELDS = ("outcome", "beyond", "firing", "judged", "lower", "upper", "needed", "of_windows", "note")


def replayed(
    world: World, name: str, start: float, end: float, *more: Threshold, alphas: tuple[float, ...] = (), **options: Any
) -> Replay:
    """From minute `start` of the dawn to minute `end`."""
    world.audit.refresh()
    asked = next(c for c in world.config.checks if c.name == name)
    scratch = world.store.root.parent / f"scratch-{len(list(world.store.root.parent.iterdir()))}"
    scratch.mkdir()
    shown = Shown(world.store.root, scratch)
    try:
        tried = rules(world.config, asked, more, alphas, ())
        given = {"now": LATER, "monotonic": lambda: 0.0, **options}
        return replay(shown, world.config, asked, tried, at(start), at(end), scratch=scratch, **given)
    finally:
        shown.close()


def said(world: World, name: str, model: str = "houses") -> dict[tuple[str, datetime], tuple[Any, ...]]:
    """By slice and slot: the latest word of the daemon, and its reading."""
    mine = [r for r in world.rows("readings", model) if r["check_name"] == name]
    readings = {(r["slice"], r["slot"]): r for r in sorted(mine, key=lambda r: r["revision"])}
    found = {}
    for row in sorted(world.rows("verdicts", model), key=lambda r: r["revision"]):
        if row["check_name"] == name:
            reading = readings[row["slice"], row["slot"]]
            told = (
                *(row[field] for field in FIELDS),
                reading["value"],
                reading["metrics"],
                reading["parts"],
                reading["reference"],
            )
            found[row["slice"], row["slot"]] = told
    return found


def again(found: Replay, rule: str = "as configured") -> dict[tuple[str, datetime], tuple[Any, ...]]:
    told = {}
    for one in found.trials:
        if one.rule.name == rule:
            for verdict in one.verdicts:
                row = one.track._verdict_row(verdict)
                read = found.measured[one.slice][verdict.slot].columns()
                more = read["value"], json.dumps(read["metrics"]), json.dumps(read["parts"]), read["reference"]
                told[one.slice, verdict.slot] = (*(row[field] for field in FIELDS), *more)
    return told


def same(before: tuple[Any, ...], now: tuple[Any, ...]) -> bool:
    """JSON is compared as what it says."""
    plain = [json.loads(v) if isinstance(v, str) and v[:1] in "[{" else v for v in (*before, *now)]
    return plain[: len(before)] == plain[len(before) :]


def of(found: Replay, rule: str, part: str = "all") -> Trial:
    return next(one for one in found.trials if (one.rule.name, one.slice) == (rule, part))


def steps(world: World, high: range, until: int = 30) -> None:
    """Thirty windows of ten minutes with one value each: 5, and 20 in some."""
    values(world, *[(10 * n + 1, 20.0 if n in high else 5.0) for n in range(until)], (10 * until + 5, 5.0))


# --- as the daemon -----------------------------------------------------------------------------------------------------

WEEK: dict[str, Any] = {
    "reference": {"trailing": "1h"},
    "settings": {"min_rows": 10, "block_rows": 1, "resamples": 200},
    "min_records": 10,
}
GOOD = {"start": at(0).isoformat(), "end": at(110).isoformat()}
ALIKE = {
    "constant": check("one", breaches=2, of=3, clear=2, threshold={"upper": 8, "margin": 1}),
    "sliding": check("one", window="30m", threshold={"upper": 2}),
    "learned": check("one", threshold={"kind": "quantile", "upper": 0.9, "baseline": GOOD}),
    "calibrated": {**check("one", threshold={"kind": "calibrated", "alpha": 0.01}), "detector": "data_drift", **WEEK},
    "slices": {
        **check("one", threshold={"kind": "calibrated", "alpha": 0.01}), "detector": "data_drift", **WEEK,
        "slices": [{"by": "colour", "top": 2}, {"name": "odd", "where": {"colour": ["green", "blue"]}}],
    },
    "fixed": {
        **check("one", threshold={"kind": "calibrated", "alpha": 0.01}), "detector": "data_drift", **WEEK,
        "reference": {"start": at(0).isoformat(), "end": at(60).isoformat()},
    },
    "late labels": check("one", "Error", threshold={"upper": 5}),
}  # fmt: skip


def stream(world: World, windows: range, rng: np.random.Generator) -> None:
    items = []
    for window in windows:
        for n in range(30):
            moved = 3.0 if window in (20, 21) else 0.0
            colour = str(rng.choice(["red", "green", "blue"]))
            features = {"size": float(rng.normal() + moved), "age": float(rng.normal()), "colour": colour}
            items.append(
                prediction(
                    f"{window}-{n}", at(10 * window + n / 4), prediction=float(rng.normal() + 4 * moved), features=features
                )
            )
    world.send("predictions", *items)


@pytest.mark.parametrize("kind", ALIKE)
def test_what_the_daemon_has_said_is_said_again_to_the_bit(make_world: Callable[..., World], kind: str) -> None:
    world = make_world(checks=[ALIKE[kind]])
    rng = np.random.default_rng(1)
    for first in (0, 10, 20):
        stream(world, range(first, first + 10), rng)
        world.look()
        world.seal()
        world.send("labels", *(label(f"{window}-{n}", 1.0) for window in range(first, first + 10) for n in range(0, 30, 2)))
    stream(world, range(30, 32), rng)
    world.look()
    world.look()
    told = said(world, "one")
    found = again(replayed(world, "one", -60, 310))
    assert len({slot for _, slot in told}) >= 20
    assert any(row[2] for row in told.values()), "something fires"
    assert set(found) == set(told)
    assert [key for key in told if not same(told[key], found[key])] == []


def test_a_range_that_begins_in_an_incident_knows_it_and_counts_only_its_own_windows(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("one", clear=2, threshold={"upper": 10, "margin": 6})])
    steps(world, range(10, 14))
    world.look()
    told = said(world, "one")
    for start in (110, 150, 160):
        found = replayed(world, "one", start, 300)
        assert again(found) == {key: row for key, row in again(replayed(world, "one", 0, 300)).items() if key[1] > at(start)}
        assert all(same(told[key], row) for key, row in again(found).items())
    one = of(replayed(world, "one", 120, 300), "as configured")
    assert (len(one.slots), one.evaluable, one.firing) == (18, 18, 18), "5 is not back inside by the margin"
    assert [i.opened for i in one.incidents] == [at(110)]


# --- other thresholds --------------------------------------------------------------------------------------------------


def test_other_thresholds_are_counted_beside_it_by_one_reading_of_each_window(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("one", threshold={"upper": 30})])
    steps(world, range(10, 13))
    found = replayed(world, "one", 0, 300, Threshold(upper=10.0), Threshold(upper=4.0))
    told = {one.rule.name: (len(one.slots), one.evaluable, one.firing, len(one.incidents)) for one in found.trials}
    assert told == {
        "as configured": (30, 30, 0, 0),
        "constant upper 10": (30, 30, 3, 1),
        "constant upper 4": (30, 30, 30, 1),
    }
    one = of(found, "constant upper 10")
    assert one.incidents[0].opened == at(110)
    assert (one.incidents[0].resolved, one.incidents[0].peak) == (at(140), 20.0)
    assert one.a_month(1) == pytest.approx(30 * 24 * 60 / 300)


def test_levels_and_budgets_ring_as_often_as_they_say_and_find_what_moved(make_world: Callable[..., World]) -> None:
    drift = {**check("one", threshold={"kind": "calibrated", "alpha": 0.001}), "detector": "data_drift", **WEEK}
    world = make_world(checks=[drift])
    stream(world, range(60), np.random.default_rng(3))
    found = replayed(world, "one", 0, 590, alphas=(0.2, 0.01))
    often, seldom = of(found, "calibrated, alpha 0.2"), of(found, "calibrated, alpha 0.01")
    assert often.expected == pytest.approx(0.2 * often.evaluable)
    assert {at(210), at(220)} <= {slot for slot in seldom.slots if (v := seldom.track.history.at(slot)) and v.firing}
    assert seldom.firing < often.firing < 0.5 * often.evaluable
    one = next(r for r in rules(world.config, world.config.checks[0], (), (), (10.0,)) if r.name == "calibrated, 10 a month")
    assert one.alpha == pytest.approx(10 / 4320)
    with pytest.raises(Unreplayable, match="alpha lies between 0 and"):
        rules(world.config, world.config.checks[0], (), (), (5_000.0,))


# --- what cannot be replayed -------------------------------------------------------------------------------------------


def test_what_cannot_be_replayed_says_why_and_what_to_do(make_world: Callable[..., World]) -> None:
    late = {"start": at(500).isoformat(), "end": at(600).isoformat()}
    scored = {**check("scored", "Meeting"), "model": "bot"}
    world = make_world(checks=[check("one"), check("compared", "Shift", reference=late), scored])
    with pytest.raises(StoreError, match=r"not there; is .* the store of a daemon that has run"):
        Shown(world.store.root / "nowhere", world.store.root)
    with pytest.raises(Unreplayable, match="houses has no predictions in"):
        replayed(world, "one", 0, 300)
    values(world, (1, 2.0), (100, 3.0))
    with pytest.raises(Unreplayable, match="predictions of houses are from 2026-03-01T06:01:00Z to 2026-03-01T07:40:00Z"):
        replayed(world, "one", 200, 300)
    with pytest.raises(Unreplayable, match="shorter than a window of 600 s"):
        replayed(world, "one", 0, 5)
    with pytest.raises(
        Unreplayable, match="ends at 2026-03-01T16:00:00Z, and the latest row of houses is of 2026-03-01T07:40:00Z"
    ):
        replayed(world, "compared", 0, 100)
    with pytest.raises(
        Unreplayable, match=r"not_evaluable: no score of bot was made by the settings .* Replay with the settings"
    ):
        replayed(world, "scored", 0, 100)


def test_a_window_that_is_not_over_is_not_read(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("one", idle_timeout="1h")])
    values(world, (1, 2.0), (11, 3.0), (25, 4.0))
    assert sorted(replayed(world, "one", 0, 90, now=at(26)).measured["all"]) == [at(10), at(20)]
    assert sorted(replayed(world, "one", 0, 90, now=at(91)).measured["all"]) == [at(10), at(20), at(30)]


def test_time_that_is_over_leaves_what_is_known_by_then(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("one")])
    steps(world, range(0))
    ticking = iter(range(1_000))
    found = replayed(world, "one", 0, 300, seconds=10.0, monotonic=lambda: float(next(ticking)))
    assert 5 <= found.windows <= 10
    assert found.stopped == at(10 * (found.windows + 1))


# --- files, and the command --------------------------------------------------------------------------------------------


def digest(root: Path) -> dict[str, str]:
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(root.rglob("*")) if p.is_file()}


def test_nothing_is_written_to_the_store_and_what_is_frozen_there_is_taken(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[ALIKE["fixed"]])
    stream(world, range(30), np.random.default_rng(1))
    world.seal()
    fresh = replayed(world, "one", 60, 290)
    assert not (world.store.root / "references").exists(), "it is frozen in a folder that goes"
    world.look()
    late = np.random.default_rng(2)
    world.send(
        "predictions", *(prediction(f"late-{n}", at(5 + n / 100), features={"size": float(late.normal() + 9)}) for n in range(99))
    )
    world.audit.refresh()
    before = digest(world.store.root)
    found = replayed(world, "one", 60, 290)
    assert digest(world.store.root) == before
    assert again(found) == again(fresh), "what came late is not in the reference that is frozen"


def test_views_that_are_replaced_under_it_are_followed(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[check("one")])
    values(world, (1, 2.0))
    world.audit.refresh()
    shown = Shown(world.store.root, world.store.root.parent)
    first = shown.reader()
    assert shown.reader() is first
    assert first.span("predictions", "houses")[2] == 1
    values(world, (2, 2.0), prefix="s")
    world.seal()
    values(world, (3, 2.0), prefix="t")
    world.audit.refresh()
    assert shown.reader().span("predictions", "houses")[2] == 3
    assert shown.reader().last_seq("predictions", "houses") == 3
    shown.close()


@pytest.fixture
def told(make_world: Callable[..., World], tmp_path: Path) -> tuple[World, Path]:
    """A world with an hour that is high, and its config in a file."""
    world = make_world(checks=[check("one")])
    steps(world, range(10, 13))
    world.audit.refresh()
    path = tmp_path / "modelwatch.yaml"
    path.write_text(yaml.safe_dump({"models": MODELS, "store": {"path": str(world.store.root)}, "checks": [check("one")]}))
    return world, path


def ask(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        cli.main(["backtest", *arguments])
    assert isinstance(left.value.code, int)
    return left.value.code


def test_the_command_prints_a_table_and_writes_json_csv_and_plots(
    told: tuple[World, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, path = told
    given = ("--config", str(path), "--check", "one", "--from", "2026-03-01T06:00:00Z", "--to", "2026-03-01T11:00:00Z")
    files = {name: tmp_path / f"out.{name}" for name in ("csv", "json", "svg", "html")}
    options = ("--threshold", "upper=30", "--csv", str(files["csv"]), "--json", str(files["json"]), "--plot", str(files["svg"]))
    assert ask(*given, *options) == 0
    out = capsys.readouterr().out
    row = next(line for line in out.splitlines() if line.startswith("as configured"))
    assert row.split()[2:6] == ["30", "30", "3", "1"]
    assert "2026-03-01T07:50:00Z to 2026-03-01T08:20:00Z, peak 20" in out
    found = json.loads(files["json"].read_text())
    assert [(one["threshold"], one["firing"]) for one in found["thresholds"][:2]] == [
        ("as configured", 3),
        ("constant upper 30", 0),
    ]
    assert found["thresholds"][0]["incidents"] == [
        {"begin": "2026-03-01T07:50:00Z", "last": "2026-03-01T08:10:00Z", "end": "2026-03-01T08:20:00Z", "peak": 20.0}
    ]
    lines = files["csv"].read_text().splitlines()
    assert len(lines) == 31
    assert lines[0].startswith("slice,begin,end,outcome,reason,n,value")
    drawing = ElementTree.fromstring(files["svg"].read_text())
    assert len(drawing.findall(".//{*}rect[@class='incident']")) == 1
    assert len(drawing.findall(".//{*}circle[@class='fired']")) == 3
    assert ask(*given, "--plot", str(files["html"]), "--json") == 0
    assert json.loads(capsys.readouterr().out)["windows"] == 30
    assert "How often it would have fired" in files["html"].read_text()


@pytest.mark.parametrize(
    ("options", "problem"),
    (
        (("--check", "two"), "--check 'two' is not in the config; there are: one"),
        (("--from", "2099-01-01"), "lies in the future"),
        (("--from", "yesterday"), "--from 'yesterday' is no time"),
        (("--to", "2026-02-01"), "is not before --to 2026-02-01"),
        (("--plot", "plot.png"), "--plot plot.png: a plot is written as .svg or .html"),
        (("--csv", "/nowhere/out.csv"), "--csv /nowhere/out.csv: not written (No such file or directory)"),
        (("--json", "/nowhere/out.json"), "--json /nowhere/out.json: not written"),
        (("--max-memory", "0"), "--max-memory 0: give at least 128 MB"),
        (("--from", "0001-01-01"), "--from '0001-01-01' is of no record; give a year from 1970 on"),
        (("--threshold", "kind=quantile,upper=0.9"), "check one has no baseline to learn it from; give it threshold.baseline"),
        (("--threshold", "upper"), "--threshold 'upper': write KEY=VALUE"),
        (("--threshold", "kind=std,alpha=0.1"), "--threshold 'kind=std,alpha=0.1': "),
        (("--budget", "1e9"), "alpha lies between 0 and 0.5"),
        (("--check-file", "nowhere.yaml"), "nowhere.yaml"),
        (("--from", "2026-03-02"), "are from 2026-03-01T06:01:00Z to 2026-03-01T11:05:00Z"),
    ),
)
def test_what_is_asked_wrong_says_so(
    told: tuple[World, Path], capsys: pytest.CaptureFixture[str], options: tuple[str, ...], problem: str
) -> None:
    given = ("--config", str(told[1]), "--check", "one", "--from", "2026-03-01", "--to", "2026-03-03")
    assert ask(*given, *options) == 2
    assert problem in capsys.readouterr().err


def test_a_copy_of_the_files_is_enough_and_no_daemon_is_asked(
    told: tuple[World, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world, path = told
    copy = tmp_path / "copy"
    shutil.copytree(world.store.root, copy, symlinks=True, ignore=shutil.ignore_patterns("*.wal", "store.duckdb*", "hot*"))
    path.write_text(path.read_text().replace(str(world.store.root), str(copy)))
    assert [one.name for one in copy.iterdir() if one.suffix == ".duckdb"] == ["audit.duckdb"]
    assert ask("--config", str(path), "--check", "one", "--from", "2026-03-01", "--to", "2026-03-02") == 0
    assert capsys.readouterr().out.splitlines()[1].split()[2:6] == ["31", "31", "3", "1"]


def test_checks_that_read_scores_say_of_answers_what_the_daemon_said(make_world: Callable[..., World]) -> None:
    row = {**check("row", "Bareness", threshold={"upper": 0.3}), "model": "bot"}
    mean = {**check("one", threshold={"upper": 0.72}), "model": "bot", "columns": {"prediction": "score.row"}}
    world = make_world(checks=[row, mean])
    sent = [generation(f"g{n}", at(n), **({} if n in range(100, 110) or n % 3 == 0 else {"contexts": ["a"]})) for n in range(200)]
    world.send("generations", *sent)
    world.settle()
    world.score()
    world.look()
    world.seal()
    for name in ("row", "one"):
        told, found = said(world, name, "bot"), again(replayed(world, name, 0, 190))
        assert len(found) == 19
        assert all(same(told[key], row) for key, row in found.items())
    assert {row[2] for row in found.values()} == {True, False}


def test_a_row_detector_replays_the_scores_of_its_present_settings(make_world: Callable[..., World]) -> None:
    world = make_world(checks=[{**check("one", "Bareness", threshold={"upper": 0.3}), "model": "bot"}])
    bare = range(100, 110)
    sent = [generation(f"g{n}", at(n), **({} if n in bare else {"contexts": ["a passage"]})) for n in range(200)]
    world.send("generations", *sent)
    world.settle()
    world.score()
    world.look()
    found = replayed(world, "one", 0, 190)
    told = said(world, "one", "bot")
    assert any(row[2] for row in told.values())
    assert again(found) == {key: row for key, row in again(found).items() if same(told[key], row)}
    assert of(found, "as configured").incidents
    world.config = world.config.model_copy(
        update={"checks": (world.config.checks[0].model_copy(update={"settings": Bareness.Config(scale=0.5)}),)}
    )
    with pytest.raises(
        Unreplayable, match=r"no score of bot was made by the settings that check one has now \(settings_hash \w+; 200 by \w+"
    ):
        replayed(world, "one", 0, 190)


def test_a_check_that_is_not_in_the_config_is_tried_from_a_file(
    told: tuple[World, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "check.yaml"
    file.write_text(yaml.safe_dump(check("two", window="20m", threshold={"upper": 12})))
    given = ("--config", str(told[1]), "--from", "2026-03-01", "--to", "2026-03-03", "--check", "two")
    assert ask(*given, "--check-file", str(file)) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[2:6] == ["32", "32", "4", "1"]
    file.write_text(yaml.safe_dump(check("two", threshold={"uper": 12})))
    assert ask(*given, "--check-file", str(file)) == 2
    assert "threshold.uper: no such key" in capsys.readouterr().err


def test_check_config_says_how_to_try_a_check_first(told: tuple[World, Path]) -> None:
    command = [sys.executable, "-m", "monitor", "check-config", str(told[1])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"modelwatch backtest --config {told[1]} --check NAME --from TIME" in done.stdout
