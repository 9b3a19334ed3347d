"""Files of somebody else's making: what each row becomes, and what is said of those that are none."""

from __future__ import annotations

import gzip
import io
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from monitor.records import Reject
from monitor.sources.mapping import Columns
from monitor.sources.rowfiles import Format, Unreadable, format_of, read

NONE = Columns()


def rows(data: bytes | str, name: str, kind: str = "predictions", columns: Columns = NONE, skip: int = 0) -> list[Any]:
    form: Format | None = format_of(name)
    assert form is not None
    found = list(read(io.BytesIO(data.encode() if isinstance(data, str) else data), name, form, kind, columns, skip=skip))
    return [(r.reason, r.message) if isinstance(r, Reject) else r for r in found]


def parquet(columns: dict[str, Any], **options: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file, **options)
    return file.getvalue()


def test_a_column_is_the_field_of_its_name_and_the_others_are_features() -> None:
    found = rows("record_id,timestamp,rooms,city,prediction\n7,2026-01-01T00:00:00Z,3,Oslo,1.5\n8,,,,\n", "a.csv")
    assert found == [
        {
            "record_id": "7",
            "timestamp": "2026-01-01T00:00:00Z",
            "prediction": 1.5,
            "features": {"rooms": 3, "city": "Oslo"},
        },
        {"record_id": "8", "features": {"rooms": None, "city": None}},
    ]


def test_columns_says_which_is_which() -> None:
    columns = Columns(columns={"record_id": "id", "timestamp": "ts", "prediction": "y_hat", "features": ("a", "b")})
    found = rows("id,ts,a,b,c,y_hat\n007,1767225600,1,x,9,0.5\n", "a.csv", columns=columns)
    assert found == [{"record_id": "007", "timestamp": 1767225600, "prediction": 0.5, "features": {"a": 1, "b": "x"}}]
    rest = Columns(columns={"record_id": "id", "prediction": "y_hat", "features": "rest"})
    assert rows("id,a,b,y_hat\n1,2,3,4\n", "a.csv", columns=rest)[0]["features"] == {"a": 2, "b": 3}


def test_a_column_with_one_word_is_text_throughout_and_so_is_one_that_is_said_to_be() -> None:
    data = "record_id,zip,code,n\na,0150,A1,1\nb,0151,13,2.5e1\n"
    assert [r["features"] for r in rows(data, "a.csv", columns=Columns(text_columns=("zip",)))] == [
        {"zip": "0150", "code": "A1", "n": 1},
        {"zip": "0151", "code": "13", "n": 25.0},
    ]


def test_a_path_of_dots_reaches_into_json_and_json_without_columns_stays_as_it_is() -> None:
    line = '{"meta": {"id": "a"}, "in": {"x": 1, "y": 2}, "out": 3}\n'
    columns = Columns(columns={"record_id": "meta.id", "features": "rest", "prediction": "out"})
    (record,) = rows(line, "a.jsonl", columns=columns)
    assert (record["record_id"], record["prediction"]) == ("a", 3)
    assert rows(line, "a.jsonl") == [{"meta": {"id": "a"}, "in": {"x": 1, "y": 2}, "out": 3}]
    named = Columns(columns={"record_id": "meta.id", "features": ("in.x",)})
    assert rows(line, "a.jsonl", columns=named) == [{"record_id": "a", "features": {"in.x": 1}}]


def test_other_kinds_keep_what_is_no_field_beside_the_others() -> None:
    columns = Columns(columns={"record_id": "id", "label": "truth"})
    assert rows("id,truth,who\n1,0,me\n", "a.csv", "labels", columns) == [{"record_id": "1", "label": 0, "who": "me"}]


def test_a_table_has_types_and_they_become_what_json_has() -> None:
    data = parquet(
        {
            "record_id": ["a", "b"],
            "timestamp": pa.array([datetime(2026, 1, 1, tzinfo=UTC)] * 2, pa.timestamp("us", "UTC")),
            "price": [Decimal("1.50"), None],
            "x": [float("nan"), 2.0],
            "ok": [True, False],
            "prediction": [1, 2],
        }
    )
    assert rows(data, "a.parquet") == [
        {
            "record_id": "a",
            "timestamp": "2026-01-01T00:00:00+00:00",
            "prediction": 1,
            "features": {"price": 1.5, "x": None, "ok": True},
        },
        {
            "record_id": "b",
            "timestamp": "2026-01-01T00:00:00+00:00",
            "prediction": 2,
            "features": {"price": None, "x": 2.0, "ok": False},
        },
    ]


