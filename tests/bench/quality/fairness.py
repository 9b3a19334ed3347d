"""How differently a real model treats groups of people: census records of 2016 to 2018, beside Fairlearn on the same rows."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fairlearn.metrics as fairlearn
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import zero_one_loss

from detectors.contract import Frame
from detectors.fairness import RATES, Fairness

ATTRIBUTES = ("SEX", "RAC1P", "DIS", "NATIVITY")
TOLERANCE = 1e-9


def section(path: Path) -> str:
    """The section of RESULTS.md. Beside `path` stand analysis.parquet and analysis_targets_late.parquet.

    Raises:
        RuntimeError: a value is not Fairlearn's.
    """
    table = pd.read_parquet(path.with_name("analysis.parquet"))
    table = table.merge(pd.read_parquet(path.with_name("analysis_targets_late.parquet"))[["id", "employed"]], on="id")
    columns: dict[str, NDArray[Any]] = {name: table[name].astype(str).to_numpy(dtype=object) for name in ATTRIBUTES}
    outputs = {"employed": "label", "prediction": "prediction", "predicted_probability": "probability"}
    columns |= {ours: table[name].to_numpy(dtype=float) for name, ours in outputs.items()}
    frame = Frame(columns, features=dict.fromkeys(ATTRIBUTES, "category"))
    sets = [(name,) for name in ATTRIBUTES] + [("SEX", "RAC1P"), ("SEX", "DIS")]
    rows = [_row(frame, names) for names in sets]
    head = f"| gap between groups by | {' | '.join(RATES)} | groups | from Fairlearn's |\n|{' --- |' * (len(RATES) + 3)}\n"
    return (
        "## Quality: fairness\n\n"
        f"{len(table):,} people, who is employed as a model predicts it; largest less smallest rate of the groups with 100 rows "
        "or more, with its simultaneous 95 % interval.\n\n"
        f"`python -m tests.bench.quality fairness --data DIR` · {datetime.now(UTC):%Y-%m-%d}\n\n{head}{''.join(rows)}"
    )


def _row(frame: Frame, names: tuple[str, ...]) -> str:
    joined = np.array([", ".join(values) for values in zip(*(frame._columns[name] for name in names), strict=True)], dtype=object)
    one = Frame({**frame._columns, "group": joined}, features={"group": "category"})
    cells, groups = [], 0
    for metric in RATES:
        reading = Fairness(Fairness.Config(attributes=("group",), metric=metric, min_rows=100)).compare(None, one)
        cells.append(f"{reading.value:.3f} ({reading.lower:.3f}-{reading.upper:.3f})")
        groups = groups or sum(part.value is not None for part in reading.parts) - 1  # the first part is the attribute
    return f"| {', '.join(names)} | {' | '.join(cells)} | {groups} | {_difference(one):.1g} |\n"


def _difference(frame: Frame) -> float:
    """The largest, over all groups, however small."""
    y, z = frame.numbers("label"), frame.numbers("prediction")
    who: dict[str, Any] = {"sensitive_features": frame._columns["group"]}
    ours = Fairness(Fairness.Config(attributes=("group",), metric="error", min_rows=1)).compare(None, frame).metrics
    theirs = {
        "demographic_parity:group": fairlearn.demographic_parity_difference(y, z, **who),
        "demographic_parity_ratio:group": fairlearn.demographic_parity_ratio(y, z, **who),
        "equal_opportunity:group": fairlearn.equal_opportunity_difference(y, z, **who),
        "equalised_odds:group": fairlearn.equalized_odds_difference(y, z, **who),
        "error:group": fairlearn.MetricFrame(metrics=zero_one_loss, y_true=y, y_pred=z, **who).difference(),
    }
    largest = max(abs(ours[name] - value) for name, value in theirs.items())
    if largest > TOLERANCE:
        raise RuntimeError(f"ours {dict(ours)}, Fairlearn's {theirs}")
    return float(largest)
