"""Estimates without labels, by how far they are from the later truth, and beside NannyML's on the same frames.

For each data set: what NannyML 0.13.1 gives for each chunk, in an environment of its own; the largest difference of ours, as a
share of the value; how far both are from the truth that came later, in the mean over the chunks, and how far it would be to say
that all is as in the reference. Without `--peers` only the vendored people of 2018, 500 at a time. DIR of `--data` may hold
`tabular_bike_sharing/stream.parquet`.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from detectors.contract import ColumnKind
from detectors.estimate_gap import EstimateGap
from detectors.estimation.estimators import Plan, fit
from monitor.windows import TableWindow
from tests.bench.daemon import ROOT
from tests.bench.harness import Options, Row, each
from tests.bench.peers import NANNYML, environment

CALLED = {"average_precision": "pr_auc"}  # what NannyML calls otherwise
AREAS = ("roc_auc", "average_precision")
SHOWN = {"binary": ("roc_auc", "accuracy", "f1"), "multiclass": ("f1", "accuracy"), "regression": ("mae", "mape", "rmse")}
EXACT = 1e-6


@dataclass(frozen=True, slots=True)
class Told:
    """One data set as NannyML saw it, and its word on each chunk: by metric `value`, `sampling_error` and `realized`."""

    name: str
    reference: TableWindow
    chunks: list[TableWindow]
    task: Any
    values: tuple[tuple[float, ...], ...]
    metrics: Mapping[str, Mapping[str, list[float]]]
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Ours:
    """By NannyML's name of the metric: estimate and sampling error of each chunk, and what was true in the reference."""

    values: dict[str, list[float]]
    errors: dict[str, list[float]]
    reference: dict[str, float]
    seconds: float


def run(options: Options) -> list[Row]:
    sets = beside_nannyml(options) if options.peers is not None else [vendored()]
    rows: list[Row] = []
    for told, ours in zip(sets, each(options, sets, "estimates", estimated), strict=True):
        size = f"{len(told.chunks)} chunks of {told.chunks[0].rows:,} rows"
        for metric in SHOWN[told.task]:
            rows += distances(told, ours, metric, size)
        if told.seconds is not None:
            rows += differences(told, ours)
            rows.append(Row(f"{told.name}: fit and estimates, all metrics", ours.seconds, "s", f"NannyML {told.seconds:.3g}"))
        rows.append(changed(told))
    return rows


def distances(told: Told, ours: Ours, metric: str, size: str) -> list[Row]:
    truth = np.array(told.metrics[metric]["realized"])
    off = float(np.abs(np.array(ours.values[metric]) - truth).mean())
    baseline = float(np.abs(ours.reference[metric] - truth).mean())
    note = f"mean |estimate - truth| over {size}; taking the reference's: {baseline:.3g}"
    if told.seconds is not None:
        note += f"; NannyML {np.abs(np.array(told.metrics[metric]['value']) - truth).mean():.3g}"
    return [Row(f"{told.name}: {metric}, distance from the truth", off, "", note)]


def differences(told: Told, ours: Ours) -> list[Row]:
    """Raises RuntimeError where the method is the same and the values are not."""

    def largest(metrics: list[str], which: str, found: dict[str, list[float]]) -> float:
        sides = [(np.array(found[m]), np.array(told.metrics[m][which])) for m in metrics]
        return max((float(np.abs(a / b - 1).max()) for a, b in sides), default=0.0)

    if told.task == "regression":
        note = "largest, as a share; another gradient boosting (see detectors/estimation/direct_loss.py)"
        return [Row(f"- {m} from NannyML's", largest([m], "value", ours.values), "", note) for m in told.metrics]
    areas = [m for m in told.metrics if m in AREAS]
    plain = [m for m in told.metrics if m not in AREAS]
    same = max(largest(plain, "value", ours.values), largest(plain, "sampling_error", ours.errors))
    if same > EXACT:
        raise RuntimeError(f"{told.name}: values differ from NannyML's by up to {same:g}")
    note = f"largest, as a share, sampling errors too; above {EXACT:g} fails the benchmark"
    ties = (
        "" if told.task == "binary" else "; rows of equal score differ in their probability, and NannyML takes them as they come"
    )
    return [
        Row(f"- {', '.join(plain)} from NannyML's", same, "", note),
        Row(f"- {', '.join(areas)} from NannyML's", largest(areas, "value", ours.values), "", f"largest, as a share{ties}"),
        Row("- their sampling errors", largest(areas, "sampling_error", ours.errors), "", "resampled; ranks of ties"),
    ]


