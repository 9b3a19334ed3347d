"""Detectors that need nothing, named in tests as "tests.plugins:Class"."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import Field

from detectors.contract import (
    Claim,
    DetectorConfig,
    NotEnoughData,
    NotEvaluable,
    Outcome,
    Part,
    Reading,
    Row,
    Score,
    Window,
    Worse,
)


class Bareness:
    """1 for an answer without passages, 1/2 with one, 1/3 with two. Some questions make it misbehave."""

    name = "bareness"
    version = "1"
    inputs = frozenset({"question", "response", "contexts"})
    worse: Worse = "higher"
    flag = 0.75

    class Config(DetectorConfig):
        scale: float = Field(1.0, gt=0)

    def __init__(self, config: Config) -> None:
        self.config = config

    def score(self, rows: Sequence[Row]) -> list[Score]:
        return [self._one(row) for row in rows]

    def _one(self, row: Row) -> Score:
        match (row["question"] or "").split():
            case ["die"]:
                os._exit(9)
            case ["raise"]:
                raise RuntimeError("asked to")
            case ["exit"]:
                sys.exit("asked to")
            case ["meddle"]:
                row["contexts"].append("made up")
            case ["hang"]:
                time.sleep(600)
            case ["wait-for", path]:  # until a test lets it go on
                while not Path(path).exists():
                    time.sleep(0.01)
            case ["decline"]:
                return Score.not_evaluable("no_context")
            case ["odd-detail"]:
                return Score(Outcome.OK, 0.5, detail={1: "no JSON has such a key"})  # type: ignore[dict-item]
        passages = row["contexts"]
        claims = [Claim(0, len(row["response"]), 0.5, i) for i in range(len(passages))] if row["response"] else []
        return Score.ok(self.config.scale / (1 + len(passages)), claims=claims, passages=len(passages))


class Meeting(Bareness):
    """As `Bareness`, when another detector of its kind scores at the same time; else it fails."""

    name = "meeting"
    _there = threading.Barrier(2)

    def score(self, rows: Sequence[Row]) -> list[Score]:
        self._there.wait(timeout=30)
        return super().score(rows)


class Staged(Bareness):
    """As `Bareness`, by two stages: an answer with passages is looked at closer."""

    name = "staged"

    def _one(self, row: Row) -> Score:
        found = super()._one(row)
        assert found.value is not None
        return Score.ok(found.value, stage="closer" if row["contexts"] else "quick")


class Overhearing(Bareness):
    """As `Bareness`, and says what else it was given."""

    name = "overhearing"
    inputs = Bareness.inputs | {"messages", "samples", "logprobs"}

    def _one(self, row: Row) -> Score:
        given = {name: row[name] for name in ("messages", "samples", "logprobs")}
        return replace(super()._one(row), detail=given)


class Doubtful(Bareness):
    """As `Bareness`, which is not sure enough of an answer without passages to wake anybody for it."""

    name = "doubtful"

    def _one(self, row: Row) -> Score:
        return replace(super()._one(row), may_alert=bool(row["contexts"]))


class Mean:
    """Mean of one column of the window. A mean of 999 makes it leave."""

    name = "mean"
    version = "1"
    inputs = frozenset({"features", "prediction"})
    worse: Worse = "higher"
    reference = "none"

    class Config(DetectorConfig):
        column: str = "prediction"
        raise_above: float | None = None
        decline_above: float | None = None
        half_width: float | None = None

    def __init__(self, config: Config) -> None:
        if config.column == "nowhere":
            raise LookupError("there is nothing nowhere")
        self.config = config

    def compare(self, reference: Window | None, current: Window) -> Reading:
        c = self.config
        values = current.numbers(c.column)
        values = values[~np.isnan(values)]
        if not len(values):
            raise NotEnoughData(f"no {c.column}")
        mean = float(values.mean())
        if mean == 999:
            sys.exit("nines are the end")
        if c.raise_above is not None and mean > c.raise_above:
            raise RuntimeError(f"{mean} is too much for me")
        if c.decline_above is not None and mean > c.decline_above:
            raise NotEvaluable("constant", "as told")
        width = c.half_width
        interval = (None, None) if width is None else (mean - width, mean + width)
        return Reading(mean, "mean", n_current=current.rows, lower=interval[0], upper=interval[1])


class IsolatedMean(Mean):
    """The same in the worker process. A mean of 666 kills it."""

    name = "isolated_mean"
    isolated = True

    def compare(self, reference: Window | None, current: Window) -> Reading:
        if current.numbers(self.config.column).mean() == 666:
            os._exit(9)
        return super().compare(reference, current)


class Shift:
    """How far the mean of the features lies from the reference's, with each feature as a part."""

    name = "shift"
    version = "1"
    inputs = frozenset({"features"})
    worse: Worse = "higher"

    class Config(DetectorConfig):
        pass

    def __init__(self, config: Config) -> None:
        self.config = config

    def compare(self, reference: Window | None, current: Window) -> Reading:
        assert reference is not None
        both = [f for f, kind in current.features.items() if kind == "number" and reference.has(f)]
        if not both:
            raise NotEvaluable("no_features")
        shifts = {f: float(abs(np.nanmean(current.numbers(f)) - np.nanmean(reference.numbers(f)))) for f in both}
        parts = [
            Part(f, "shift", value=v, n_current=current.rows) for f, v in sorted(shifts.items(), key=lambda s: (-s[1], s[0]))
        ]
        # Numbers as numpy gives them, as a careless author would hand them on.
        mean = np.float64(np.mean(list(shifts.values())))
        return Reading(
            mean,
            "shift",
            n_current=current.rows,
            n_reference=reference.rows,
            parts=tuple(parts),
            metrics={"features": np.float64(len(both))},
        )


class Error:
    """Mean absolute error of the labelled rows."""

    name = "error"
    version = "1"
    inputs = frozenset({"prediction", "label"})
    worse: Worse = "higher"
    reference = "none"

    class Config(DetectorConfig):
        pass

    def __init__(self, config: Config) -> None:
        self.config = config

    def compare(self, reference: Window | None, current: Window) -> Reading:
        errors = np.abs(current.numbers("prediction") - current.numbers("label"))
        known = errors[~np.isnan(errors)]
        if not len(known):
            raise NotEnoughData("no labels")
        return Reading(
            float(known.mean()),
            "mae",
            n_current=len(known),
            metrics={"mae": float(known.mean()), "label_coverage": len(known) / len(errors)},
        )


class Odd(Mean):
    """Gives what no store can hold."""

    name = "odd"

    def compare(self, reference: Window | None, current: Window) -> Reading:
        return Reading(1.0, "odd", n_current=current.rows, parts=(Part("x", "odd", value=object()),))  # type: ignore[arg-type]