def test_times_without_a_zone_are_of_the_zone_that_is_said() -> None:
    data = parquet({"record_id": ["a"], "timestamp": [datetime(2026, 7, 1, 12)], "x": [1]})
    assert rows(data, "a.parquet")[0]["timestamp"] == "2026-07-01T12:00:00", "which the inbox refuses"
    assert rows(data, "a.parquet", columns=Columns(timezone="Europe/Oslo"))[0]["timestamp"] == "2026-07-01T12:00:00+02:00"
    assert "timestamp" not in rows('{"record_id": "a"}', "a.jsonl", columns=Columns(timezone="UTC"))[0]


@pytest.mark.parametrize("skip", (0, 1, 999, 1000, 1500, 2499, 2500))
@pytest.mark.parametrize("name", ("a.parquet", "a.csv", "a.jsonl.gz"))
def test_reading_on_from_a_row_gives_what_is_left(name: str, skip: int) -> None:
    numbers = list(range(2500))
    if name == "a.parquet":
        data = parquet({"record_id": numbers, "x": numbers}, row_group_size=700)
    elif name == "a.csv":
        data = ("record_id,x\n" + "".join(f"{i},{i}\n" for i in numbers)).encode()
    else:
        data = gzip.compress("".join(f'{{"record_id": {i}, "features": {{"x": {i}}}}}\n' for i in numbers).encode())
    assert [row["features"]["x"] for row in rows(data, name, skip=skip)] == numbers[skip:]


def test_a_row_that_is_none_is_set_aside_and_the_rest_is_read() -> None:
    bad = b'record_id,x\na,1\nb\nc,1,2\nd,\xff\n\n"e",3\n'
    assert [r if isinstance(r, tuple) else r["record_id"] for r in rows(bad, "a.csv")] == [
        "a",
        ("undecodable", "line 3: 1 cells under 2 names"),
        ("undecodable", "line 4: 3 cells under 2 names"),
        ("invalid_utf8", "line 5: bytes that are not UTF-8; write the file as UTF-8"),
        "e",
    ]
    found = rows(b'{"record_id": "a"}\n{"half\n"text"\n{"record_id": "b", "x": NaN}\n', "a.jsonl")
    assert [r[0] if isinstance(r, tuple) else r for r in found] == [{"record_id": "a"}, "bad_json", "text", "not_finite"]


DAMAGED: dict[str, tuple[str, bytes, str]] = {
    "parquet that is none": ("a.parquet", b"PAR1 or not", "no Parquet"),
    "parquet cut short": ("a.parquet", parquet({"x": list(range(1000))})[:-100], "no Parquet"),
    "lines that are no text": ("a.jsonl", b"\x7fELF\0\0\0\n", "zero bytes"),
    "csv that is no text": ("a.csv", b"a,b\0c\n1,2\n", "line"),
    "csv without a header": ("a.csv", b"1,1\n2,3\n", "no header"),
    "an open quote": ("a.csv", b'a,b\n1,"2\n', "line"),
    "gzip cut short": ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 1000)[:-20], "compressed file is damaged"),
    "gzip that is none": ("a.csv.gz", b"a,b\n1,2\n", "compressed file is damaged"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_file_that_cannot_be_read_says_so(name: str) -> None:
    file, data, message = DAMAGED[name]
    with pytest.raises(Unreadable, match=message):
        rows(data, file)


def test_an_empty_file_has_no_rows() -> None:
    for name in ("a.jsonl", "a.csv"):
        assert rows(b"", name) == []
    assert rows(b"a,b\n", "a.csv") == []


def test_columns_that_make_no_sense_are_refused() -> None:
    for wrong in ({"columns": {"features": "all"}}, {"columns": {"prediction": ["a"]}}, {"timezone": "Oslo"}):
        with pytest.raises(ValidationError):
            Columns.model_validate(wrong)
    assert Columns(columns={"predicton": "y"}).problem("predictions") == (
        "columns: predicton: no field of predictions; there are features, model, model_version, prediction, probability, "
        "record_id, timestamp, trace_id"
    )
    assert Columns(columns={"anything": "y"}).problem("generations") is None
