"""`modelwatch estimate`: how good is the model likely to be, before labels come? Chunk by chunk, and with what came true."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from monitor.compare import OK, UNUSABLE, add_outputs, guarded, names, pairs, print_json, progress, write
from monitor.terminal import harmless, table

if TYPE_CHECKING:
    from typing import Any

    from detectors.estimates import Estimates

ALERT = 1

SOURCES = """\
REF, CUR and the labels are files, patterns, folders or sql: with a query, as in `modelwatch compare`. REF has labels, and
predictions on rows that the model had not learnt from. Columns that no option names are found by their usual names, and the
result says which were taken.
Exit codes: 0; 1 with --fail-on-alert when an estimate is beyond its thresholds; 2 when nothing could be estimated, or what was
given cannot be used."""


def add_to(commands: Any) -> None:
    """The arguments of the command. `commands`: what `add_subparsers` gives."""
    parser = commands.add_parser(
        "estimate",
        help="estimate a model's quality without labels, chunk by chunk",
        description=__doc__,
        epilog=SOURCES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--reference", required=True, metavar="REF", help="predictions with labels, to learn from")
    parser.add_argument("--analysis", required=True, metavar="CUR", help="predictions to be judged, with labels or without")
    parser.add_argument("--labels", metavar="FILE", help="labels of the analysis that came late, joined by --id")
    parser.add_argument("--task", choices=("binary", "multiclass", "regression"), required=True)
    parser.add_argument("--metrics", type=names, metavar="A,B", help="roc_auc, f1, mae and so on (default: the usual ones)")
    parser.add_argument("--prediction", metavar="COLUMN", help="the class or number that was predicted")
    parser.add_argument("--probability", metavar="COLUMN", help="binary: of the positive class")
    parser.add_argument(
        "--probabilities", type=pairs("CLASS=COLUMN"), metavar="CLASS=COLUMN,...", help="multiclass: those of each class"
    )
    parser.add_argument("--label", metavar="COLUMN", help="what was true")
    parser.add_argument("--timestamp", metavar="COLUMN", help="when; rows are put in this order")
    parser.add_argument("--id", metavar="COLUMN", help="what labels are joined by")
    parser.add_argument("--features", type=names, metavar="A,B", help="regression: what to learn from (default: all others)")
    parser.add_argument("--positive", help="binary: the positive class (default: 1)")
    chunks = parser.add_mutually_exclusive_group()
    chunks.add_argument("--chunk-size", type=int, metavar="N", help="rows of a chunk")
    chunks.add_argument("--chunk-number", type=int, metavar="N", help="so many chunks on either side (default: 10)")
    chunks.add_argument("--chunk-period", choices=("hour", "day", "week", "month", "quarter", "year"), help="by the calendar")
    parser.add_argument("--timezone", default="UTC", help="of that calendar, like Europe/Oslo (default: %(default)s)")
    parser.add_argument("--threshold-std", type=float, default=3.0, help="standard deviations of the reference (default: 3)")
    parser.add_argument("--confidence", type=float, help="of the band (default: 0.95)")
    parser.add_argument("--min-rows", type=int, help="usable rows of a chunk, and of the reference (default: 100)")
    parser.add_argument("--seed", type=int, help="of resamples and trees (default: 0)")
    add_outputs(parser)
    parser.add_argument("--fail-on-alert", action="store_true", help="exit with 1 when an estimate is beyond its thresholds")
    parser.set_defaults(do=run)


def run(arguments: argparse.Namespace) -> int:
    return guarded(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    from detectors.estimates import estimate
    from monitor.tabular import Tables

    given = ("positive", "confidence", "min_rows", "seed")
    with Tables(arguments.database) as tables, progress("chunks", arguments.quiet) as bar:
        found = estimate(
            tables.open(arguments.reference),
            tables.open(arguments.analysis),
            None if arguments.labels is None else tables.open(arguments.labels),
            task=arguments.task,
            metrics=arguments.metrics,
            prediction=arguments.prediction,
            probability=arguments.probability,
            probabilities=arguments.probabilities,
            label=arguments.label,
            timestamp=arguments.timestamp,
            id=arguments.id,
            features=arguments.features,
            chunk_size=arguments.chunk_size,
            chunk_number=arguments.chunk_number,
            chunk_period=arguments.chunk_period,
            timezone=arguments.timezone,
            threshold_std=arguments.threshold_std,
            seen=lambda name: bar.update(),
            **{name: value for name in given if (value := getattr(arguments, name)) is not None},
        )
        bar.close()
    if arguments.html is not None:
        write(arguments.html, found.to_html(arguments.title or f"Estimate of {arguments.analysis}"))
    return _told(arguments, found)


def _told(arguments: argparse.Namespace, found: Estimates) -> int:
    from detectors.contract import Outcome

    if arguments.json:
        named = {"reference": arguments.reference, "analysis": arguments.analysis, "labels": arguments.labels}
        print_json({**named, **found.to_dict()})
    else:
        _print(found)
    if found.outcome is not Outcome.OK:
        print(harmless(f"modelwatch: nothing could be estimated: {found.reason}"), file=sys.stderr)
        return UNUSABLE
    return ALERT if arguments.fail_on_alert and found.alerts else OK


def _print(found: Estimates) -> None:
    def short(value: float | None) -> str:
        return "" if value is None else f"{value:.4g}"

    head = ("chunk", "from", "rows", "estimate", "lower", "upper", "realised", "labelled", "alert", "outcome")
    for metric in found.metrics:
        print(harmless(metric.told))
        rows = []
        for chunk in metric.chunks:
            numbers = (short(value) for value in (chunk.estimate, chunk.lower, chunk.upper, chunk.realised))
            alert = "alert" if chunk.alert else "came true" if chunk.realised_alert else ""
            outcome = chunk.outcome.value if chunk.why is None else f"{chunk.outcome.value}: {chunk.why}"
            rows.append((chunk.name, chunk.first or "", f"{chunk.rows:,}", *numbers, f"{chunk.labelled:,}", alert, outcome))
        print(table(head, rows))
        print()
    taken = [f"{role} {column}" for role, column in found.roles.to_dict().items() if isinstance(column, str)]
    if found.roles.probabilities:
        taken.append(f"probabilities {', '.join(found.roles.probabilities.values())}")
    if found.roles.features:
        taken.append(f"features {', '.join(found.roles.features)}")
    print(harmless(f"read: {'; '.join(taken)}"))
    for note in found.notes:
        print(harmless(f"note: {note}"))
    print(harmless(found.verdict))
