"""The contract suite: does a detector keep what `detectors.contract` promises?

    from detectors.testing import check_detector

    def test_my_detector_keeps_the_contract():
        check_detector(MyDetector, {"min_rows": 50})

It knows nothing of what a detector measures: one that passes may still be wrong, one that fails would hurt others.
"""

from __future__ import annotations

import copy
import json
import math
import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from pydantic import ValidationError

from detectors import unkind
from detectors.contract import (
    NOT_EVALUABLE_REASONS,
    DetectorConfig,
    Frame,
    NotEnoughData,
    NotEvaluable,
    Outcome,
    Part,
    Reading,
    Resources,
    Row,
    Score,
    settings_hash,
)
from detectors.memo import Memo
from detectors.registry import is_row, is_window

TOLERANCE = 1e-4
"""How far a row's score may move with its neighbours: padding changes the order of float32 sums."""


def check_detector(detector: type, settings: Mapping[str, Any] | None = None, *, resources: Resources | None = None) -> None:
    """Run the suite on a detector class with these settings.

    `resources` goes to the detector's `load`, where it has one; its encoder may be a small fake.

    Raises:
        AssertionError: a sentence that says which promise is broken, and on what input.
    """
    name = getattr(detector, "name", detector.__name__)
    _check_promises(detector, name)
    config = _check_config(detector, name, settings or {})
    random_state = pickle.dumps(np.random.get_state())
    if is_window(detector):
        _check_windows(detector, name, config)
    else:
        _check_rows(detector, name, config, resources)
    _expect(
        getattr(detector, "isolated", False) or pickle.dumps(np.random.get_state()) == random_state,
        f"{name}: draws from numpy's global generator or reseeds it; use np.random.default_rng(seed), or isolated = True",
    )


def _expect(kept: bool, sentence: str) -> None:
    if not kept:
        raise AssertionError(sentence)


# --- what a class declares -------------------------------------------------------------------------------------------


def _check_promises(detector: type, name: str) -> None:
    _expect(is_row(detector) or is_window(detector), f"{name}: has neither a score nor a compare method")
    for attribute in ("name", "version", "inputs", "worse", "Config", *(("flag",) if is_row(detector) else ())):
        _expect(hasattr(detector, attribute), f"{name}: the class has no {attribute}")
    _expect(
        isinstance(name, str) and re.fullmatch(r"[a-z][a-z0-9_]*", name) is not None,
        f"{name!r}: a detector's name is lower_snake_case",
    )
    version, inputs = getattr(detector, "version"), getattr(detector, "inputs")  # noqa: B009 (type has no such attribute)
    _expect(isinstance(version, str) and version != "", f"{name}: version must be a text, not {version!r}")
    _expect(
        isinstance(inputs, frozenset) and all(isinstance(i, str) for i in inputs),
        f"{name}: inputs must be a frozenset of names, not {inputs!r}",
    )
    if is_row(detector):
        _expect(math.isfinite(detector.flag), f"{name}: flag must be finite, not {detector.flag!r}")


def _check_config(detector: type, name: str, settings: Mapping[str, Any]) -> DetectorConfig:
    config_class = getattr(detector, "Config")  # noqa: B009
    _expect(
        isinstance(config_class, type) and issubclass(config_class, DetectorConfig),
        f"{name}: Config must be a detectors.contract.DetectorConfig",
    )
    config: DetectorConfig = config_class.model_validate(settings)
    try:
        config_class.model_validate({**settings, "no_such_setting": 1})
    except ValidationError:
        pass
    else:
        raise AssertionError(f"{name}: Config takes a misspelled setting")
    # Settings reach a worker process as JSON, and their hash is stored with every value.
    again = config_class.model_validate(json.loads(config.model_dump_json()))
    _expect(again == config, f"{name}: settings do not come back the same from JSON: {config!r} became {again!r}")
    settings_hash(detector, config)
    return config


def _check_worse(name: str, built: Any) -> None:
    _expect(built.worse in ("higher", "lower"), f"{name}: worse must be 'higher' or 'lower', not {built.worse!r}")


# --- windows ---------------------------------------------------------------------------------------------------------


