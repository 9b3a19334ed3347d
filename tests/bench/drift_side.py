"""One side of the drift benchmark, in a process of its own: `python -m tests.bench.drift_side SIDE METHOD REFERENCE CURRENT`.

Prints one line of JSON: seconds of the comparison and of loading before it, MiB at the peak and before it, and what judges each
column. Our side has the frame as the daemon has it, an Arrow table, and Evidently as its users have it, in pandas.
"""

from __future__ import annotations

import contextlib
import io
import json
import resource
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

FOR_CATEGORIES = {"wasserstein": "jensenshannon", "ks": "chisquare", "psi": "psi"}
MIB = 2**20

Compare = Callable[[], dict[str, float]]


def ours(method: str, reference: Path, current: Path) -> Compare:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from detectors.contract import ColumnKind
    from detectors.data_drift import DataDrift
    from monitor.windows import TableWindow

    tables = [pq.read_table(path) for path in (reference, current)]
    pa.default_memory_pool().release_unused()  # of what reading took
    kinds: dict[str, ColumnKind] = {
        field.name: "category" if pa.types.is_string(field.type) else "number" for field in tables[0].schema
    }
    windows = [TableWindow(table, kinds) for table in tables]
    categories = [name for name, kind in kinds.items() if kind == "category"]
    settings = DataDrift.Config.model_validate(
        {"policy": "evidently", "method": method, "methods": dict.fromkeys(categories, FOR_CATEGORIES[method])}
    )

    def compare() -> dict[str, float]:
        reading = DataDrift(settings).compare(*windows)
        # Evidently reports the p-value where that is what judges.
        values = {part.name: part.p_value if part.judges == "p_value" else part.value for part in reading.parts}
        return {name: value for name, value in values.items() if value is not None}

    return compare


def evidently(method: str, reference: Path, current: Path) -> Compare:
    import pandas as pd

    warnings.simplefilter("ignore")  # deprecations, for Evidently to mend
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    frames = [pd.read_parquet(path) for path in (reference, current)]
    numbers = list(frames[0].select_dtypes("number").columns)
    definition = DataDefinition(numerical_columns=numbers, categorical_columns=[c for c in frames[0].columns if c not in numbers])

    def compare() -> dict[str, float]:
        sides = [Dataset.from_pandas(frame, data_definition=definition) for frame in frames]
        preset = DataDriftPreset(num_method=method, cat_method=FOR_CATEGORIES[method])
        snapshot = Report([preset]).run(sides[1], sides[0])
        found: dict[str, float] = {}
        for metric in snapshot.dict()["metrics"]:
            column = metric["config"].get("column")
            if column is not None:
                found[column] = float(metric["value"])
        return found

    return compare


def command(method: str, reference: Path, current: Path) -> Compare:
    """`modelwatch compare`, which reads its files itself."""
    import pyarrow.parquet as pq

    from monitor.cli import main as cli

    names = [field.name for field in pq.read_schema(reference) if field.type == "string"]
    methods = ",".join(f"{name}={FOR_CATEGORIES[method]}" for name in names)
    arguments = ["compare", "--reference", str(reference), "--current", str(current), "--policy", "evidently"]

    def compare() -> dict[str, float]:
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said):
                cli([*arguments, "--method", method, "--methods", methods, "--json"])
        except SystemExit as done:
            if done.code:
                raise RuntimeError(f"modelwatch compare ended with {done.code}") from done
        columns = json.loads(said.getvalue())["columns"]
        return {one["name"]: one["p_value" if one["judges"] == "p_value" else "value"] for one in columns}

    return compare


def main(side: str, method: str, reference: Path, current: Path) -> dict[str, Any]:
    prepare = {"ours": ours, "command": command, "evidently": evidently}[side]
    began = time.perf_counter()
    compare = prepare(method, reference, current)
    loading = time.perf_counter() - began
    forget_peak()
    before = memory()
    used = processor()
    started = time.perf_counter()
    values = compare()
    seconds = time.perf_counter() - started
    used = processor() - used
    return {
        "seconds": seconds, "processor": used, "loading": loading, "peak": peak(), "before": before, "values": values,
    }  # fmt: skip


def processor() -> float:
    """Seconds of all threads so far: what other programs take from the machine makes no difference to it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def memory() -> float:
    """MiB resident."""
    return float(psutil.Process().memory_info().rss) / MIB


def forget_peak() -> None:
    """What loading took is not what comparing takes."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak() -> float:
    # Not ru_maxrss: that one starts from what the parent held when it started us.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))))
