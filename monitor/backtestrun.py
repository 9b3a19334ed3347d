"""A check on the past: which windows it would have read, what it would have said of them under this threshold and under others.

Rows, readings, thresholds and verdicts come from where the daemon's come from (`readings.Meter`, `baseline.Baseline`,
`thresholds.Judge`, `verdicts.History`), so what the daemon has said of a window is said again, to the bit. Each window is
measured once, whatever the number of thresholds. What is frozen on first use, references and edges of counts, is taken from the
store where it is there, and else made in a folder that goes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from monitor import backtestrange, helpers, references
from monitor.backtestreader import Shown
from monitor.backtestrules import Rule, Trial, Unreplayable
from monitor.baseline import Baseline
from monitor.child import Child
from monitor.config import Check, Config
from monitor.embeddings import Encoding
from monitor.past import Past
from monitor.readings import Measured, Meter
from monitor.references import References
from monitor.slices import ALL, Slice, Slices
from monitor.summaries import shelf
from monitor.thresholds import Judge, Learned
from monitor.track import Track
from monitor.traffic import maker

LEARN_SECONDS = 60.0  # of learning by one look at the store, which is good for two minutes


@dataclass(slots=True)
class Replay:
    """`measured`: by slice, what was read in each window of the range. `stopped`: the window before which time was over."""

    check: Check
    start: datetime
    end: datetime
    trials: list[Trial]
    measured: dict[str, dict[datetime, Measured]]
    notes: list[str]
    stopped: datetime | None = None

    @property
    def windows(self) -> int:
        return len(self.measured[ALL])


class Inside:
    """A helper that is no process: it is loaded when it is first asked."""

    def __init__(self, make: Callable[[], Callable[[Any], Any]]) -> None:
        self._make = make

    @cached_property
    def _answer(self) -> Callable[[Any], Any]:
        return self._make()

    def call(self, request: Any, timeout_seconds: float) -> Any:
        return self._answer(request)


def replay(
    shown: Shown,
    config: Config,
    check: Check,
    tried: Sequence[Rule],
    start: datetime,
    end: datetime,
    *,
    scratch: Path,
    now: datetime,
    monotonic: Callable[[], float],
    seconds: float | None = None,
    seen: Callable[[int, int], None] = lambda done, of: None,
) -> Replay:
    """The windows that lie in [start, end) and that the daemon would have read by `now`. `scratch`: a folder for what is made on
    the way. After so many `seconds` no further window is read. `seen` hears how many of how many windows are done.

    Raises:
        Unreplayable: there is nothing to replay.
        duckdb.Error, StoreError: the files cannot be read.
    """
    until = math.inf if seconds is None else monotonic() + seconds
    borrow(shown.root, scratch, check.model)
    traffic = maker({m.name: m.task for m in config.models}, config.checks, _encode(config))
    model = next(m for m in config.models if m.name == check.model)
    meter = Meter(check, model, References(scratch), cast(Child, Inside(lambda: helpers.worker({}))), traffic)
    reader = shown.reader()
    notes = backtestrange.notes(shown, reader, check, meter, start)
    slots = backtestrange.slots(reader, check, meter, start, end, now)
    inside = [slot for slot in slots if slot - timedelta(seconds=check.window_seconds) >= start]
    if not inside:
        raise Unreplayable(backtestrange.nothing(reader, check, meter, start, end, now))
    parts = backtestrange.slices(reader, check)
    trials = [
        Trial(rule, Track(rule.check, part, Judge(rule.check, rule.alpha, meter.worse), kept=0))
        for part in parts
        for rule in tried
    ]
    _learn(shown, meter, parts, trials, monotonic, until)
    found = Replay(check, start, end, trials, {part.name: {} for part in parts}, notes)
    always = Slices(check.slices).always

    def read(slot: datetime) -> None:
        reader = shown.reader()
        look = meter.look(reader, slot, reader.features(check.model))
        for part in parts:
            measured = look.measure(part)
            here = [one for one in trials if one.track.part is part]
            if not (measured.n_current or always(part.name) or any(one.track.misses(slot, measured) for one in here)):
                continue  # a value of a field that is not there has no window
            for one in here:
                one.track.say(slot, measured)
            if slot >= inside[0]:
                found.measured[part.name][slot] = measured
                for one in here:
                    one.slots.append(slot)

    # What is open when the range begins is told by windows before it, as few as tell.
    lead: list[datetime] = []
    for slot in reversed([slot for slot in slots if slot < inside[0]]):
        if all(_tells(one, lead) for one in trials) or monotonic() > until:
            break
        read(slot)
        lead.insert(0, slot)
    for done, slot in enumerate(inside):
        seen(done, len(inside))
        if monotonic() > until:
            found.stopped = slot
            break
        read(slot)
    return found


def _tells(trial: Trial, lead: Sequence[datetime]) -> bool:
    """Whether what follows on these windows does not depend on those before: so many in a row are inside, by the margin, that
    whatever was open is closed and nothing is counted."""
    track, row = trial.track, 0
    needed = max(trial.rule.check.clear, track.judge.reach)
    for slot in lead:
        verdict = track.history.at(slot)
        if verdict is None or verdict.low is None or verdict.high is None or verdict.bounds is None or verdict.beyond is None:
            continue
        row = 0 if verdict.bounds.beyond(verdict.low, verdict.high, True) else row + 1
        if row >= needed:
            return True
    return False


def borrow(root: Path, scratch: Path, model: str) -> None:
    """Have in `scratch` what the store has frozen for a model. Whatever is written there takes the place of a link."""
    frozen = (root / references.FOLDER).glob(f"{model}-*")
    counts = (root / shelf.FOLDER / model).rglob("*")
    for path in (*frozen, *counts):
        if path.is_file():
            link = scratch / path.relative_to(root)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.resolve())


def _encode(config: Config) -> Encoding:
    return Encoding(cast(Child, Inside(lambda: helpers.scorer(config.encoder.model_dump(mode="json")))))


def _learn(
    shown: Shown, meter: Meter, parts: Sequence[Slice], trials: Sequence[Trial], monotonic: Callable[[], float], until: float
) -> None:
    """What thresholds have to learn of their baselines: as the daemon has stored it, or as it would now.

    Raises:
        Unreplayable: time was over.
    """
    known: dict[tuple[datetime, datetime], dict[str, Learned]] = {}
    for one in trials:
        check, part = one.rule.check, one.track.part
        if (span := check.baseline) is None:
            continue
        baseline = Baseline(check, meter)
        reader = shown.reader()
        stored = Past(check, part.name, one.track.judge).learned(reader, baseline.definition(part))
        if stored is not None and stored.ok:
            one.track.judge.learn(stored)
            continue
        while span not in known:
            if monotonic() > until:
                raise Unreplayable("time was over before the baseline was read; take a shorter one, or more --max-seconds")
            stop = min(monotonic() + LEARN_SECONDS, until)
            reader = shown.reader()
            learned = baseline.learn(reader, parts, reader.features(check.model), lambda stop=stop: monotonic() < stop)  # type: ignore[misc]
            if learned is not None:
                known[span] = learned
        one.track.judge.learn(known[span][part.name])
