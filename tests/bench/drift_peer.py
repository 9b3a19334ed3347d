"""NannyML's univariate drift, in an environment of its own: `PYTHON tests/bench/drift_peer.py REFERENCE CURRENT`.

Prints a line of JSON as `drift_side` does, of one chunk. It imports nothing of ours: its environment has none of it.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import warnings
from pathlib import Path

os.environ["NML_DISABLE_USAGE_LOGGING"] = "1"
warnings.simplefilter("ignore")  # its own, for its makers to mend

import nannyml as nml  # noqa: E402
import pandas as pd  # noqa: E402


def main(reference: str, current: str) -> dict[str, object]:
    frames = [pd.read_parquet(path) for path in (reference, current)]
    numbers = list(frames[0].select_dtypes("number").columns)
    began, used = time.perf_counter(), processor()
    calculator = nml.UnivariateDriftCalculator(
        column_names=list(frames[0].columns),
        treat_as_categorical=[name for name in frames[0].columns if name not in numbers],
        continuous_methods=["wasserstein"],
        categorical_methods=["jensen_shannon"],
        chunk_number=1,
    )
    found = calculator.fit(frames[0]).calculate(frames[1]).to_df()
    seconds, used = time.perf_counter() - began, processor() - used
    values = {
        name: float(found[(name, "wasserstein" if name in numbers else "jensen_shannon", "value")].iloc[-1])
        for name in frames[0].columns
    }
    return {"seconds": seconds, "processor": used, "loading": 0.0, "peak": peak(), "before": 0.0, "values": values}


def processor() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def peak() -> float:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
