"""`modelwatch compare`: has this data moved from that? For a first look, for CI gates, and without a daemon."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monitor.terminal import harmless, table

if TYPE_CHECKING:
    from detectors.comparison import ComparedColumn, Comparison
    from monitor.tabular import Tables

OK, DRIFT, UNUSABLE = 0, 1, 2

SOURCES = """\
REF and CUR are files (.parquet, .csv, .tsv, .jsonl, also .gz and .zst), patterns of them in quotes, or folders; or sql: with a
query, a table or a view: sql:predictions with --database, sql:"SELECT * FROM 'june/*.parquet' WHERE country = 'NO'" without.
Exit codes: 0; 1 with --fail-on-drift when there is drift; 2 when nothing could be compared, or what was given cannot be used."""


def add_to(commands: Any) -> None:
    """The arguments of the command. `commands`: what `add_subparsers` gives."""
    parser = commands.add_parser(
        "compare",
        help="compare two files, folders or queries, column by column",
        description=__doc__,
        epilog=SOURCES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--reference", required=True, metavar="REF", help="what to compare with")
    parser.add_argument("--current", required=True, metavar="CUR", help="what may have moved")
    parser.add_argument("--policy", choices=("calibrated", "evidently"), default="calibrated", help="default: %(default)s")
    parser.add_argument("--columns", type=names, metavar="A,B", help="only these (default: all but times and nested values)")
    parser.add_argument("--exclude", type=names, default=(), metavar="A,B", help="all but these")
    parser.add_argument("--method", default="auto", help="for every column: ks, psi, wasserstein and so on (default: auto)")
    parser.add_argument("--methods", type=pairs("COLUMN=METHOD"), default={}, metavar="A=ks,B=psi", help="by column")
    parser.add_argument("--category", type=names, default=(), metavar="A,B", help="columns to take as categories")
    parser.add_argument("--number", type=names, default=(), metavar="A,B", help="columns to take as numbers")
    parser.add_argument("--alpha", type=float, help="calibrated: false discoveries among the drifted columns (default: 0.05)")
    parser.add_argument("--threshold", type=float, dest="feature_threshold", help="of --method: feature_threshold of data_drift")
    parser.add_argument("--resamples", type=int, help="calibrated: splits of the reference (default: 1000)")
    parser.add_argument("--block-rows", type=int, help="calibrated: rows drawn together; 1 where their order is not that of time")
    parser.add_argument("--min-rows", type=int, help="values of a column on either side (default: 100, or 2 under evidently)")
    parser.add_argument("--drift-share", type=float, help="share of drifted columns that is drift (default: any, evidently: 0.5)")
    parser.add_argument("--order-by", metavar="COLUMN", help="sort the rows by this column first, for the order is that of time")
    add_outputs(parser)
    parser.add_argument("--fail-on-drift", action="store_true", help="exit with 1 when there is drift")
    parser.add_argument("--fail-on-unevaluated", action="store_true", help="and when a column could not be evaluated")
    parser.set_defaults(do=run)


def add_outputs(parser: argparse.ArgumentParser) -> None:
    """What this command and `estimate` have in common."""
    parser.add_argument("--database", type=Path, help="what sql: asks: a DuckDB file, or a store's folder")
    parser.add_argument("--json", action="store_true", help="the result as one JSON object")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with plots, which needs no other file")
    parser.add_argument("--title", help="of the page")
    parser.add_argument("--quiet", action="store_true", help="no progress on the terminal")


def names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def pairs(form: str) -> Callable[[str], dict[str, str]]:
    """Reads `A=x,B=y`, for argparse; `form` is what a pair is called when one is not."""

    def read(text: str) -> dict[str, str]:
        found = {}
        for one in names(text):
            name, given, value = one.partition("=")
            if not given:
                raise argparse.ArgumentTypeError(f"{one!r} is not {form}")
            found[name] = value
        return found

    return read


def run(arguments: argparse.Namespace) -> int:
    return guarded(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    from monitor.tabular import Tables

    with Tables(arguments.database, arguments.order_by) as tables, progress("columns", arguments.quiet) as bar:
        found = _compared(arguments, tables, bar)
        bar.close()
        if arguments.html is not None:
            write(arguments.html, found.to_html(arguments.title or f"{arguments.current} against {arguments.reference}"))
    return _told(arguments, found)


def _compared(arguments: argparse.Namespace, tables: Tables, bar: Any) -> Comparison:
    from detectors.comparison import compare
    from monitor.tabular import Unusable

    reference = tables.open(arguments.reference, arguments.category)
    # What is text in the reference is text in the other file, too, where it may hold nothing but digits.
    texts = {name for name, found in reference.types.items() if found.family == "text"}
    current = tables.open(arguments.current, {*arguments.category, *texts})
    known = tuple(dict.fromkeys((*reference.types, *current.types)))
    if unknown := [name for name in arguments.exclude if name not in known]:
        raise Unusable(f"--exclude: {', '.join(unknown)} on neither side; there are {', '.join(known)}")
    left = {*arguments.exclude, *((arguments.order_by,) if arguments.order_by else ())} - set(arguments.columns or ())
    if left:
        reference, current = reference.without(left), current.without(left)
    given = ("alpha", "feature_threshold", "resamples", "block_rows", "min_rows")
    bar.reset(len(arguments.columns or known))
    return compare(
        reference,
        current,
        policy=arguments.policy,
        columns=arguments.columns,
        numbers=arguments.number,
        categories=arguments.category,
        method=arguments.method,
        methods=arguments.methods,
        drift_share=arguments.drift_share,
        seen=lambda name: bar.update(),
        **{name: value for name in given if (value := getattr(arguments, name)) is not None},
    )


def _told(arguments: argparse.Namespace, found: Comparison) -> int:
    from detectors.contract import Outcome

    if arguments.json:
        print_json({"reference": arguments.reference, "current": arguments.current, **found.to_dict()})
    else:
        _print(found)
    if found.outcome is not Outcome.OK:
        print(f"modelwatch: nothing could be compared: {found.reason}", file=sys.stderr)
        return UNUSABLE
    if arguments.fail_on_unevaluated and found.not_evaluated:
        listed = "; ".join(f"{column.name}: {column.why}" for column in found.not_evaluated[:20])
        print(f"modelwatch: could not be evaluated: {harmless(listed)}", file=sys.stderr)
        return DRIFT
    return DRIFT if arguments.fail_on_drift and found.drift else OK


def _print(found: Comparison) -> None:
    from detectors.report.pages import verdict

    head = ("column", "kind", "method", "value", "p-value", "threshold", "drifted", "reference", "current", "outcome")
    print(table(head, [_line(column) for column in found.columns]))
    print()
    said: dict[str, list[str]] = {}
    for column in found.not_evaluated:
        said.setdefault(f"{column.outcome.value}: {column.why}", []).append(column.name)
    for name, why in found.left_out.items():
        said.setdefault(f"not compared: {why}", []).append(name)
    for why, which in said.items():
        print(harmless(f"{', '.join(which)}: {why}"))
    print(f"{found.rows_reference:,} rows of the reference, {found.rows_current:,} current; policy {found.policy}")
    if (p_value := found.metrics.get("p_value")) is not None:
        print(f"p-value of all columns together: {p_value:.3g} (cannot be below {found.metrics['p_value_floor']:.2g})")
    print(harmless(verdict(found)))


def _line(column: ComparedColumn) -> tuple[str, ...]:
    def short(value: float | None) -> str:
        return "" if value is None else f"{value:.4g}"

    threshold = short(column.threshold)
    threshold = f"p {threshold}" if threshold and column.judges == "p_value" else threshold
    sizes = f"{column.n_reference:,}", f"{column.n_current:,}"
    drifted = "yes" if column.drifted else "no" if column.value is not None else ""
    shown = short(column.value), short(column.p_value), threshold, drifted
    return column.name, column.kind or "", column.method, *shown, *sizes, column.outcome.value


# --- shared with `estimate` ---


def guarded(do: Callable[[], int]) -> int:
    """What `do` returns; or, where what was given cannot be used, that on standard error."""
    from pydantic import ValidationError

    from monitor.errors import ModelwatchError

    try:
        return do()
    except ValidationError as exc:
        # By place, as a choice among types says it twice.
        said = {str(error["loc"][0]) if error["loc"] else "": error for error in exc.errors()}
        problems = []
        for place, error in said.items():
            words = error["msg"].removeprefix("Value error, ")
            problems.append(f"{place}: {words} ({error['input']!r})" if place else words)
    except BrokenPipeError:
        raise
    except (ModelwatchError, OSError, ValueError, TypeError, MemoryError) as exc:
        problems = [str(exc) or type(exc).__name__]
    except KeyboardInterrupt:
        problems = ["interrupted"]
    except Exception as exc:
        import duckdb

        if not isinstance(exc, duckdb.Error):
            raise
        problems = [str(exc).splitlines()[0]]
    for line in problems:
        print(f"modelwatch: {harmless(line)}", file=sys.stderr)
    return UNUSABLE


@contextlib.contextmanager
def progress(unit: str, quiet: bool) -> Iterator[Any]:
    """A bar on the terminal's standard error, which goes when the work is done; nothing elsewhere."""
    from tqdm import tqdm

    with tqdm(total=0, unit=f" {unit}", leave=False, disable=quiet or not sys.stderr.isatty(), file=sys.stderr) as bar:
        yield bar


def write(path: Path, text: str, option: str = "--html") -> None:
    """Whole or not at all. `option` is what asked for it.

    Raises:
        OSError: with the path in its message.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as exc:
        raise OSError(f"{option} {path}: not written ({exc.strerror}); choose another place") from exc


def print_json(found: dict[str, Any]) -> None:
    import orjson

    # Text of strangers may hold lone surrogates, which are no JSON.
    print(orjson.dumps(_encodable(found), option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY).decode())


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_encodable(key): _encodable(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_encodable(one) for one in value]
    return value
