"""NannyML's univariate drift with its own defaults, in an environment of its own: `PYTHON delay_peer.py FOLDER ROWS`.

Of each pair FOLDER/reference-N.parquet and FOLDER/analysis-N.parquet it prints, as JSON, for each chunk of ROWS rows whether any
column alerts. It imports nothing of ours: its environment has none of it.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path

os.environ["NML_DISABLE_USAGE_LOGGING"] = "1"
warnings.simplefilter("ignore")  # its own, for its makers to mend

import nannyml as nml  # noqa: E402
import pandas as pd  # noqa: E402


def alerts(reference: pd.DataFrame, analysis: pd.DataFrame, rows: int) -> list[bool]:
    calculator = nml.UnivariateDriftCalculator(column_names=list(reference.columns), chunk_size=rows)
    calculator.fit(reference)
    found = calculator.calculate(analysis).filter(period="analysis").to_df()
    told = found.loc[:, [column for column in found.columns if column[-1] == "alert"]]
    return [bool(one) for one in told.any(axis=1)]


if __name__ == "__main__":
    folder, rows = Path(sys.argv[1]), int(sys.argv[2])
    numbers = sorted(int(path.stem.split("-")[1]) for path in folder.glob("reference-*.parquet"))
    found = {
        n: alerts(pd.read_parquet(folder / f"reference-{n}.parquet"), pd.read_parquet(folder / f"analysis-{n}.parquet"), rows)
        for n in numbers
    }
    print(json.dumps({"version": nml.__version__, "alerts": found}))
