"""`modelwatch evaluate`: figures of a detector on somebody's labelled rows, and clear words where there can be none."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import Field
from sklearn.metrics import roc_auc_score

from detectors.contract import DetectorConfig, Row, Score, Worse
from monitor.evaluate import NotEvaluated, mapping, read_rows
from tests.detectors import tinydetoxify
from tests.monitor.test_cli import run
from tests.monitor.test_models import add

BOTH = frozenset({"question", "response"})


class Length:
    """Characters of the answer, or of the question, over a hundred; nothing of a text `?`, and an error for `!`."""

    name: ClassVar[str] = "length"
    version: ClassVar[str] = "1"
    inputs: ClassVar[frozenset[str]] = BOTH
    worse: ClassVar[Worse] = "higher"
    flag: ClassVar[float] = 0.05

    class Config(DetectorConfig):
        of: str = "response"
        scale: float = Field(default=100, gt=0)

    def __init__(self, config: Length.Config) -> None:
        self.config = config

    def score(self, rows: Sequence[Row]) -> list[Score]:
        return [self._score(row[self.config.of]) for row in rows]

    def _score(self, text: str | None) -> Score:
        if text is None or text == "?":
            return Score.not_evaluable("empty_answer")
        if text == "!":
            raise RuntimeError("an exclamation")
        return Score.ok(len(text) / self.config.scale, stage="short" if len(text) < 6 else "long")


DETECTOR = f"{__name__}:Length"
ROWS: list[dict[str, Any]] = [
    {"text": "a" * size, "label": int(size * 7 % 10 < size), "source": "odd" if size % 2 else "even"} for size in range(1, 21)
]


def jsonl(path: Path, rows: Sequence[Any] = ROWS) -> Path:
    lines = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)
    return path


def found(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    assert run("evaluate", "--detector", DETECTOR, "--resamples", 50, "--json", *arguments) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert run("evaluate", *arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def test_it_says_how_well_values_tell_the_labels_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = found(capsys, "--dataset", jsonl(tmp_path / "rows.jsonl"), "--group", "source")
    label = [row["label"] for row in ROWS]
    sizes = [len(row["text"]) for row in ROWS]
    assert result["all"]["auroc"]["value"] == pytest.approx(roc_auc_score(label, sizes))
    assert result["all"]["auroc"]["low"] <= result["all"]["auroc"]["value"] <= result["all"]["auroc"]["high"]
    assert result["all"]["tpr"]["value"] == sum(lab for lab, size in zip(label, sizes, strict=True) if size >= 5) / sum(label)
    assert (result["rows"], result["all"]["rows"], result["all"]["label_1"]) == (20, 20, sum(label))
    assert set(result["groups"]) == {"odd", "even"}
    assert result["macro"]["auroc"]["value"] == pytest.approx(
        sum(result["groups"][name]["auroc"]["value"] for name in ("odd", "even")) / 2
    )
    assert result["stages"] == {"long": 0.75, "short": 0.25}
    assert result["not_scored"] == []
    assert result["rows_per_second"] > 0


def test_the_settings_and_the_flag_are_the_ones_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = jsonl(tmp_path / "rows.jsonl")
    result = found(capsys, "--dataset", path, "--settings", '{"scale": 10}', "--flag", 0.5)
    assert result["flag"] == 0.5
    assert result["all"]["tpr"] == found(capsys, "--dataset", path)["all"]["tpr"]


def test_every_format_gives_the_same_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wide: Mapping[str, list[Any]] = {name: [row[name] for row in ROWS] for name in ROWS[0]}
    pq.write_table(pa.table(wide), tmp_path / "rows.parquet")
    csv = "text,label,source\n" + "".join(f"{row['text']},{row['label']},{row['source']}\n" for row in ROWS)
    (tmp_path / "rows.csv").write_text(csv)
    (tmp_path / "rows.csv.gz").write_bytes(gzip.compress(csv.encode()))
    jsonl(tmp_path / "rows.jsonl")
    jsonl(tmp_path / "rows.jsonl.gz")
    all_ = [found(capsys, "--dataset", path)["all"] for path in sorted(tmp_path.iterdir())]
    assert len(all_) == 5
    assert all(one == all_[0] for one in all_)


def test_texts_that_look_like_numbers_stay_texts(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("comment,toxic\n0012,1\n7,0\n")
    rows = read_rows(path, mapping("text=comment,label=toxic"), None, BOTH, None)
    assert [row["response"] for row in rows.rows] == ["0012", "7"]
    assert rows.label == [True, False]


def test_columns_of_other_names_are_mapped_and_nested_ones_found(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "r.jsonl", [{"in": {"q": "why?"}, "out": "so", "docs": ["a", {"text": "b"}], "bad": "true"}])
    columns = mapping("question=in.q,response=out,context=docs,label=bad")
    rows = read_rows(path, columns, None, frozenset({"response", "contexts", "question"}), None)
    assert rows.rows == [{"record_id": "0", "question": "why?", "response": "so", "contexts": ["a", "b"]}]
    assert rows.label == [True]


@pytest.mark.parametrize(
    ("inputs", "question", "response"),
    (
        pytest.param({"response"}, "t", "t", id="answers"),
        pytest.param({"question", "contexts"}, "t", None, id="prompts"),
        pytest.param({"question", "response"}, "t", "t", id="either"),
        pytest.param({"question", "response", "contexts"}, None, "t", id="answers to passages"),
    ),
)
def test_text_is_the_field_that_is_judged(tmp_path: Path, inputs: set[str], question: str | None, response: str | None) -> None:
    path = jsonl(tmp_path / "r.jsonl", [{"text": "t", "label": 0}])
    [row] = read_rows(path, {}, None, frozenset(inputs), None).rows
    assert (row["question"], row["response"]) == (question, response)


def test_a_list_of_passages_in_a_cell_is_a_list(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text('response,context,label\na,"[""one"", ""two""]",0\nb,[sic] it was so,1\n')
    rows = read_rows(path, {}, None, BOTH, None).rows
    assert [row["contexts"] for row in rows] == [["one", "two"], ["[sic] it was so"]]


def test_samples_log_probabilities_and_turns_reach_detectors_that_read_them(tmp_path: Path) -> None:
    exchange = {"samples": ["a"], "logprobs": [-0.5], "messages": [{"role": "user", "content": "b"}]}
    rows = [{"response": "c", "label": 1, **exchange}, {"response": "c", "label": 0}]
    asked = BOTH | {"samples", "logprobs", "messages"}
    first, second = read_rows(jsonl(tmp_path / "a.jsonl", rows), {}, None, asked, None).rows
    assert {name: first[name] for name in exchange} == exchange
    assert not set(exchange) & set(second)
    [plain, _] = read_rows(tmp_path / "a.jsonl", {}, None, BOTH, None).rows
    assert not set(exchange) & set(plain)


def test_rows_that_are_not_scored_are_counted_by_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = [{"text": "?", "label": 1, "source": "odd"}, {"text": "!", "label": 0, "source": "odd"}]
    result = found(capsys, "--dataset", jsonl(tmp_path / "rows.jsonl", ROWS + more), "--group", "source")
    assert result["not_scored"] == [
        {"outcome": "not_evaluable", "reason": "empty_answer", "rows": 1},
        {"outcome": "failed", "reason": "RuntimeError", "rows": 1},
    ]
    assert (result["rows"], result["all"]["rows"], result["not_scored_label_1"]) == (22, 20, 1)


def test_people_get_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = jsonl(tmp_path / "rows.jsonl", [*ROWS, {"text": "?", "label": 1, "source": "odd"}])
    assert run("evaluate", "--detector", DETECTOR, "--dataset", path, "--group", "source", "--resamples", 20) == 0
    out = capsys.readouterr().out
    assert out.startswith("length 1, flagged at 0.05; 95 % intervals\n")
    assert [line.split("  ")[0] for line in out.splitlines()[3:7]] == ["all", "macro", "even", "odd"]
    assert "stages: long 75.0 %, short 25.0 %" in out
    assert out.endswith("not scored: 1 not_evaluable (empty_answer); 1 of them labelled 1\n")


@pytest.mark.parametrize(
    ("arguments", "word"),
    (
        pytest.param(("--detector", "toxicty"), "no detector 'toxicty'; there are ", id="unknown"),
        pytest.param(("--detector", "data_drift"), "data_drift judges windows, not rows", id="window"),
        pytest.param(("--settings", "{scale: 1}"), "--settings: no JSON", id="no json"),
        pytest.param(("--settings", '{"scale": 0}'), "--settings: scale: Input should be greater than 0", id="out of bounds"),
        pytest.param(("--settings", '{"scle": 1}'), "--settings: scle: Extra inputs are not permitted", id="misspelled"),
        pytest.param(("--map", "txt=a"), "--map: 'txt=a' is not FIELD=COLUMN; the fields are text, question", id="no field"),
        pytest.param(("--map", "text"), "--map: 'text' is not FIELD=COLUMN", id="no column"),
        pytest.param(("--map", "label=toxic"), "rows.jsonl: row 1: no 'toxic'; every row needs a label", id="no label"),
        pytest.param(
            ("--map", "text=comment"), "row 1: nothing to judge; the detector reads question, response, text", id="no text"
        ),
        pytest.param(
            ("--group", "origin"), "row 1: no 'origin', which --group names; the row has text, label, source", id="no group"
        ),
        pytest.param(("--limit", "1"), "all 1 rows that have a value are labelled ", id="one label"),
        pytest.param(("--dataset", "rows.txt"), "rows.txt: its name must end in .jsonl", id="format"),
        pytest.param(("--dataset", "none.jsonl"), "none.jsonl: cannot be read (No such file", id="missing"),
    ),
)
def test_what_cannot_be_used_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, str], word: str
) -> None:
    monkeypatch.chdir(tmp_path)
    jsonl(tmp_path / "rows.jsonl")
    given = {"--detector": DETECTOR, "--dataset": "rows.jsonl"} | dict([arguments])
    assert word in refused(capsys, *(word for pair in given.items() for word in pair))


@pytest.mark.parametrize(
    ("rows", "word"),
    (
        pytest.param([], "there is no row in it", id="empty"),
        pytest.param(["[1"], "row 1: ", id="no json"),
        pytest.param(['"text"'], "row 1: ", id="no object"),
        pytest.param([{"text": "a", "label": 2}], "row 1: label is '2'; it must be 1 (the bad case) or 0", id="label"),
        pytest.param([{"text": "a", "label": 0}, {"text": "b"}], "row 2: no 'label'", id="second row"),
        pytest.param(
            [{"text": "!", "label": 0}, {"text": "!", "label": 1}], "2 failed, RuntimeError (an exclamation)", id="all fail"
        ),
    ),
)
def test_rows_that_cannot_be_used_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: list[Any], word: str
) -> None:
    path = jsonl(tmp_path / "rows.jsonl", rows)
    assert word in refused(capsys, "--detector", DETECTOR, "--dataset", path)


def test_a_damaged_file_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("rows.parquet", "rows.jsonl.gz"):
        (tmp_path / name).write_bytes(b"nothing of the kind")
        assert name in refused(capsys, "--detector", DETECTOR, "--dataset", tmp_path / name)


def test_a_group_of_too_many_values_is_refused(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "r.jsonl", [{"text": "a", "label": 0, "id": i} for i in range(101)])
    with pytest.raises(NotEvaluated, match="101 values; 100 is the limit"):
        read_rows(path, {}, "id", BOTH, None)


def test_a_checkpoint_is_found_by_its_name_or_missed_before_anything_is_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add(tmp_path / "data", tinydetoxify.make(tmp_path / "downloaded"))
    config = tmp_path / "modelwatch.yaml"
    config.write_text("store: {path: data}\n")
    words = [(word, int(word in tinydetoxify.RUDE)) for word in (*tinydetoxify.RUDE, *tinydetoxify.KIND)]
    path = jsonl(tmp_path / "rows.jsonl", [{"comment": f"this is {word}", "toxic": label} for word, label in words])
    arguments = ("--detector", "detectors.toxicity:Toxicity", "--dataset", path, "--map", "text=comment,label=toxic")
    settings = ("--settings", '{"backend": "detoxify", "checkpoint": "tiny", "device": "cpu"}')
    assert run("evaluate", *arguments, *settings, "--config", config, "--json", "--resamples", 20) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["all"]["auroc"]["value"] == 1.0
    assert result["stages"] == {"detoxify": 1.0}
    assert "--settings: checkpoint: there is no tiny, and no model of that name" in refused(capsys, *arguments, *settings)
