"""The contract suite catches detectors that break the contract, each for the reason it breaks it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from detectors import unkind
from detectors.contract import (
    Claim,
    DetectorConfig,
    NotEnoughData,
    NotEvaluable,
    Outcome,
    Part,
    Reading,
    Resources,
    Row,
    Score,
    Window,
    Worse,
)
from detectors.testing import check_detector

# --- windows ---------------------------------------------------------------------------------------------------------


class GoodWindow:
    """Difference of the means of `amount`."""

    name = "good_window"
    version = "1"
    inputs = frozenset({"features"})
    worse: Worse = "higher"

    class Config(DetectorConfig):
        min_rows: int = 2

    def __init__(self, config: Config) -> None:
        self.config = config

    def compare(self, reference: Window | None, current: Window) -> Reading:
        assert reference is not None
        sides = [window.numbers("amount") for window in (reference, current)]
        x, y = (side[np.abs(side) < 1e100] for side in sides)
        if min(len(x), len(y)) < self.config.min_rows:
            raise NotEnoughData("few values")
        shift = float(y.mean() - x.mean())
        return Reading(shift, "shift", n_current=len(y), parts=(Part("amount", "shift", value=shift),))


class ChangesTheCurrentWindow(GoodWindow):
    def compare(self, reference: Window | None, current: Window) -> Reading:
        if current.has("amount") and current.features["amount"] == "number" and current.rows:
            try:
                current.numbers("amount").sort()
            except NotEvaluable:
                pass
        return super().compare(reference, current)


class RaisesOnEmptyWindows(GoodWindow):
    def compare(self, reference: Window | None, current: Window) -> Reading:
        if current.rows == 0:
            raise ZeroDivisionError("division by zero")
        return super().compare(reference, current)


class RaisesOnOneRow(GoodWindow):
    def compare(self, reference: Window | None, current: Window) -> Reading:
        if current.rows == 1:
            raise IndexError("index 1 is out of bounds")
        return super().compare(reference, current)


class AveragesInfinities(GoodWindow):
    def compare(self, reference: Window | None, current: Window) -> Reading:
        values = current.numbers("amount")
        if not len(values):
            raise NotEnoughData("empty")
        with np.errstate(all="ignore"):
            mean = np.nan_to_num(np.abs(values).mean(), nan=0.0, posinf=math.inf)
        return Reading(float(mean), "mean", n_current=len(values))


class DiesOfUnicode(GoodWindow):
    def compare(self, reference: Window | None, current: Window) -> Reading:
        if current.has("city"):
            ",".join(current.categories("city").names).encode("ascii")
        return super().compare(reference, current)


class DrawsWithoutASeed(GoodWindow):
    def compare(self, reference: Window | None, current: Window) -> Reading:
        reading = super().compare(reference, current)
        return Reading(reading.value + np.random.default_rng().random(), "shift", n_current=0)


class Remembers(GoodWindow):
    def __init__(self, config: GoodWindow.Config) -> None:
        super().__init__(config)
        self.calls = 0

    def compare(self, reference: Window | None, current: Window) -> Reading:
        self.calls += 1
        reading = super().compare(reference, current)
        return Reading(reading.value + self.calls, "shift", n_current=0)


class Reseeds(GoodWindow):
    def compare(self, reference: Window | None, current: Window) -> Reading:
        np.random.seed(0)
        return super().compare(reference, current)


class GivesANumber(GoodWindow):
    def compare(self, reference: Window | None, current: Window) -> Any:
        return super().compare(reference, current).value


class PartOf(GoodWindow):
    part = Part("amount", "shift", value=1.0)

    def compare(self, reference: Window | None, current: Window) -> Reading:
        reading = super().compare(reference, current)
        return Reading(reading.value, "shift", n_current=0, parts=(self.part,))


class PartWithoutAValue(PartOf):
    part = Part("amount", "shift")


class PartOfNaN(PartOf):
    part = Part("amount", "shift", outcome=Outcome.NOT_EVALUABLE, reason="constant", value=math.nan)


class PartForAReasonOfItsOwn(PartOf):
    part = Part("amount", "shift", outcome=Outcome.NOT_EVALUABLE, reason="bad_weather")


class PartFlaggedWithoutAValue(PartOf):
    part = Part("amount", "shift", outcome=Outcome.NOT_ENOUGH_DATA, reason="few", flagged=True)


class PartOfAnImpossiblePValue(PartOf):
    part = Part("amount", "shift", value=1.0, p_value=1.5)


class LowerAboveUpper(GoodWindow):
    def compare(self, reference: Window | None, current: Window) -> Reading:
        return Reading(super().compare(reference, current).value, "shift", n_current=0, lower=2.0, upper=1.0)


class UnknownReference(GoodWindow):
    reference = "sometimes"


class CannotBePickled(GoodWindow):
    isolated = True

    def compare(self, reference: Window | None, current: Window) -> Reading:
        class Number(float):  # known inside this function only
            pass

        return Reading(Number(super().compare(reference, current).value), "shift", n_current=0)


# --- declarations ----------------------------------------------------------------------------------------------------


class BadlyNamed(GoodWindow):
    name = "Good Window"


class NoVersion(GoodWindow):
    version = ""


class InputsOfAList(GoodWindow):
    inputs = ["features"]  # type: ignore[assignment]  # noqa: RUF012


class WorseInBothDirections(GoodWindow):
    worse = "both"  # type: ignore[assignment]


class TakesAnySetting(GoodWindow):
    class Config(GoodWindow.Config):
        model_config = ConfigDict(extra="ignore")


class ConfigOfItsOwn(GoodWindow):
    class Config(BaseModel):
        pass


class LosesItsSettings(GoodWindow):
    class Config(GoodWindow.Config):
        weights: Any = (1, 2)


class Nothing:
    name = "nothing"


class WithoutAFlag:
    name = "without_a_flag"
    version = "1"
    inputs = frozenset({"response"})
    worse = "higher"
    Config = DetectorConfig

    def score(self, rows: Sequence[Row]) -> list[Score]:
        return []


# --- rows ------------------------------------------------------------------------------------------------------------


class GoodRow:
    """The share of the response that is one claim, which is all of it."""

    name = "good_row"
    version = "1"
    inputs = frozenset({"response"})
    worse: Worse = "lower"
    flag = 0.5

    class Config(DetectorConfig):
        pass

    def __init__(self, config: Config) -> None:
        self.config = config

    def score(self, rows: Sequence[Row]) -> list[Score]:
        return [self.one(row) for row in rows]

    def one(self, row: Row) -> Score:
        match row.get("response"):
            case None | "":
                return Score.not_evaluable("empty_answer")
            case str() as text:
                return Score.ok(1 / (1 + len(text.split())), claims=[Claim(0, len(text), 1.0)])
            case _:
                return Score.not_evaluable("wrong_type")


class RaisesOnNone(GoodRow):
    def one(self, row: Row) -> Score:
        len(row.get("response", ""))
        return super().one(row)


class NeedsAllKeys(GoodRow):
    def one(self, row: Row) -> Score:
        row["record_id"]
        return super().one(row)


class DiesOfSurrogates(GoodRow):
    def one(self, row: Row) -> Score:
        str(row.get("response")).encode()
        return super().one(row)


class FailsOnLongTexts(GoodRow):
    def one(self, row: Row) -> Score:
        return Score.failed("too_long") if len(str(row.get("response"))) > 50_000 else super().one(row)


class DropsBadRows(GoodRow):
    def score(self, rows: Sequence[Row]) -> list[Score]:
        return [score for score in super().score(rows) if score.outcome is Outcome.OK]


class SortsItsRows(GoodRow):
    def score(self, rows: Sequence[Row]) -> list[Score]:
        return super().score(sorted(rows, key=lambda row: len(str(row.get("response")))))


class DependsOnTheBatch(GoodRow):
    def score(self, rows: Sequence[Row]) -> list[Score]:
        return [Score.ok(len(rows)) for _ in rows]


class DependsOnTheRowBefore(GoodRow):
    def score(self, rows: Sequence[Row]) -> list[Score]:
        sizes = [0, *(len(str(row.get("response"))) for row in rows)]
        return [Score.ok(size) for size in sizes[:-1]]


class ChangesItsRows(GoodRow):
    def one(self, row: Row) -> Score:
        if isinstance(contexts := row.get("contexts"), list):
            contexts.reverse()
        return super().one(row)


class GivesNumbers(GoodRow):
    def score(self, rows: Sequence[Row]) -> Any:
        return [0.5 for _ in rows]


class GivesAnArray(GoodRow):
    def score(self, rows: Sequence[Row]) -> Any:
        scores: NDArray[Any] = np.array([None] * len(rows), dtype=object)
        return scores


class AlwaysOne(GoodRow):
    made = Score.ok(0.5)

    def one(self, row: Row) -> Score:
        return self.made


class ClaimOutsideTheResponse(AlwaysOne):
    made = Score.ok(0.5, claims=[Claim(0, 10_000_000, 1.0)])


class ClaimOnAContextThatIsNotThere(AlwaysOne):
    made = Score.ok(0.5, claims=[Claim(0, 1, 1.0, context=7)])


class SupportBeyondOne(AlwaysOne):
    made = Score.ok(0.5, claims=[Claim(0, 1, 1.2)])


class DetailThatIsNotJson(AlwaysOne):
    made = Score.ok(0.5, ratio=math.nan)


class ReasonOfItsOwn(AlwaysOne):
    made = Score(Outcome.NOT_EVALUABLE, reason="bad_weather")


class Loads(GoodRow):
    encoder: Any = None

    def load(self, resources: Resources) -> None:
        self.encoder = resources.encoder()

    def one(self, row: Row) -> Score:
        assert self.encoder is not None
        return super().one(row)


# --- the suite -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("detector", (GoodWindow, GoodRow))
def test_a_good_detector_passes(detector: type) -> None:
    check_detector(detector)


@pytest.mark.parametrize(
    ("detector", "sentence"),
    (
        (ChangesTheCurrentWindow, "compare changed the current window, given ordinary windows"),
        (RaisesOnEmptyWindows, r"compare raised ZeroDivisionError \(division by zero\), given an empty current window"),
        (RaisesOnOneRow, "compare raised IndexError .* given a current window of one row"),
        (AveragesInfinities, "compare raised ValueError .*must be finite.* given infinities"),
        (DiesOfUnicode, "compare raised UnicodeEncodeError .* given unicode categories"),
        (DrawsWithoutASeed, "equal windows give another reading"),
        (Remembers, "equal windows give another reading when other windows came in between"),
        (Reseeds, "numpy's global generator"),
        (GivesANumber, "compare gave float, not a Reading"),
        (PartWithoutAValue, "part 'amount' is ok with the value None"),
        (PartOfNaN, "part 'amount' is not_evaluable with the value nan"),
        (PartForAReasonOfItsOwn, "part 'amount' is not evaluable for 'bad_weather'"),
        (PartFlaggedWithoutAValue, "part 'amount' is flagged but not_enough_data"),
        (PartOfAnImpossiblePValue, "part 'amount' has the p-value 1.5"),
        (LowerAboveUpper, "lower is above upper"),
        (UnknownReference, "reference must be 'required', 'optional' or 'none', not 'sometimes'"),
        (CannotBePickled, "is isolated, and its reading cannot be pickled"),
        (BadlyNamed, "'Good Window': a detector's name is lower_snake_case"),
        (NoVersion, "version must be a text"),
        (InputsOfAList, "inputs must be a frozenset"),
        (WorseInBothDirections, "worse must be 'higher' or 'lower', not 'both'"),
        (TakesAnySetting, "takes a misspelled setting"),
        (ConfigOfItsOwn, "Config must be a detectors.contract.DetectorConfig"),
        (LosesItsSettings, "settings do not come back the same from JSON"),
        (Nothing, "has neither a score nor a compare method"),
        (WithoutAFlag, "the class has no flag"),
        (RaisesOnNone, "score raised TypeError .*a bad row's score says so"),
        (NeedsAllKeys, "score raised KeyError"),
        (DiesOfSurrogates, "score raised UnicodeEncodeError"),
        (FailsOnLongTexts, "100 kB of text failed"),
        (DropsBadRows, r"\d+ scores for \d+ rows"),
        (SortsItsRows, "alone and .* in a batch"),
        (DependsOnTheBatch, r"an ordinary generation scores 1\.0 alone and \d+\.0 in a batch"),
        (DependsOnTheRowBefore, "alone and .* in a batch"),
        (ChangesItsRows, "score changed the rows"),
        (GivesNumbers, "score gave a float among its scores"),
        (GivesAnArray, "score gave a ndarray, not a list"),
        (ClaimOutsideTheResponse, r"lies at 0\.\.10000000, outside the response"),
        (ClaimOnAContextThatIsNotThere, "names context 7, which is not there"),
        (SupportBeyondOne, "has the support 1.2, outside 0..1"),
        (DetailThatIsNotJson, "is not JSON"),
        (ReasonOfItsOwn, "not evaluable for 'bad_weather'"),
        (Loads, "has a load method, so check_detector needs resources"),
    ),
)
def test_a_broken_promise_is_named(detector: type, sentence: str) -> None:
    with pytest.raises(AssertionError, match=sentence) as caught:
        check_detector(detector)
    assert getattr(detector, "name") in str(caught.value)  # noqa: B009


def test_settings_and_resources_reach_the_detector() -> None:
    check_detector(GoodWindow, {"min_rows": 10_000})
    check_detector(Loads, resources=Resources(encoder=lambda: SimpleNamespace(name="fake", dimension=2)))


def test_an_isolated_detector_may_reseed() -> None:
    check_detector(type("Isolated", (Reseeds,), {"isolated": True}))


def test_the_unkind_inputs_are_the_same_every_time() -> None:
    first, second = unkind.windows(), unkind.windows()
    assert list(first) == list(second)
    for name, frames in first.items():
        for one, other in zip(frames, second[name], strict=True):
            assert repr(one._columns) == repr(other._columns), name
    assert repr(unkind.rows()) == repr(unkind.rows())