def _check_windows(detector: Any, name: str, config: DetectorConfig) -> None:
    built = detector(config)
    _check_worse(name, built)
    needed = getattr(detector, "reference", "required")
    _expect(
        needed in ("required", "optional", "none"),
        f"{name}: reference must be 'required', 'optional' or 'none', not {needed!r}",
    )
    outcomes: list[Reading | str] = []
    cases = unkind.windows()
    for case, (reference, current) in cases.items():
        before = _contents(reference), _contents(current)
        outcome = _compare(built, name, None if needed == "none" else reference, current, case)
        if needed == "optional" and isinstance(
            alone := _compare(built, name, None, current, f"{case}, without reference"), Reading
        ):
            _check_reading(alone, name, current, f"{case}, without reference")
        for side, then, frame in (("reference", before[0], reference), ("current window", before[1], current)):
            _expect(then == _contents(frame), f"{name}: compare changed the {side}, given {case}")
        if isinstance(outcome, Reading):
            _check_reading(outcome, name, current, case)
            if getattr(detector, "isolated", False):
                _check_pickle(outcome, name, case)
        outcomes.append(outcome)
    reference, current = next(iter(cases.values()))
    for what, again in (
        ("equal windows give another reading when other windows came in between", built),
        ("equal windows, settings and seed give another reading in a new instance", detector(config)),
    ):
        outcome = _compare(again, name, None if needed == "none" else reference, current, "the first windows again")
        _expect(outcome == outcomes[0], f"{name}: {what}")


def _compare(built: Any, name: str, reference: Frame | None, current: Frame, case: str) -> Reading | str:
    """The reading, or the outcome and reason in words."""
    try:
        reading = built.compare(reference, current)
    except NotEnoughData:
        return Outcome.NOT_ENOUGH_DATA.value
    except NotEvaluable as exc:
        return f"{Outcome.NOT_EVALUABLE.value} {exc.reason}"
    except Exception as exc:
        raise AssertionError(
            f"{name}: compare raised {type(exc).__name__} ({exc}), given {case}; "
            "a window that cannot be evaluated is NotEnoughData or NotEvaluable"
        ) from exc
    _expect(isinstance(reading, Reading), f"{name}: compare gave {type(reading).__name__}, not a Reading, given {case}")
    return reading  # type: ignore[no-any-return]


def _check_reading(reading: Reading, name: str, current: Frame, case: str) -> None:
    # That value, interval and metrics are finite is seen to by Reading itself.
    lower, upper = reading.lower, reading.upper
    _expect(reading.statistic != "", f"{name}: a reading without the name of its statistic, given {case}")
    _expect(0 <= reading.n_current <= current.rows, f"{name}: n_current is {reading.n_current}, given {case}")
    _expect(lower is None or upper is None or lower <= upper, f"{name}: lower is above upper, given {case}")
    json.dumps(dict(reading.metrics))  # metrics are stored as JSON
    for part in reading.parts:
        _check_part(part, f"{name}: part {part.name!r}", case)


def _check_pickle(reading: Reading, name: str, case: str) -> None:
    """The reading of an isolated detector comes back from another process."""
    try:
        back = pickle.loads(pickle.dumps(reading))
    except Exception as exc:
        raise AssertionError(f"{name}: is isolated, and its reading cannot be pickled ({exc}), given {case}") from exc
    _expect(back == reading, f"{name}: is isolated, and its reading does not survive pickle, given {case}")


def _check_part(part: Part, who: str, case: str) -> None:
    finite = part.value is not None and math.isfinite(part.value)
    _expect(
        finite == (part.outcome is Outcome.OK) and (finite or part.value is None),
        f"{who} is {part.outcome} with the value {part.value!r}, given {case}",
    )
    _expect(part.p_value is None or 0 <= part.p_value <= 1, f"{who} has the p-value {part.p_value!r}, given {case}")
    _expect(part.outcome is Outcome.OK or part.reason is not None, f"{who} is {part.outcome} without a reason, given {case}")
    _expect(
        part.outcome is not Outcome.NOT_EVALUABLE or part.reason in NOT_EVALUABLE_REASONS,
        f"{who} is not evaluable for {part.reason!r}, which is not in NOT_EVALUABLE_REASONS, given {case}",
    )
    _expect(part.outcome is Outcome.OK or not part.flagged, f"{who} is flagged but {part.outcome}, given {case}")