def changed(told: Told) -> Row:
    """How many chunks have a gap to the late truth that is more than chance."""
    metric = SHOWN[told.task][0]
    detector = EstimateGap(EstimateGap.Config(task=told.task, metric=metric, confidence=0.99, resamples=100))
    found = [detector.compare(told.reference, chunk) for chunk in told.chunks]
    beyond = sum(reading.metrics["p_value"] < 0.01 for reading in found)
    return Row(
        f"{told.name}: chunks whose {metric} misses the estimate", beyond, f"of {len(found)}", "p < 0.01: the concept drifted"
    )


def estimated(told: Told) -> Ours:
    ours = Ours({}, {}, {}, 0.0)
    started = time.perf_counter()
    for metric in told.metrics:
        name = CALLED.get(metric, metric)
        values = told.values if metric == "business_value" else ()
        estimator = fit(Plan(told.task, name, "1", values, 20, 0), told.reference)
        found = [estimator.estimate(chunk) for chunk in told.chunks]
        ours.values[metric] = [each_metric[name] for each_metric, _ in found]
        ours.errors[metric] = [estimator.sampling_error(rows) for _, rows in found]
        ours.reference[metric] = estimator.realised
    return Ours(ours.values, ours.errors, ours.reference, time.perf_counter() - started)


def beside_nannyml(options: Options) -> list[Told]:
    assert options.peers is not None
    python = environment(options.peers, *NANNYML)
    command = [str(python), str(ROOT / "tests" / "bench" / "estimate_peer.py"), str(options.folder)]
    bikes = options.data / "tabular_bike_sharing" / "stream.parquet" if options.data else None
    command += [str(bikes)] if bikes and bikes.exists() else []
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"NannyML: {done.stderr.decode()[-2000:]}")
    word = orjson.loads(done.stdout.splitlines()[-1])  # LightGBM talks before
    return [read(name, told, options.folder) for name, told in word["sets"].items()]


def read(name: str, told: dict[str, Any], folder: Path) -> Told:
    reference, analysis = (plain(pq.read_table(folder / f"{name}-{side}.parquet")) for side in ("reference", "analysis"))
    kinds: dict[str, ColumnKind] = {
        f: "category" if pa.types.is_string(reference.schema.field(f).type) else "number" for f in told["features"]
    }
    chunks = [TableWindow(analysis.slice(start, end - start), kinds) for start, end in told["chunks"]]
    values = tuple(map(tuple, told["values"]))
    return Told(name, TableWindow(reference, kinds), chunks, told["task"], values, told["metrics"], told["seconds"])


def vendored() -> Told:
    """The people of tests/data, whose truth stands beside what NannyML said of them."""
    data = ROOT / "tests" / "data"
    told = orjson.loads((data / "nannyml_estimates.json").read_bytes())["sets"]["employment"]
    table = pq.read_table(data / "employment_sample.parquet")
    names = {"employed": "label", "prediction": "prediction", "predicted_probability": "probability"}
    table = table.select([*names, "year"]).rename_columns([*names.values(), "year"])
    reference, analysis = (plain(table.filter(pc.equal(table["year"], year)).drop(["year"])) for year in (2015, 2018))
    chunks = [TableWindow(analysis.slice(start, end - start), {}) for start, end in told["chunks"]]
    values = tuple(map(tuple, told["values"]))
    return Told("employment sample", TableWindow(reference, {}), chunks, told["task"], values, told["metrics"], None)


def plain(table: pa.Table) -> pa.Table:
    """Text as the store has it, whatever pandas wrote."""
    text = [pa.types.is_large_string(f.type) or pa.types.is_dictionary(f.type) for f in table.schema]
    return table.cast(
        pa.schema([pa.field(f.name, pa.string() if t else f.type) for f, t in zip(table.schema, text, strict=True)])
    )
