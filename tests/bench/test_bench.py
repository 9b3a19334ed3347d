"""The benchmarks run and report; what they measure here means nothing, and nothing is asserted of it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.bench import gpu
from tests.bench.__main__ import main, measure
from tests.bench.harness import NAMES, Options, Row, measured
from tests.bench.otlp import HELD
from tests.bench.results import replaced, section, table

EXPECTED = {
    "push": {"predictions, 30 features, JSON, 500 a request: acknowledged", "- answer time, p99"},
    "otlp": {"OTLP/HTTP protobuf, 512 spans of 2 KB a request: acknowledged", HELD},
    "settle": {"single spans of 2 KB: settled", "agents of 10 spans: settled", "- way in, processor time a span"},
    "busy": {"scorer idle: answer time, p50", "p99 with the scorer saturated, to idle"},
    "hot_tier": {"Store.submit, one batch at a time", "bare insert, our file options", "bare insert, DuckDB's defaults"},
    "tiers": {"merging segments", "keys of a commit, one file a minute", "labels find their predictions, by index"},
    "masking": {"generation, 2 KB of clean text", "span, 30 attributes with 2 KB of clean text", "prediction, 30 features"},
    "encoders": {"MiniLM, float32: sentences", "MiniLM, int8 by torch: largest cosine error", "static: sentences"},
    "scoring": {"traces, in process", "traces, through the scorer process", "plain encode of the same texts"},
    "drift": {"- Evidently's time to ours", "- largest difference of a value"},
    "exact": {"a check, both windows in the store", "modelwatch compare", "- Evidently's peak memory to ours"},
    "parity": {"ks: largest difference", "normal, 100 rows, unmoved: calibrated, auto"},
    "estimate": {
        "employment sample: accuracy, distance from the truth",
        "employment sample: chunks whose roc_auc misses the estimate",
    },
    "start": {"start to ready", "resident: owner", "resident: scorer", "resident: worker"},
    "scrape": {"one scrape of 20 checks, OpenMetrics"},
    "metrics": {"a scrape while spans come, p50", "p99 with scrapes, to without"},
    "checks": {"10 checks due at once, 200 rows each: all read", "- the same, to that with nothing due"},
    "alerts": {"score committed to alert firing, record_rule: p50", "slot due to alert firing, window check: p50"},
}


def test_every_benchmark_is_expected_to_say_something() -> None:
    assert tuple(EXPECTED) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_gives_its_rows(name: str, tmp_path: Path) -> None:
    title, rows = measure(name, Options("smoke", tmp_path))
    assert EXPECTED[name] <= {row.name for row in rows}
    assert all(math.isfinite(row.figure) for row in rows)
    assert title.endswith(".")


def test_an_unknown_name_is_refused_with_those_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["pull"])
    assert "no benchmark pull; there are push, otlp" in capsys.readouterr().err


def test_median_and_worst_of_repeats() -> None:
    assert measured("a", [3.0, 1.0, 2.0], "ms") == Row("a", 2.0, "ms", "", 3.0)
    assert measured("a", [3.0, 1.0, 2.0], "rows/s", better="higher") == Row("a", 2.0, "rows/s", "", 1.0)
    assert measured("a", [3.0], "ms").worst is None


def test_a_table_can_be_read_as_it_is() -> None:
    rows = [Row("a thing", 12345.6, "rows/s", "of | both", 9999.0), Row("b", 0.0123, "s")]
    assert table(rows) == (
        "| what    | median | worst | unit   | note |\n"
        "| ------- | -----: | ----: | ------ | --- |\n"
        "| a thing | 12,346 | 9,999 | rows/s | of / both |\n"
        "| b       | 0.0123 |       | s      |  |\n"
    )


def test_writing_a_section_leaves_the_others_alone() -> None:
    def written(text: str, name: str, value: float) -> str:
        rows = [Row("a", value, "s")]
        return replaced(text, name, section(name, "About.", rows, command="run", machine="one", circumstances="quiet"))

    by_hand = "# Results\n\nSome words.\n\n## Quality\n\nBy hand: `## push` is no heading here.\n"
    first = written(by_hand, "push", 1)
    assert first.startswith(by_hand)
    both = written(first, "push_more", 2)
    again = written(both, "push", 3)
    assert again == both.replace("|      1 |", "|      3 |")
    assert written(again, "push", 3) == again


def test_the_gpu_check_says_not_run_where_there_is_no_device(capsys: pytest.CaptureFixture[str]) -> None:
    if gpu.device_name() is not None:
        pytest.skip("there is a device: make gpu-check runs on it")
    assert gpu.main([]) == 0
    assert "NOT RUN" in capsys.readouterr().out


def test_the_gpu_report_names_what_does_not_hold() -> None:
    text = gpu.report("a device", [gpu.Check("near", 0.9, 0.999, False)], [])
    assert "| near | 0.9 | 0.999 | NO |" in text
    assert "No speed is measured" in text
