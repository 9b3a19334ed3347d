"""Makes the data of the demo from the data sets that README.md names: `python -m monitor.demo.build --data DIR`.

DIR holds `tabular_bike_sharing/stream.parquet` and `faithfulness/dev.jsonl.gz`. Equal input gives equal files.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

FEATURES = ("hr", "holiday", "weekday", "workingday", "weathersit", "temp", "atemp", "hum", "windspeed")
END = datetime(2012, 9, 30)
"""The stream stops here, in the second summer, while what drifted is still away from the reference."""

SOURCES = ("factcheck_gpt", "begin_wow", "begin_cmu")
"""Apache-2.0 and CC-BY 4.0. The rest of the set quotes Wikipedia (CC-BY-SA) and stays out."""

GOOD, BAD = "7", "8"
UNSUPPORTED_IN_GOOD = 13  # beside the 200 or so supported ones: no release is without fault
IN_BAD = 160
SEED = 20

WRITTEN = {
    "id": "written-0",
    "dataset": "written",
    "question": "When was the Eiffel Tower completed, and how tall is it?",
    "context": [
        "The Eiffel Tower is a wrought-iron lattice tower in Paris. It was completed in March 1889 for the World's Fair.",
        "The tower is 330 metres tall, about the same height as an 81-storey building.",
    ],
    "response": "The Eiffel Tower was completed in 1889. It is 330 metres tall. Its steel was given by the city of Lyon.",
    "label": 1,
}
"""Written for the demo, as most answers of the set are one sentence: two that the passages support, and one that they do not."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with tabular_bike_sharing/ and faithfulness/")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    stream = pq.read_table(arguments.data / "tabular_bike_sharing" / "stream.parquet")
    for period in ("reference", "production"):
        pq.write_table(bike(stream, period), arguments.out / f"bike_{period}.parquet", compression="zstd")
    with gzip.open(arguments.data / "faithfulness" / "dev.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = answers(json.loads(line) for line in file)
    with (arguments.out / "answers.jsonl").open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def bike(stream: pa.Table, period: str) -> pa.Table:
    """The rows of one period in time order: features, prediction, label, and when each was known."""
    rows = stream.filter(pc.and_(pc.equal(stream["period"], period), pc.less(stream["timestamp"], END))).sort_by("timestamp")
    columns = {"record_id": pc.binary_join_element_wise("bike", rows["instant"].cast(pa.string()), "-")}
    columns |= {name: rows[name] for name in ("timestamp", *FEATURES, "prediction")}
    columns |= {"label": rows["target"], "label_available_at": rows["label_available_at"]}
    return pa.table(columns)


def answers(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Two releases of a bot: one whose answers keep to their contexts but for a few, one whose answers do not."""
    usable = sorted((row for row in rows if row["dataset"] in SOURCES), key=lambda row: str(row["id"]))
    pick = random.Random(SEED)
    supported = [row for row in usable if row["label"] == 0]
    other = [row for row in usable if row["label"] == 1]
    pick.shuffle(other)
    bad, slips = other[:IN_BAD], other[IN_BAD : IN_BAD + UNSUPPORTED_IN_GOOD]
    good = supported + slips
    pick.shuffle(good)
    return [answer(row, GOOD) for row in good] + [answer(row, BAD) for row in (WRITTEN, *bad)]


def answer(row: dict[str, Any], release: str) -> dict[str, Any]:
    return {
        "record_id": row["id"],
        "prompt_version": release,
        "question": row["question"],
        "contexts": row["context"],
        "response": row["response"],
        "supported": row["label"] == 0,
        "source": row["dataset"],
    }


if __name__ == "__main__":
    main()