def _contents(frame: Frame) -> str:
    """Everything in the frame as text, in which NaN equals NaN."""
    columns = {name: (values.dtype, values.tolist()) for name, values in frame._columns.items()}
    return repr((columns, dict(frame.features)))


# --- rows ------------------------------------------------------------------------------------------------------------


def _check_rows(detector: Any, name: str, config: DetectorConfig, resources: Resources | None) -> None:
    built = detector(config)
    _check_worse(name, built)
    if callable(load := getattr(built, "load", None)):
        _expect(resources is not None, f"{name}: has a load method, so check_detector needs resources")
        assert resources is not None
        load(replace(resources, memo=Memo(0)))  # one that remembers a row's score cannot be caught giving it another
    cases = unkind.rows()
    labels, rows = list(cases), list(cases.values())
    untouched = copy.deepcopy(rows)
    _expect(_score(built, name, [], "no rows") == [], f"{name}: score([]) must give []")
    batch = _score(built, name, rows, "a batch of unlike rows")
    _expect(repr(rows) == repr(untouched), f"{name}: score changed the rows it was given")
    alone = [_score(built, name, [row], label)[0] for label, row in cases.items()]
    for label, one, score in zip(labels, alone, batch, strict=True):
        _expect(_alike(one, score), f"{name}: {label} scores {_say(one)} alone and {_say(score)} in a batch")
    for label, row, score in zip(labels, rows, batch, strict=True):
        _check_score(score, name, row, label)
    backwards = _score(built, name, rows[::-1], "the batch backwards")[::-1]
    for label, score, again in zip(labels, batch, backwards, strict=True):
        _expect(_alike(score, again), f"{name}: {label} scores {_say(score)}, but {_say(again)} in reverse order")


def _score(built: Any, name: str, rows: Sequence[Row], case: str) -> list[Score]:
    try:
        scores = built.score(rows)
    except Exception as exc:
        raise AssertionError(
            f"{name}: score raised {type(exc).__name__} ({exc}), given {case}; a bad row's score says so"
        ) from exc
    _expect(isinstance(scores, list), f"{name}: score gave a {type(scores).__name__}, not a list, given {case}")
    _expect(len(scores) == len(rows), f"{name}: {len(scores)} scores for {len(rows)} rows, given {case}")
    for score in scores:
        _expect(isinstance(score, Score), f"{name}: score gave a {type(score).__name__} among its scores, given {case}")
    return scores  # type: ignore[no-any-return]


def _check_score(score: Score, name: str, row: Row, case: str) -> None:
    # That the value is finite exactly when the outcome is ok is seen to by Score itself.
    _expect(score.outcome is not Outcome.FAILED, f"{name}: {case} failed ({score.reason}); say not_evaluable and why")
    _expect(
        score.outcome is not Outcome.NOT_EVALUABLE or score.reason in NOT_EVALUABLE_REASONS,
        f"{name}: {case} is not evaluable for {score.reason!r}, which is not in NOT_EVALUABLE_REASONS",
    )
    try:
        json.dumps(dict(score.detail), allow_nan=False)
    except (TypeError, ValueError) as exc:
        raise AssertionError(f"{name}: the detail of {case} is not JSON: {exc}") from exc
    response, contexts = row.get("response"), row.get("contexts")
    for claim in score.claims:
        _expect(
            isinstance(response, str) and 0 <= claim.start < claim.end <= len(response),
            f"{name}: a claim of {case} lies at {claim.start}..{claim.end}, outside the response",
        )
        _expect(0 <= claim.support <= 1, f"{name}: a claim of {case} has the support {claim.support!r}, outside 0..1")
        _expect(
            claim.context is None or (isinstance(contexts, list) and 0 <= claim.context < len(contexts)),
            f"{name}: a claim of {case} names context {claim.context}, which is not there",
        )


def _alike(a: Score, b: Score) -> bool:
    if (a.outcome, a.reason, len(a.claims)) != (b.outcome, b.reason, len(b.claims)):
        return False
    return a.value is None or b.value is None or abs(a.value - b.value) <= TOLERANCE


def _say(score: Score) -> str:
    return f"{score.value!r}" if score.outcome is Outcome.OK else f"{score.outcome.value} ({score.reason})"
