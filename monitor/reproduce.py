"""SQL over `audit.duckdb` that gives an incident's number again.

From the rows themselves where a query can say what the detector does; else from the reading as it was stored. The rows are those
that were there when it was read (`seq` up to what the log had then), so late ones, which restate it, change nothing here.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from detectors.performance import Performance
from monitor import answers
from monitor.config import Check
from monitor.reader import Reader, literal
from monitor.schema import FEATURE, quote
from monitor.slices import Condition, Slice

LATEST = "QUALIFY row_number() OVER (PARTITION BY record_id ORDER BY revision DESC) = 1"
ERRORS = {"mae": "avg(abs({0}))", "mse": "avg(({0}) ** 2)", "rmse": "sqrt(avg(({0}) ** 2))", "bias": "avg({0})"}
CLASSES = ("binary", "multiclass")


def number(
    reader: Reader,
    check: Check,
    reading: Mapping[str, Any],
    span: str,
    slot: datetime,
    part: Slice,
    *,
    flagged: tuple[str, float, str] | None,
) -> str:
    """`span`: the window, as a condition on `event_time`. `flagged`: of a row check the hash of its settings, where it flags a
    score, and in which direction."""
    model = literal(check.model)
    if flagged is not None:
        settings_hash, flag, worse = flagged
        known = f"seq <= {reader.last_seq('scores', check.model)}"
        if part.where:
            known += f" AND record_id IN (SELECT record_id FROM answers g WHERE model = {model} AND {span}{of_answer(part)})"
        return (
            f"SELECT avg((value {'>=' if worse == 'higher' else '<='} {flag!r})::INT) AS value, count(value) AS n FROM (SELECT "
            f"CASE WHEN flagged IS NOT NULL THEN value END AS value FROM scores WHERE model = {model} AND "
            f"settings_hash = {literal(settings_hash)} AND {span} AND {known} {LATEST})"
        )
    if (quality := _quality(check, str(reading["statistic"]))) is not None:
        value, row = quality
        inside = "".join(f" AND {of_prediction(condition)}" for condition in part.where)
        return (
            f"SELECT {value.format(row)} AS value, count({row}) AS n FROM {quote('predictions_' + check.model)} JOIN "
            "(SELECT record_id, arg_max(coalesce(label::VARCHAR, label_text), revision) AS truth FROM labels WHERE "
            f"model = {model} AND seq <= {reader.last_seq('labels', check.model)} GROUP BY record_id) USING (record_id) "
            f"WHERE {span} AND seq <= {reader.last_seq('predictions', check.model)}{inside}"
        )
    return (
        f"SELECT value FROM readings WHERE model = {model} AND check_name = {literal(check.name)} AND "
        f"slice = {literal(part.name)} AND slot = '{slot.isoformat()}' AND revision = {reading.get('revision', 1)}"
    )


def _quality(check: Check, metric: str) -> tuple[str, str] | None:
    """SQL of a metric over labelled predictions, and of what it is the mean of; None where it takes more than a query."""
    if not isinstance(check.settings, Performance.Config) or check.columns:
        return None
    if check.settings.task == "regression" and metric in ERRORS:
        return ERRORS[metric], "prediction - try_cast(truth AS DOUBLE)"
    if check.settings.task in CLASSES and metric == "accuracy":
        return "avg({0})", f"({PREDICTED} = {same_class('truth')})::INT"
    return None


def same_class(text: str) -> str:
    """SQL of what `detectors.labelled.same_class` gives: one name for the ways to write a class."""
    whole = f"regexp_replace({text}, '^(-*[0-9]+)[.]0$', '\\1')"
    return f"CASE lower({text}) WHEN 'true' THEN '1' WHEN 'false' THEN '0' ELSE {whole} END"


PREDICTED = same_class("coalesce(prediction::VARCHAR, prediction_text)")


def of_answer(part: Slice) -> str:
    """SQL over generations of the alias g, to be added to a condition."""
    return f" AND {part.sql(lambda field: answers.text_of(field, spans=False))}" if part.where else ""


def of_prediction(condition: Condition) -> str:
    """SQL over the view of a model's predictions. A whole number is written with a point there and without one here."""
    what, _, key = condition.field.partition(".")
    if condition.field == "model_version":
        return condition.sql("model_version")
    if what == "attributes":
        return condition.sql(f"json_extract_string(extra, {literal(f'$.{quote(key)}')})")
    values = (*condition.values, *(f"{value}.0" for value in condition.values if value.lstrip("-").isdecimal()))
    return Condition(condition.field, values, condition.inside).sql(f"{quote(FEATURE + condition.field)}::VARCHAR")
