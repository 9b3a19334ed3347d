"""`modelwatch estimate`: files and queries, late labels, what it prints, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import detectors
from monitor.tabular import Tables
from tests.detectors.test_estimates import bikes, made, people
from tests.monitor.test_cli import run
from tests.monitor.test_compare import written

DATA = Path(__file__).parents[1] / "data"
PEOPLE = f"sql:FROM '{DATA / 'employment_sample.parquet'}' WHERE year = "
BIKES = f"sql:SELECT * EXCLUDE (instant, period) FROM '{DATA / 'bike_sharing_sample.parquet'}' WHERE period = "


def estimated(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> Any:
    assert run("estimate", *arguments, "--json") == code
    return json.loads(capsys.readouterr().out)


def test_a_query_gives_what_the_function_gives_of_the_same_rows(capsys: pytest.CaptureFixture[str]) -> None:
    found = estimated(
        capsys, "--reference", PEOPLE + "2015", "--analysis", PEOPLE + "2018", "--task", "binary", "--label", "employed",
        "--chunk-size", 500,
    )  # fmt: skip
    expected = detectors.estimate(people(2015), people(2018), task="binary", label="employed", chunk_size=500).to_dict()
    assert found["metrics"] == expected["metrics"]
    assert found["alerts"] == [{"metric": "recall", "chunk": "0:499"}]


def test_numbers_are_estimated_by_the_week(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--reference", BIKES + "'reference'", "--analysis", BIKES + "'production'", "--task", "regression")
    found = estimated(capsys, *arguments, "--metrics", "mae", "--chunk-period", "week", "--features", "hr,hum,weekday")
    expected = detectors.estimate(
        bikes("reference"), bikes("production"), task="regression", metrics=["mae"], chunk_period="week",
        features=["hr", "hum", "weekday"],
    ).to_dict()  # fmt: skip
    assert found["metrics"] == expected["metrics"]
    assert found["roles"]["timestamp"] == "timestamp"


@pytest.mark.parametrize("ending", ("parquet", "csv", "jsonl"))
def test_late_labels_come_in_a_file_of_their_own(ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference, whole = made(1000), made(400, seed=2)
    paths = [
        written(tmp_path, f"{name}.{ending}", table)
        for name, table in (
            ("reference", reference), ("analysis", whole.drop(columns="label")), ("labels", whole[["id", "label"]].iloc[::-1]),
        )
    ]  # fmt: skip
    arguments = ("--reference", paths[0], "--analysis", paths[1], "--labels", paths[2], "--task", "binary", "--chunk-number", 2)
    found = estimated(capsys, *arguments)
    expected = detectors.estimate(reference, whole, task="binary", chunk_number=2).to_dict()
    ours, theirs = (
        [(c["name"], c["labelled"], c["realised"], c["estimate"]) for m in one["metrics"] for c in m["chunks"]]
        for one in (found, expected)
    )
    for mine, other in zip(ours, theirs, strict=True):
        assert mine[:2] == other[:2]
        assert mine[2:] == pytest.approx(other[2:], abs=1e-9)


def test_times_of_a_file_are_the_zones_days(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of CSV and Parquet, with zones, over the night on which Oslo sets its clocks forward."""
    table = made(240, seed=1).assign(timestamp=pd.date_range("2026-03-27T23:00", periods=240, freq="15min", tz="UTC"))
    texts = table.assign(timestamp=table["timestamp"].dt.tz_convert("Europe/Oslo").map(lambda t: t.isoformat()))
    reference = written(tmp_path, "r.parquet", made(1000))
    for now in (written(tmp_path, "a.parquet", table), written(tmp_path, "b.csv", texts), written(tmp_path, "c.parquet", texts)):
        arguments = ("--reference", reference, "--analysis", now, "--task", "binary", "--min-rows", 20)
        found = estimated(capsys, *arguments, "--chunk-period", "day", "--timezone", "Europe/Oslo")
        chunks = [(c["name"], c["end"] - c["start"]) for c in found["metrics"][0]["chunks"]]
        assert chunks == [("2026-03-28", 96), ("2026-03-29", 92), ("2026-03-30", 52)], now


