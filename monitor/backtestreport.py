"""What a backtest came to: as a table, as JSON, as CSV by window, and as a plot."""

from __future__ import annotations

import csv
import io
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detectors.contract import Outcome
from monitor.backtestrules import Trial
from monitor.backtestrun import Replay
from monitor.slices import ALL
from monitor.terminal import harmless, table

if TYPE_CHECKING:
    from detectors.report.timeline import Timeline

HEAD = ("threshold", "windows", "evaluable", "firing", "by chance", "incidents", "a month", "longest", "note")
MOST_LISTED = 20


def told(found: Replay) -> str:
    """The table for a terminal, and the incidents of the threshold as configured."""
    slices = {one.slice for one in found.trials}
    lines = []
    for part in sorted(slices, key=lambda name: (name != ALL, name)):
        rows = [_row(one) for one in found.trials if one.slice == part]
        lines += [*([f"slice {harmless(part)}"] if len(slices) > 1 else []), table(HEAD, rows), ""]
    for one in found.trials:
        if one.rule is found.trials[0].rule and one.incidents:
            where = f", slice {harmless(one.slice)}" if one.slice != ALL else ""
            lines.append(f"incidents {one.rule.name}{where}:")
            lines += [
                f"  {_time(i['begin'])} to {_time(i['end']) if i['end'] else 'the end'}, peak {i['peak']:.4g}"
                for i in incidents(one)[:MOST_LISTED]
            ]
            if (more := len(one.incidents) - MOST_LISTED) > 0:
                lines.append(f"  and {more} more: --json has them")
            lines.append("")
    lines += [f"note: {harmless(note)}" for note in found.notes]
    outcomes: dict[str, int] = {}
    for measured in found.measured[ALL].values():
        if measured.outcome is not Outcome.OK:
            said = f"{measured.outcome.value}: {measured.reason}"
            outcomes[said] = outcomes.get(said, 0) + 1
    often = sorted(outcomes.items(), key=lambda one: -one[1])
    lines += [f"{count} of {found.windows} windows were {harmless(said)}" for said, count in often[:3]]
    if found.stopped is not None:
        lines.append(f"stopped before {_time(found.stopped)}, for want of time; what stands here is of the windows before it")
    return "\n".join(lines).rstrip()


def _row(one: Trial) -> tuple[str, ...]:
    a_month, expected = one.a_month(len(one.incidents)), one.expected
    longest = max((len(_slots_of(one, i.opened, i.resolved)) for i in one.incidents), default=0)
    return (
        one.rule.name, f"{len(one.slots):,}", f"{one.evaluable:,}", f"{one.firing:,}",
        "" if expected is None else f"{expected:.2g}",
        f"{len(one.incidents):,}", "" if a_month is None else f"{a_month:.3g}",
        f"{longest:,} windows" if longest else "", (one.note or "").split(";")[0],
    )  # fmt: skip


def _slots_of(one: Trial, begin: datetime, end: datetime | None) -> list[datetime]:
    return [slot for slot in one.slots if slot >= begin and (end is None or slot < end)]


def incidents(one: Trial) -> list[dict[str, Any]]:
    """`end` is the slot that resolved it; None: it was open at the end of the range."""
    return [{"begin": i.opened, "last": i.last, "end": i.resolved, "peak": i.peak} for i in one.incidents]


def plain(found: Replay) -> dict[str, Any]:
    """For JSON."""
    return {
        "check": found.check.name,
        "model": found.check.model,
        "from": _time(found.start),
        "to": _time(found.end),
        "windows": found.windows,
        "stopped": None if found.stopped is None else _time(found.stopped),
        "notes": found.notes,
        "thresholds": [
            {
                "threshold": one.rule.name,
                "slice": one.slice,
                "alpha": one.rule.alpha,
                "windows": len(one.slots),
                "evaluable": one.evaluable,
                "beyond": one.beyond,
                "firing": one.firing,
                "expected_by_chance": one.expected,
                "incidents_a_month": one.a_month(len(one.incidents)),
                "firing_a_month": one.a_month(one.firing),
                "note": one.note,
                "incidents": [
                    {key: _time(value) if isinstance(value, datetime) else value for key, value in i.items()}
                    for i in incidents(one)
                ],
            }
            for one in found.trials
        ],
        "readings": _windows(found),
    }


