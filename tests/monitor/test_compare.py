"""`modelwatch compare`: files, folders and queries; what it prints; and its exit codes."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest

import detectors
from monitor.tabular import Tables, Unusable, family_of
from tests.monitor.support import World, prediction
from tests.monitor.test_cli import run

DATA = Path(__file__).parents[1] / "data"
PEOPLE = DATA / "employment_sample.parquet"
BIKES = DATA / "bike_sharing_sample.parquet"
RNG = np.random.default_rng(3)


def frame(move: float = 0.0, rows: int = 300) -> pd.DataFrame:
    rng = np.random.default_rng(int(move * 10) + 1)
    return pd.DataFrame(
        {
            "pay": rng.normal(move, 1, rows),
            "zip": rng.choice(["0150", "0151", "0152"], rows),
            "member": rng.random(rows) < 0.5,
            "when": pd.date_range("2026-01-01", periods=rows, freq="h"),
        }
    )


def written(folder: Path, name: str, table: pd.DataFrame) -> Path:
    path = folder / name
    match path.name.split(".", 1)[1]:
        case "parquet":
            table.to_parquet(path)
        case "csv" | "csv.gz":
            table.to_csv(path, index=False)
        case "tsv":
            table.to_csv(path, index=False, sep="\t")
        case "jsonl" | "jsonl.gz":
            table.to_json(path, orient="records", lines=True, date_format="iso", double_precision=15)
    return path


def compared(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> Any:
    assert run("compare", *arguments, "--json") == code
    return json.loads(capsys.readouterr().out)


# --- what it reads -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ("parquet", "csv", "csv.gz", "tsv", "jsonl", "jsonl.gz"))
def test_each_kind_of_file_gives_what_the_function_gives(ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, now = frame(), frame(0.6)
    expected = detectors.compare(before, now)
    sides = written(tmp_path, f"r.{ending}", before), written(tmp_path, f"c.{ending}", now)
    found = compared(capsys, "--reference", sides[0], "--current", sides[1])
    assert found["drift"] is True
    assert list(found["left_out"]) == ["when"]
    for ours, theirs in zip(found["columns"], expected.columns, strict=True):
        assert (ours["name"], ours["kind"], ours["drifted"]) == (theirs.name, theirs.kind, theirs.drifted)
        assert ours["value"] == pytest.approx(theirs.value, abs=1e-12)
        assert (ours["n_reference"], ours["n_current"]) == (300, 300)


def test_folders_and_patterns_are_all_their_files_in_the_order_of_their_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = frame()
    (tmp_path / "days").mkdir()
    for i in range(3):
        written(tmp_path / "days", f"d{i}.parquet", table.iloc[100 * i : 100 * (i + 1)])
    (tmp_path / "days" / "README.txt").write_text("not data")
    whole = written(tmp_path, "whole.parquet", table)
    for name in (tmp_path / "days", tmp_path / "days" / "d*.parquet"):
        found = compared(capsys, "--reference", whole, "--current", name)
        assert {column["value"] for column in found["columns"]} == {0.0}


def test_a_category_of_digits_stays_one_whatever_the_other_file_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = pd.DataFrame({"zip": ["0150", "0151", "A1"] * 100, "size": ["1", "2", "3"] * 100})
    now = pd.DataFrame({"zip": ["0150", "0151", "0152"] * 100, "size": ["1", "2", "3"] * 100})
    sides = written(tmp_path, "r.csv", before), written(tmp_path, "c.csv", now)
    found = compared(capsys, "--reference", sides[0], "--current", sides[1], "--category", "size")
    by_name = {column["name"]: column for column in found["columns"]}
    assert by_name["zip"]["kind"] == by_name["size"]["kind"] == "category"
    assert by_name["size"]["value"] == 0.0
    assert by_name["zip"]["value"] == pytest.approx(detectors.compare(before, now, columns=["zip"]).columns[0].value)


def test_a_query_reads_files_or_a_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, "all.parquet", frame())
    database = tmp_path / "house.duckdb"
    with duckdb.connect(str(database)) as connection:
        connection.execute(f"CREATE TABLE \"last-week\" AS FROM '{path}'")
    for query in ("sql:last-week", 'sql:SELECT pay, zip FROM "last-week" WHERE member OR NOT member;'):
        found = compared(capsys, "--reference", path, "--current", query, "--database", database, "--columns", "pay,zip")
        assert {column["value"] for column in found["columns"]} == {0.0}
    found = compared(capsys, "--reference", path, "--current", f"sql:SELECT * REPLACE (pay + 1 AS pay) FROM '{path}'")
    assert [column["name"] for column in found["columns"] if column["drifted"]] == ["pay"]


def test_a_store_is_a_database_while_its_daemon_runs(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = [prediction(f"p{i}", features={"amount": float(i % 7), "city": "Oslo"}) for i in range(120)]
    for record in records:
        world.send("predictions", record)
    world.audit.refresh()
    reference = written(
        tmp_path, "r.parquet", pd.DataFrame({"amount": [float(i % 7) for i in range(120)], "city": ["Oslo"] * 120})
    )
    model = records[0]["model"]
    query = f"sql:SELECT COLUMNS('^f_(.*)$') AS '\\1' FROM \"predictions_{model}\" ORDER BY event_time, record_id"
    arguments = ("--reference", reference, "--current", query, "--database", world.store.root, "--block-rows", "1")
    found = compared(capsys, *arguments)
    assert {column["name"]: column["value"] for column in found["columns"]} == {"amount": 0.0, "city": 0.0}


def test_rows_are_sorted_where_that_is_asked_for(tmp_path: Path) -> None:
    shuffled = frame().sample(frac=1, random_state=0)
    path = written(tmp_path, "r.parquet", shuffled)
    with Tables(order_by="when") as tables:
        assert tables.open(str(path)).numbers("pay").tolist() == frame()["pay"].tolist()
    with Tables() as tables:
        assert tables.open(str(path)).numbers("pay").tolist() == shuffled["pay"].tolist()


def test_the_scratch_folder_goes_whatever_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Tables() as tables:
        assert list(tmp_path.iterdir())
        with pytest.raises(Unusable):
            tables.open("nowhere.csv")
    with pytest.raises(Unusable):
        Tables(tmp_path / "no.duckdb")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("called", "family"),
    (
        ("UBIGINT", "number"), ("HUGEINT", "number"), ("DECIMAL(10,2)", "number"), ("UUID", "text"), ("ENUM('a')", "text"),
        ("BOOLEAN", "boolean"), ("TIMESTAMP WITH TIME ZONE", "time"), ("INTERVAL", "time"), ("BLOB", "nested"),
        ("DOUBLE[3]", "nested"), ("STRUCT(a INTEGER)", "nested"), ("MAP(VARCHAR, INTEGER)", "nested"), ("JSON", "nested"),
    ),
)  # fmt: skip
def test_the_engines_types_come_down_to_families(called: str, family: str) -> None:
    with duckdb.connect() as connection:
        found = connection.execute(f"DESCRIBE SELECT NULL::{called} AS x").fetchall()[0][1]
    assert family_of(str(found)) == family


# --- what it says of bad input -----------------------------------------------------------------------------------------


def test_what_cannot_be_used_is_said_with_its_name_and_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = written(tmp_path, "good.parquet", frame())
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "ragged.csv").write_text("a,b\n1,2\n3\n4,5,6\n")
    (tmp_path / "broken.parquet").write_bytes(good.read_bytes()[:-100])
    (tmp_path / "broken.jsonl").write_text('{"a": 1}\n{"a": \n')
    (tmp_path / "data.xlsx").write_text("?")
    (tmp_path / "folder").mkdir()
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(b"a,b\n" + bytes(RNG.integers(48, 57, 90_000).astype(np.uint8)))[:-2000])
    cases = {
        "nowhere.csv": "nowhere.csv: no such file; a query begins with sql:",
        "*.nothing": "no file has such a name",
        "folder": "a folder without files that end in .parquet",
        "empty.csv": "the file is empty; it needs a first line",
        "ragged.csv": "cannot be read as CSV: lines have more or fewer cells",
        "broken.parquet": "broken.parquet: ",
        "broken.jsonl": "broken.jsonl: ",
        "cut.csv.gz": "cut.csv.gz: ",
        "data.xlsx": "what kind of file it is cannot be told",
    }
    for name, message in cases.items():
        assert run("compare", "--reference", good, "--current", tmp_path / name) == 2, name
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("modelwatch: "), name
        assert len(captured.err.splitlines()) == 1
        assert message in captured.err
    for query, message in (
        ("sql:", "a query, or the name of a table or view, is missing"),
        ("sql:nowhere", "nowhere does not exist"),
        ("sql:SELEC 1", "syntax error"),
        (f"sql:COPY (SELECT 1) TO '{tmp_path}/out.csv'", "nothing that writes"),
        (f"sql:WITH x AS (COPY (SELECT 1) TO '{tmp_path}/out.csv') SELECT 1", "sql:WITH"),
        ("sql:SELECT 1; DROP TABLE t1", "one SELECT is taken here"),
    ):
        assert run("compare", "--reference", good, "--current", query) == 2, query
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists()
    assert run("compare", "--reference", good, "--current", good, "--database", tmp_path / "no.duckdb") == 2
    assert "no.duckdb: not there; see --database" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    (
        (("--columns", "a,b"), "columns: a, b on neither side; there are pay, zip, member, when"),
        (("--exclude", "a"), "--exclude: a on neither side"),
        (("--method", "kss"), "method: Input should be 'ks'"),
        (("--alpha", "2"), "alpha: Input should be less than 1 (2.0)"),
        (("--threshold", "0.1"), "feature_threshold (0.1) would be a p-value for some columns"),
        (("--order-by", "day"), '"day" not found'),
        (("--html", "/nowhere/page.html"), "--html /nowhere/page.html: not written (No such file or directory)"),
        (("--methods", "pay"), "'pay' is not COLUMN=METHOD"),
        (("--policy", "strict"), "invalid choice: 'strict'"),
    ),
)
def test_a_wrong_option_is_said_and_ends_with_2(
    arguments: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, "r.parquet", frame())
    assert run("compare", "--reference", path, "--current", path, *arguments) == 2
    assert message in capsys.readouterr().err


def test_nothing_to_compare_is_told_and_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, few = written(tmp_path, "good.csv", frame()), written(tmp_path, "few.csv", frame(rows=3))
    for option in ((), ("--fail-on-drift",)):
        assert run("compare", "--reference", good, "--current", few, *option) == 2
        captured = capsys.readouterr()
        assert "nothing could be compared: member: 3 values in the current window, min_rows is 100" in captured.err
        assert "not_enough_data" in captured.out
    (tmp_path / "head.csv").write_text("pay,zip,member,when\n")
    found = compared(capsys, "--reference", good, "--current", tmp_path / "head.csv", code=2)
    assert (found["outcome"], found["drift"], found["share_of_drifted_columns"]) == ("not_enough_data", False, None)
    other = written(tmp_path, "other.csv", pd.DataFrame({"z": [1.5] * 200}))
    assert "no column in common" in compared(capsys, "--reference", good, "--current", other, code=2)["reason"]


# --- what it prints, and how it ends -----------------------------------------------------------------------------------


def test_a_gate_ends_with_1_on_drift_and_only_when_it_was_asked_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, now = written(tmp_path, "r.csv", frame()), written(tmp_path, "c.csv", frame(0.6))
    same = ("compare", "--reference", before, "--current", before)
    moved = ("compare", "--reference", before, "--current", now)
    assert run(*same, "--fail-on-drift") == 0
    assert run(*moved) == 0
    assert run(*moved, "--fail-on-drift") == 1
    assert run(*moved, "--fail-on-drift", "--drift-share", "0.5") == 0
    assert run(*moved, "--fail-on-drift", "--policy", "evidently") == 1
    assert run(*moved, "--fail-on-drift", "--policy", "evidently", "--drift-share", "0.7") == 0
    capsys.readouterr()


def test_a_gate_can_ask_for_every_column(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = written(tmp_path, "r.csv", frame())
    now = written(tmp_path, "c.csv", frame().drop(columns="zip"))
    arguments = ("compare", "--reference", before, "--current", now, "--fail-on-drift")
    assert run(*arguments) == 0
    capsys.readouterr()
    assert run(*arguments, "--fail-on-unevaluated") == 1
    assert "could not be evaluated: zip: not in the current data" in capsys.readouterr().err


def test_the_table_says_of_each_column_what_was_found_or_why_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = written(tmp_path, "r.csv", frame())
    now = written(tmp_path, "c.csv", frame(0.6).drop(columns="zip"))
    assert run("compare", "--reference", before, "--current", now) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert " ".join(lines[0].split()) == "column kind method value p-value threshold drifted reference current outcome"
    assert lines[1].split()[0] == "pay"
    assert lines[1].split()[-4:] == ["yes", "300", "300", "ok"]
    assert "zip: not_evaluable: not in the current data" in lines
    assert "when: not compared: a time, which is always new: compare a number made of it, such as the hour" in lines
    assert lines[-1] == "Drift: 1 of 2 columns drifted; 1 could not be evaluated."
    assert captured.err == ""


def test_the_page_is_written_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, now = written(tmp_path, "r.csv", frame()), written(tmp_path, "c.csv", frame(0.6))
    page = tmp_path / "page.html"
    assert run("compare", "--reference", before, "--current", now, "--html", page, "--title", "June <b>") == 0
    text = page.read_text(encoding="utf-8")
    assert "<h1>June &lt;b&gt;</h1>" in text
    assert text.rstrip().endswith("</html>")
    assert not list(tmp_path.glob(".*tmp"))
    capsys.readouterr()


def test_a_column_that_would_move_the_cursor_is_written_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, "r.parquet", pd.DataFrame({"a\x1b[31m": RNG.normal(size=200)}))
    assert run("compare", "--reference", path, "--current", path) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_the_evidently_policy_is_evidentlys_on_the_files_of_the_census(capsys: pytest.CaptureFixture[str]) -> None:
    query = "sql:SELECT * EXCLUDE (year, id) FROM '{}' WHERE year = {}"
    sides = [query.format(PEOPLE, year) for year in (2015, 2018)]
    arguments = ("--reference", sides[0], "--current", sides[1], "--policy", "evidently")
    found = compared(capsys, *arguments)
    table = pd.read_parquet(PEOPLE)
    frames = [table[table["year"] == year].drop(columns=["year", "id"], errors="ignore") for year in (2015, 2018)]
    expected = detectors.compare(*frames, policy="evidently")  # which is held to Evidently's own report
    values = {column.name: column.value for column in expected.columns}
    assert {column["name"]: column["value"] for column in found["columns"]} == pytest.approx(values, abs=1e-12)


def test_it_starts_no_engine_for_its_help() -> None:
    code = """
import sys
from monitor.cli import main
try:
    main(["compare", "--help"])
except SystemExit:
    print(sorted({"torch", "duckdb", "pandas", "pyarrow"} & set(sys.modules)))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert found.stdout.splitlines()[-1] == "[]"
