"""Which windows of the past there are to replay, and why there are none."""

from __future__ import annotations

from datetime import datetime, timedelta

from monitor.backtestreader import Shown, ShownReader
from monitor.backtestrules import Unreplayable
from monitor.clock import EPOCH
from monitor.config import Check
from monitor.past import FIRST_LOOK
from monitor.reader import literal
from monitor.readings import Meter
from monitor.slices import OTHER, Slice, Slices
from monitor.windows import slots_of

FOLLOWERS = frozenset({"labels", "feedback", "contexts"})  # logs that belong to windows of others' rows


def logs(meter: Meter) -> list[tuple[str, str]]:
    """The logs whose rows have windows of their own, and which of their rows."""
    hashes = ", ".join(map(literal, meter.hashes))
    return [
        (kind, f"settings_hash IN ({hashes})" if kind == "scores" else "true") for kind in meter.kinds if kind not in FOLLOWERS
    ]


def slots(reader: ShownReader, check: Check, meter: Meter, start: datetime, end: datetime, now: datetime) -> list[datetime]:
    """Those that rows belong to, up to the range's end as far as they are due, with some before it; oldest first."""
    every, window = timedelta(seconds=check.every), timedelta(seconds=check.window_seconds)
    since = start - every * FIRST_LOOK - window
    found: set[datetime] = set()
    passed: list[datetime] = []
    for kind, where in logs(meter):
        times = reader.query(
            f"SELECT max(event_time) AS last FROM {reader.source(kind, check.model, since=since, until=end)} "
            f"WHERE {where} AND event_time >= ? AND event_time < ? "
            f"GROUP BY floor(epoch_us(event_time) / {check.every * 1_000_000})",
            [since, end],
        )
        found.update(slot for row in times for slot in slots_of(row["last"], check.every, check.window_seconds))
        if (high := reader.span(kind, check.model, where)[1]) is not None:
            passed.append(high)
    lateness = timedelta(seconds=check.lateness)
    watermark = max(passed) - lateness if passed else EPOCH
    quiet = now - lateness - timedelta(seconds=check.idle_timeout)  # after that a window is closed though nothing came since
    return sorted(slot for slot in found if slot <= end and slot <= max(watermark, quiet))


def notes(shown: Shown, reader: ShownReader, check: Check, meter: Meter, start: datetime) -> list[str]:
    """What is to be known beside the figures.

    Raises:
        Unreplayable: there are no scores by the present settings, or no row at all.
    """
    found = []
    if aside := shown.aside(check.model):
        found.append(
            f"{len(aside)} damaged segments are set aside: of windows with rows there the daemon says rows_unavailable, and here "
            "they are read without"
        )
    for name in meter.hashes:
        low, _, count = reader.span("scores", check.model, f"settings_hash = {literal(name)}")
        if low is not None and low >= start + timedelta(seconds=check.every):
            found.append(f"scores by the present settings begin at {text(low)}: earlier windows have none, and are not there")
        if count:
            continue
        others = reader.query(
            f"SELECT settings_hash AS hash, count(*) AS n FROM {reader.source('scores', check.model)} "
            "WHERE detector = ? GROUP BY ALL ORDER BY n DESC LIMIT 3",
            [meter.detector_name],
        )
        told = ", ".join(f"{row['n']:,} by {row['hash']}" for row in others) or "none by others"
        problem = (
            f"no score of {check.model} was made by the settings that check {check.name} has now (settings_hash {name}; "
            f"{told}), and nothing is scored again for this. Replay with the settings that made them, or let the check run with "
            "a threshold that nothing reaches, and come back"
        )
        if meter.row is not None:
            raise Unreplayable(f"not_evaluable: {problem}")
        found.append(problem)
    if check.reference is not None or check.baseline is not None:
        ends = [check.reference.end] if check.reference is not None and check.reference.end is not None else []
        ends += [check.baseline[1]] if check.baseline is not None else []
        high = max((one for kind, where in logs(meter) if (one := reader.span(kind, check.model, where)[1])), default=None)
        if ends and (high is None or high < max(ends) + timedelta(seconds=check.lateness)):
            raise Unreplayable(
                f"the reference or baseline of check {check.name} ends at {text(max(ends))}, and the latest row of "
                f"{check.model} is of {text(high) if high else 'never'}: the daemon reads no window before that time is over; "
                "take an earlier one"
            )
    return found


def nothing(reader: ShownReader, check: Check, meter: Meter, start: datetime, end: datetime, now: datetime) -> str:
    """Why there is no window."""
    spans = [reader.span(kind, check.model, where) for kind, where in logs(meter)]
    lows, highs = [one[0] for one in spans if one[0]], [one[1] for one in spans if one[1]]
    kinds = " and ".join(kind for kind, _ in logs(meter))
    if not lows or not highs:
        return f"{check.model} has no {kinds} in {reader.root}; is it the store of this config, and has anything been sent?"
    if end - start < timedelta(seconds=check.window_seconds):
        return f"from {text(start)} to {text(end)} is shorter than a window of {check.window_seconds} s; take a longer time"
    return (
        f"no whole window of check {check.name} that is due lies between {text(start)} and {text(end)}; "
        f"{kinds} of {check.model} are from {text(min(lows))} to {text(max(highs))}"
    )


def slices(reader: ShownReader, check: Check) -> list[Slice]:
    """The whole, those that the config names, and those by a field that the daemon has made."""
    found = Slices(check.slices)
    for one in check.slices:
        if one.by is not None:
            names = reader.query(
                f"SELECT slice, min(slot) AS first FROM {reader.source('verdicts', check.model)} "
                "WHERE check_name = ? AND starts_with(slice, ?) GROUP BY ALL ORDER BY first, slice",
                [check.name, f"{one.by}="],
            )
            values = [row["slice"].removeprefix(f"{one.by}=") for row in names]
            found.know(one.by, [value for value in values if value != OTHER])
    return found.all()


def text(when: datetime) -> str:
    return f"{when:%Y-%m-%dT%H:%M:%SZ}"