def _windows(found: Replay) -> list[dict[str, Any]]:
    """A row for each window of each slice: its reading, and for each threshold whether it fires."""
    rows = []
    for part, measured in found.measured.items():
        trials = [one for one in found.trials if one.slice == part]
        for slot, one in measured.items():
            reading = one.reading
            row: dict[str, Any] = {
                "slice": part,
                "begin": _time(slot - timedelta(seconds=found.check.window_seconds)),
                "end": _time(slot),
                "outcome": one.outcome.value,
                "reason": one.reason,
                "n": reading.n_current if reading else one.n_current,
                "value": reading.value if reading else None,
                "lower": reading.lower if reading else None,
                "upper": reading.upper if reading else None,
                "p_value": reading.metrics.get("p_value") if reading else None,
            }
            for trial in trials:
                verdict = trial.track.history.at(slot)
                row[f"firing {trial.rule.name}"] = None if verdict is None or verdict.beyond is None else verdict.firing
            rows.append(row)
    return rows


def as_csv(found: Replay) -> str:
    rows = _windows(found)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["slice"], lineterminator="\n")
    writer.writeheader()
    # A cell of text that begins like a formula is one for a spreadsheet.
    writer.writerows({k: f"'{v}" if isinstance(v, str) and v[:1] in "=+-@" else v for k, v in row.items()} for row in rows)
    return text.getvalue()


def plots(found: Replay, part: str = ALL) -> list[Timeline]:
    """The statistic under the threshold as configured, and its p-value under the calibrated ones, each with its incidents."""
    from detectors.report.timeline import Timeline

    trials = [one for one in found.trials if one.slice == part]
    measured = found.measured[part]
    first = trials[0]
    statistic = next((m.reading.statistic for m in measured.values() if m.reading), "value")
    made = []
    for one in trials:
        calibrated = one.track.judge.kind == "calibrated"
        shaded = [(i.opened, i.resolved or i.last) for i in one.incidents]
        points = []
        for slot, read in measured.items():
            verdict = one.track.history.at(slot)
            value = (verdict.number if verdict else None) if calibrated else read.reading.value if read.reading else None
            points.append((slot, value, bool(verdict and verdict.firing)))
        bounds = {v.bounds for v in one.verdicts if v.bounds is not None}
        ends = {value for b in bounds for value in (b.lower, b.upper) if value is not None}
        levels = [(one.rule.name, value) for value in sorted(ends)[:8]]
        what = "p-value" if calibrated else statistic
        made.append(Timeline(f"{what}, {one.rule.name}", points, levels, shaded, log=calibrated))
        if calibrated and one is first:  # the number that people know
            values = [
                (slot, read.reading.value if read.reading else None, fires)
                for (slot, _, fires), read in zip(points, measured.values(), strict=True)
            ]
            made.insert(0, Timeline(statistic, values, (), shaded))
    return [plot for plot in made if any(value is not None for _, value, _ in plot.points)]


def svg(found: Replay) -> str:
    from detectors.report.timeline import alone

    return alone(plots(found))


def page(found: Replay) -> str:
    from detectors.report.markup import add, page, written
    from detectors.report.pages import facts, table
    from detectors.report.style import STYLE
    from detectors.report.timeline import OWN_STYLE, drawn

    root, body = page(f"Backtest of {found.check.name}", STYLE + OWN_STYLE)
    add(body, "h1", f"Backtest of {found.check.name}")
    about = {"model": found.check.model, "from": _time(found.start), "to": _time(found.end), "windows": f"{found.windows:,}"}
    facts(body, about)
    for part in found.measured:
        trials = [one for one in found.trials if one.slice == part]
        if part != ALL:
            add(body, "h2", f"Slice {part}")
        table(body, "How often it would have fired", HEAD, [_row(one) for one in trials])
        for plot in plots(found, part):
            figure = add(body, "figure")
            add(figure, "figcaption", plot.title)
            drawn(figure, plot)
    for note in found.notes:
        add(body, "p", note)
    return written(root)


def write_plot(path: Path, found: Replay) -> str:
    """The text of a file of that name."""
    return page(found) if path.suffix.lower() in (".html", ".htm") else svg(found)


def _time(when: datetime) -> str:
    return f"{when:%Y-%m-%dT%H:%M:%SZ}"
