"""Makes multivariate_nannyml.json: NannyML's reconstruction error of the census sample. Run it with NannyML's own Python:

NML_DISABLE_USAGE_LOGGING=1 PEERS/nannyml/bin/python tests/data/multivariate_nannyml.py
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

FOLDER = Path(__file__).parent
NUMBERS = ("AGEP", "predicted_probability")
CATEGORIES = ("SCHL", "MAR", "RELP", "SEX", "MIL", "ANC")


def frames() -> dict[str, pd.DataFrame]:
    """Reference and windows: as they are, of the old only, and with holes and categories that the reference never saw."""
    table = pd.read_parquet(FOLDER / "employment_sample.parquet")
    columns = [*NUMBERS, *CATEGORIES]
    reference, current = (
        table[table["year"] == year].reset_index(drop=True)[columns].astype(dict.fromkeys(CATEGORIES, object))
        for year in (2015, 2018)
    )
    for frame in (reference, current):
        frame.loc[frame.index % 7 == 0, "AGEP"] = np.nan
        frame.loc[frame.index % 13 == 0, "MAR"] = np.nan
    unseen = current.copy()
    unseen.loc[unseen.index % 11 == 0, "MIL"] = "never seen"
    return {"reference": reference, "current": current, "old": current[current["AGEP"] >= 60], "unseen": unseen}


def main() -> None:
    import nannyml

    made: dict[str, Any] = {"command": "python tests/data/multivariate_nannyml.py", "nannyml": version("nannyml")}
    made |= {"scikit-learn": version("scikit-learn"), "expected": []}
    windows = frames()
    reference = windows.pop("reference")
    for components in (0.65, 0.95, 3):
        for name, window in windows.items():
            calculator = nannyml.DataReconstructionDriftCalculator(
                column_names=list(reference.columns), n_components=components, chunk_size=len(reference)
            )
            calculator.fit(reference)
            calculator.chunker = nannyml.chunk.SizeBasedChunker(len(window))
            found = calculator.calculate(window.reset_index(drop=True)).filter(period="analysis").to_df()["reconstruction_error"]
            made["expected"].append(
                {
                    "n_components": components,
                    "window": name,
                    "value": float(found["value"].iloc[0]),
                    "sampling_error": float(found["sampling_error"].iloc[0]),
                    "lower": float(found["lower_confidence_boundary"].iloc[0]),
                    "upper": float(found["upper_confidence_boundary"].iloc[0]),
                }
            )
    Path(sys.argv[1] if len(sys.argv) > 1 else FOLDER / "multivariate_nannyml.json").write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
