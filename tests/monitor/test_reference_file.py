from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from monitor import windows
from tests.monitor.support import NOON, World


def test_a_reference_file_may_hold_ids_and_times_beside_the_features(world: World, tmp_path: Path) -> None:
    path = tmp_path / "reference.parquet"
    pq.write_table(pa.table({"id": ["a", "b"], "made": [NOON, NOON], "age": [31, 45], "prediction": [0.5, 0.7]}), path)
    with world.store.read() as reader:
        window = windows.from_file(reader, path, {"age": "number"})
    sent = window.frame()  # to a worker; it takes numbers and text
    assert [sent.has(name) for name in ("age", "prediction", "id", "made")] == [True, True, False, False]
    assert sent.numbers("age").tolist() == [31.0, 45.0]