def test_a_column_of_seconds_or_of_local_times_is_read_as_such(tmp_path: Path) -> None:
    local = pd.to_datetime(pd.Series(["2026-01-01T00:00", None]))
    table = pd.DataFrame({"s": [1767225600.0, np.nan], "local": local, "x": ["a", "b"]})
    with Tables() as tables:
        opened = tables.open(str(written(tmp_path, "t.parquet", table)))
        for name, aware in (("s", True), ("local", False)):
            times = opened.times(name)
            assert times.aware is aware
            assert str(times.at[0])[:16] == "2026-01-01T00:00"
            assert np.isnat(times.at[1])
        with pytest.raises(detectors.contract.NotEvaluable, match="is not of times"):
            opened.times("x")


def test_long_ids_of_files_keep_all_their_digits(tmp_path: Path) -> None:
    table = pd.DataFrame({"id": [2**60 + 1, 2**60 + 2]})
    with Tables() as tables:
        for ending in ("parquet", "csv"):
            assert tables.open(str(written(tmp_path, f"t.{ending}", table))).categories("id").names == (
                "1152921504606846977", "1152921504606846978",
            )  # fmt: skip


def test_a_gate_ends_with_1_on_an_alert_and_only_when_it_was_asked_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference = written(tmp_path, "r.parquet", made(5000))
    good, bad = (written(tmp_path, f"{n}.parquet", made(500, sure, 4)) for n, sure in (("good", 1.0), ("bad", 0.2)))
    options = ("--task", "binary", "--metrics", "accuracy", "--chunk-size", 500)
    assert run("estimate", "--reference", reference, "--analysis", good, *options, "--fail-on-alert") == 0
    assert run("estimate", "--reference", reference, "--analysis", bad, *options) == 0
    assert run("estimate", "--reference", reference, "--analysis", bad, *options, "--fail-on-alert") == 1
    out = capsys.readouterr().out
    assert "accuracy: 0.7" in out
    assert "1 alert, of accuracy." in out
    assert "read: prediction prediction; label label; probability probability; timestamp timestamp; id id" in out


def test_what_cannot_be_used_is_said_and_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference = written(tmp_path, "r.parquet", made(1000))
    few = written(tmp_path, "few.parquet", made(3))
    for arguments, message in (
        (("--analysis", few), "nothing could be estimated: 0:0: 1 usable rows of 1, min_rows is 100"),
        (("--analysis", "nowhere.parquet"), "nowhere.parquet: no such file"),
        (("--analysis", few, "--labels", "nowhere.csv"), "nowhere.csv: no such file"),
        (("--analysis", few, "--label", "truth"), "label: no column 'truth' in the reference"),
        (("--analysis", few, "--metrics", "mae"), "metric mae cannot be estimated for binary"),
        (("--analysis", few, "--chunk-size", "0"), "chunk_size (0) must be 1 or more"),
        (("--analysis", few, "--chunk-size", "5", "--chunk-number", "2"), "not allowed with argument"),
        (("--analysis", few, "--chunk-period", "day", "--timezone", "Nowhere"), "no zone 'Nowhere'"),
        (("--analysis", few, "--probabilities", "a"), "'a' is not CLASS=COLUMN"),
        (("--analysis", few, "--confidence", "2"), "confidence: Input should be less than 1 (2.0)"),
    ):
        assert run("estimate", "--reference", reference, "--task", "binary", *arguments) == 2, arguments
        assert message in capsys.readouterr().err, arguments


def test_the_page_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    arguments = ("--reference", PEOPLE + "2015", "--analysis", PEOPLE + "2018", "--task", "binary", "--label", "employed")
    assert run("estimate", *arguments, "--html", page) == 0
    assert page.read_text(encoding="utf-8").count('role="img"') == 7
    capsys.readouterr()
