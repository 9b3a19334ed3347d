"""What the demo replays: whose it is, and when it says things happened."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

from monitor.demo import build, data

END = datetime(2026, 3, 1, 12, 34, 56, tzinfo=UTC)
DELAY = timedelta(hours=48) / data.FASTER


def test_the_bike_stream_ends_now_and_its_labels_come_two_of_its_days_late() -> None:
    predicted: dict[str, datetime] = {}
    labelled: dict[str, datetime] = {}
    latest = datetime.min.replace(tzinfo=UTC)
    for batch in data.bike(END):
        times = [datetime.fromisoformat(record["timestamp"]) for record in batch.records]
        assert times == sorted(times)
        if batch.kind == "predictions":
            assert times[0] > latest, "event time goes forward"
            latest = times[-1]
            predicted |= {record["record_id"]: time for record, time in zip(batch.records, times, strict=True)}
        else:
            assert all(record["record_id"] in predicted for record in batch.records)
            labelled |= {record["record_id"]: time for record, time in zip(batch.records, times, strict=True)}
    assert max(predicted.values()) == END
    assert len(predicted) == 15_187
    due = {record for record, time in predicted.items() if time + DELAY <= END}
    assert set(labelled) == due, "a label that is not known yet is not sent"
    assert all(abs(labelled[record] - predicted[record] - DELAY) < timedelta(milliseconds=1) for record in due)


def test_only_so_many_weeks_end_now_as_well() -> None:
    times = [datetime.fromisoformat(record["timestamp"]) for batch in data.bike(END, weeks=2) for record in batch.records]
    assert max(times) == END
    assert END - min(times) < timedelta(hours=2)


def test_the_bad_release_follows_the_good_one_and_says_nothing_of_what_humans_found() -> None:
    good, bad = data.answers(END)
    sent = [record for batch in (*good, *bad) for record in batch.records]
    versions = [record["prompt_version"] for record in sent]
    assert versions == [build.GOOD] * versions.count(build.GOOD) + [build.BAD] * versions.count(build.BAD)
    assert sent[-1]["timestamp"] == END.isoformat()
    assert not {"supported", "source"} & {name for record in sent for name in record}


def test_the_data_is_small_and_only_from_sources_that_may_be_shipped() -> None:
    assert sum(path.stat().st_size for path in data.FOLDER.iterdir() if path.is_file()) < 8e6
    rows = [json.loads(line) for line in data.ANSWERS.read_text(encoding="utf-8").splitlines()]
    assert {row["source"] for row in rows} == {*build.SOURCES, "written"}  # by us, one answer: see its README
    assert len({row["record_id"] for row in rows}) == len(rows)
    readme = (data.FOLDER / "README.md").read_text(encoding="utf-8")
    for name in (data.REFERENCE.name, data.PRODUCTION.name, data.ANSWERS.name, *build.SOURCES, "CC-BY 4.0", "Apache-2.0"):
        assert name in readme
