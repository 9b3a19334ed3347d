"""Windows of real predictions; where they come from is said beside the files in tests/data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from detectors.contract import ColumnKind, Frame

DATA = Path(__file__).parents[1] / "data"

EMPLOYMENT: dict[str, ColumnKind] = {
    "AGEP": "number",
    **dict.fromkeys(("SCHL", "MAR", "RELP", "DIS", "ESP", "CIT", "MIG", "MIL", "ANC"), "category"),
    **dict.fromkeys(("NATIVITY", "DEAR", "DEYE", "DREM", "SEX", "RAC1P"), "category"),
}


def employment_table(year: int) -> pd.DataFrame:
    table = pd.read_parquet(DATA / "employment_sample.parquet")
    return table[table["year"] == year].reset_index(drop=True)


def employment(year: int, *, from_age: float = 0) -> Frame:
    """1,500 people of 2015 or of 2018, or the older ones of them, with prediction, probability and label."""
    table = employment_table(year)
    table = table[table["AGEP"] >= from_age]
    columns = {name: table[name].to_numpy(dtype=float if kind == "number" else object) for name, kind in EMPLOYMENT.items()}
    outputs = {
        "prediction": table["prediction"].to_numpy(dtype=float),
        "probability": table["predicted_probability"].to_numpy(dtype=float),
        "label": table["employed"].to_numpy(dtype=float),
    }
    return Frame(columns | outputs, features=EMPLOYMENT)


def bike_sharing(period: str) -> Frame:
    """Hours of the reference or of production: prediction and label only."""
    table = pd.read_parquet(DATA / "bike_sharing_sample.parquet")
    table = table[table["period"] == period]
    return Frame(
        {"prediction": table["prediction"].to_numpy(dtype=float), "label": table["target"].to_numpy(dtype=np.float64)},
        features={},
    )
