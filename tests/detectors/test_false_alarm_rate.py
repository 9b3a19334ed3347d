"""On real streams in which nothing moved a calibrated check rings as often as it was told, and no oftener.

The large run, 2,000 windows and more, is `python -m tests.bench.quality false_alarms --data DIR`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from detectors.false_alarms import expected_hits
from tests.bench.quality import false_alarms
from tests.bench.quality.false_alarms import Stream

DATA = Path(__file__).parents[1] / "data"
WINDOWS = 120
DAYS = Stream("bike_sharing_sample.parquet", ("temp", "hum", "windspeed"), 24, 120)
STREAMS = {
    "hours of weather": replace(DAYS, block_rows=1),
    "people": Stream("employment_sample.parquet", ("AGEP", "SEX", "predicted_probability"), 1, 100),
}


@pytest.mark.parametrize("name", STREAMS)
def test_a_drift_free_stream_fires_as_often_as_alpha_says(name: str) -> None:
    stream = STREAMS[name]
    found = false_alarms.count(stream.read(DATA), stream, WINDOWS)
    assert (found.windows, found.uncalibrated) == (WINDOWS, 0)
    least, most = expected_hits(WINDOWS, 0.05)
    for detector, p_values in found.p_values.items():
        assert least <= sum(p <= 0.05 for p in p_values) <= most, detector
    assert found.any_feature > most, "Evidently's default rule does not keep to it"


def test_hours_of_one_day_do_not_count_as_so_many_windows_of_evidence() -> None:
    columns = DAYS.read(DATA)
    by_blocks, by_rows = (
        false_alarms.count(columns, DAYS, WINDOWS, peers=False, multivariate=False, block_rows=b).p_values["data_drift"]
        for b in (72, 1)
    )
    least, most = expected_hits(WINDOWS, 0.05)
    assert least <= sum(p <= 0.05 for p in by_blocks) <= most
    assert sum(p <= 0.05 for p in by_rows) > 4 * most


def test_an_order_keeps_blocks_whole_and_windows_out_of_the_reference() -> None:
    rows = {"n": np.arange(100.0)}
    mixed = false_alarms.shuffled(rows, 10, 0)["n"]
    assert sorted(mixed.tolist()) == list(range(100))
    assert (np.diff(mixed.reshape(10, 10), axis=1) == 1).all()
    pairs = list(false_alarms.windows(rows, 10, 20, 7))
    assert len(pairs) == 7
    for reference, window in pairs:
        assert (reference.rows, window.rows) == (50, 20)
        assert not set(reference.numbers("n")) & set(window.numbers("n"))


def test_the_samples_have_the_columns_that_are_asked_for() -> None:
    for stream in (DAYS, *STREAMS.values()):
        assert set(stream.columns) <= set(pq.read_schema(DATA / stream.file).names)
