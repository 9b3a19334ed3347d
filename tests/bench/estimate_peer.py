"""NannyML's estimates, in an environment of its own: `PYTHON tests/bench/estimate_peer.py FOLDER [BIKES]`.

Writes each data set that its wheel bundles, and with BIKES that stream, into FOLDER as two Parquet files in our column names, and
prints a line of JSON with what it estimated of each chunk. It imports nothing of ours: its environment has none of it.

`PYTHON tests/bench/estimate_peer.py --vendor` makes what the test suite compares with, tests/data/nannyml_*, of smaller frames.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

os.environ["NML_DISABLE_USAGE_LOGGING"] = "1"
warnings.simplefilter("ignore")  # its own, for its makers to mend

import nannyml as nml  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import sklearn  # noqa: E402

DATA = Path(__file__).parents[1] / "data"
CLASSES = ["highstreet_card", "prepaid_card", "upmarket_card"]
BINARY = ["roc_auc", "f1", "precision", "recall", "specificity", "accuracy", "average_precision", "business_value"]
NUMBERS = ["mae", "mape", "mse", "rmse"]
TOLD = ("value", "sampling_error", "realized", "lower_threshold", "upper_threshold", "alert")
VALUES = {2: [[1.0, -2.0], [-5.0, 3.0]], 3: [[2.0, -1.0, -3.0], [-1.0, 1.0, -2.0], [-4.0, -2.0, 5.0]]}


def sets(bikes: Path | None) -> dict[str, dict[str, Any]]:
    """By name: task, rows of a chunk, reference and analysis with label and prediction, and the features."""
    found: dict[str, dict[str, Any]] = {}
    reference, analysis, late = nml.load_synthetic_car_loan_dataset()
    found["car_loan"] = binary([reference, analysis.merge(late, on="id")], "repaid", "y_pred_proba", "y_pred", 5000)
    reference, analysis, late = nml.load_us_census_ma_employment_data()
    sides = [reference, analysis.merge(late, on="id")]
    found["employment"] = binary(sides, "employed", "predicted_probability", "prediction", 5000)
    reference, analysis, late = nml.load_synthetic_multiclass_classification_dataset()
    names = {"y_true": "label", "y_pred": "prediction", **{f"y_pred_proba_{name}": f"probability:{name}" for name in CLASSES}}
    sides = [side.rename(columns=names)[list(names.values())] for side in (reference, joined(analysis, late))]
    found["credit_cards"] = {"task": "multiclass", "rows": 6000, "sides": sides, "features": []}
    reference, analysis, late = nml.load_synthetic_car_price_dataset()
    sides = [reference, joined(analysis, late)]
    features = ["car_age", "km_driven", "price_new", "accident_count", "door_count", "fuel", "transmission"]
    found["car_price"] = numbers(sides, "y_true", "y_pred", features, 6000)
    if bikes is not None:
        stream = pd.read_parquet(bikes)
        kept = ["instant", "timestamp", "period", "prediction", "target", "label_available_at"]
        features = [name for name in stream.columns if name not in kept]
        sides = [stream[stream["period"] == period].reset_index(drop=True) for period in ("reference", "production")]
        found["bikes"] = numbers(sides, "target", "prediction", features, 730)
    return found


def joined(analysis: Any, late: Any) -> Any:
    """With the labels, by row where there is no other way."""
    return analysis if "y_true" in analysis else analysis.merge(late[["y_true"]], left_index=True, right_index=True)


def binary(sides: list[Any], label: str, probability: str, prediction: str, rows: int) -> dict[str, Any]:
    names = {label: "label", probability: "probability", prediction: "prediction"}
    made = [side.rename(columns=names)[list(names.values())].astype(float) for side in sides]
    return {"task": "binary", "rows": rows, "sides": made, "features": []}


def numbers(sides: list[Any], label: str, prediction: str, features: list[str], rows: int) -> dict[str, Any]:
    names = {label: "label", prediction: "prediction"}
    made = [side.rename(columns=names)[[*names.values(), *features]].copy() for side in sides]
    for side in made:
        side[["label", "prediction"]] = side[["label", "prediction"]].astype(float)
    return {"task": "regression", "rows": rows, "sides": made, "features": features}


def estimator(task: str, rows: int, features: list[str]) -> Any:
    common = {"y_pred": "prediction", "y_true": "label", "chunk_size": rows}
    if task == "regression":
        return nml.DLE(metrics=NUMBERS, feature_column_names=features, tune_hyperparameters=False, **common)
    if task == "binary":
        return nml.CBPE(
            metrics=BINARY,
            y_pred_proba="probability",
            problem_type="classification_binary",
            business_value_matrix=VALUES[2],
            **common,
        )
    return nml.CBPE(
        metrics=BINARY,
        y_pred_proba={name: f"probability:{name}" for name in CLASSES},
        problem_type="classification_multiclass",
        business_value_matrix=VALUES[3],
        **common,
    )


def vendored() -> dict[str, dict[str, Any]]:
    """People of 2015 and 2018, and the first cards of each side."""
    people = pd.read_parquet(DATA / "employment_sample.parquet")
    sides = [people[people["year"] == year].reset_index(drop=True) for year in (2015, 2018)]
    found = {"employment": binary(sides, "employed", "predicted_probability", "prediction", 500)}
    cards = sets(None)["credit_cards"]
    found["credit_cards"] = {**cards, "rows": 500, "sides": [side.head(1500).reset_index(drop=True) for side in cards["sides"]]}
    frame = pd.concat(
        [side.assign(side=name) for name, side in zip(("reference", "analysis"), found["credit_cards"]["sides"], strict=True)]
    )
    frame.to_parquet(DATA / "nannyml_cards.parquet", index=False, compression="zstd")
    return found


def main(made_of: dict[str, dict[str, Any]], folder: Path | None) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for name, made in made_of.items():
        reference, analysis = made["sides"]
        if folder is not None:
            reference.to_parquet(folder / f"{name}-reference.parquet", index=False)
            analysis.to_parquet(folder / f"{name}-analysis.parquet", index=False)
        np.random.seed(0)
        started = time.perf_counter()
        fitted = estimator(made["task"], made["rows"], made["features"]).fit(reference)
        found = fitted.estimate(analysis).filter(period="analysis").to_df()
        seconds = time.perf_counter() - started
        columns = {metric: found[metric] for metric in found.columns.get_level_values(0).unique() if metric != "chunk"}
        told[name] = {
            "task": made["task"],
            "features": made["features"],
            "values": VALUES.get({"binary": 2, "multiclass": 3}.get(made["task"], 0), []),
            "seconds": seconds,
            "chunks": [
                [int(a), int(b) + 1] for a, b in zip(*(found["chunk"][end] for end in ("start_index", "end_index")), strict=True)
            ],
            "metrics": {metric: {key: [float(v) for v in column[key]] for key in TOLD} for metric, column in columns.items()},
        }
    return {"version": nml.__version__, "sets": told}


if __name__ == "__main__":
    if sys.argv[1] == "--vendor":
        command = "python tests/bench/estimate_peer.py --vendor"
        versions = {module.__name__: module.__version__ for module in (nml, np, pd, sklearn)}
        text = json.dumps({"command": command, "versions": versions, **main(vendored(), None)}, indent=1)
        (DATA / "nannyml_estimates.json").write_text(text + "\n")
    else:
        print(json.dumps(main(sets(Path(sys.argv[2]) if len(sys.argv) > 2 else None), Path(sys.argv[1]))))
