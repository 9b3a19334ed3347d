"""`modelwatch backtest`: how often would this check have fired? It replays the past from the store, beside a running daemon or
without one, and writes nothing there."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monitor.compare import OK, UNUSABLE, guarded, print_json, progress, write

if TYPE_CHECKING:
    from monitor.config import Check, Config, Threshold

STOPPED = 3
ALPHAS = (0.05, 0.01, 0.001)
LEAST_MEMORY_MB, MOST_MEMORY_MB = 128, 4_096

ABOUT = """\
Windows are read, calibrated and judged as the daemon does it, so that what it has said is said again; each is measured once, for
all thresholds. THRESHOLD is as in the config: upper=0.2  lower=0.1,upper=0.3  kind=std,upper=3  kind=calibrated,alpha=0.001
Calibrated thresholds are tried at 0.05, 0.01 and 0.001 anyway, where the check has p-values.
Exit codes: 0; 2 when nothing could be replayed, or what was given cannot be used; 3 when time was over before the end."""


def add_to(commands: Any) -> None:
    """The arguments of the command. `commands`: what `add_subparsers` gives."""
    parser = commands.add_parser(
        "backtest",
        help="replay a check on the past: how often would it have fired?",
        description=__doc__,
        epilog=ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, required=True, help="says where the store is, and what the check is")
    parser.add_argument("--check", required=True, metavar="NAME", help="of a check in the config, or in --check-file")
    parser.add_argument("--from", dest="start", required=True, metavar="TIME", help="such as 2026-03-01 or 2026-03-01T06:00:00Z")
    parser.add_argument("--to", dest="end", default=None, metavar="TIME", help="default: now")
    parser.add_argument(
        "--check-file", type=Path, metavar="FILE", help="YAML of a check that is not in the config, or not so yet"
    )
    parser.add_argument(
        "--threshold", action="append", default=[], metavar="THRESHOLD", help="to be tried as well; may be repeated"
    )
    parser.add_argument(
        "--alpha", type=float, action="append", metavar="A", help="calibrated: how often a slot may fire by chance"
    )
    parser.add_argument("--budget", type=float, action="append", default=[], metavar="N", help="calibrated: false alarms a month")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write a row for each window")
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="FILE", help="all of it as JSON, in place of the table or into FILE"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write a plot: .svg, or .html with the tables")
    parser.add_argument("--max-seconds", type=float, metavar="S", help="then say what is known by then (default: no limit)")
    parser.add_argument("--max-memory", type=int, default=MOST_MEMORY_MB, metavar="MB", help="default: %(default)s")
    parser.add_argument("--quiet", action="store_true", help="no progress on the terminal")
    parser.set_defaults(do=run)


def run(arguments: argparse.Namespace) -> int:
    return guarded(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    import duckdb

    from monitor import backtestreport as report
    from monitor import backtestrules, configfile
    from monitor.backtestreader import Shown
    from monitor.backtestrun import replay
    from monitor.limits import limited

    now = datetime.now(UTC)
    start, end = when("--from", arguments.start), when("--to", arguments.end) if arguments.end else now
    if start >= now:
        raise ValueError(f"--from {arguments.start} lies in the future; nothing has happened there yet")
    if start >= end:
        raise ValueError(f"--from {arguments.start} is not before --to {arguments.end or 'now'}")
    if arguments.max_memory < LEAST_MEMORY_MB:
        raise ValueError(f"--max-memory {arguments.max_memory}: give at least {LEAST_MEMORY_MB} MB")
    if arguments.plot is not None and arguments.plot.suffix.lower() not in (".svg", ".html", ".htm"):
        raise ValueError(f"--plot {arguments.plot}: a plot is written as .svg or .html; name such a file")
    config = configfile.load(arguments.config, checks=() if arguments.check_file is None else written(arguments.check_file))
    check = named(config, arguments.check)
    given = [threshold(one) for one in arguments.threshold]
    alphas = ALPHAS if arguments.alpha is None else tuple(arguments.alpha)
    tried = backtestrules.rules(config, check, given, alphas, arguments.budget)
    memory = arguments.max_memory * 2**20
    with tempfile.TemporaryDirectory(prefix="modelwatch-") as folder, progress("windows", arguments.quiet) as bar:

        def seen(done: int, of: int) -> None:
            bar.total = of
            bar.update(done - bar.n)

        try:
            with limited(None, memory):
                shown = Shown(config.store.path, Path(folder), memory_bytes=memory // 2)
                found = replay(
                    shown, config, check, tried, start, end,
                    scratch=Path(folder), now=now, monotonic=time.monotonic, seconds=arguments.max_seconds, seen=seen,
                )  # fmt: skip
                shown.close()
        except (MemoryError, duckdb.OutOfMemoryException):
            raise MemoryError(
                f"more than {arguments.max_memory} MB of memory are needed; give --max-memory, or shorter references and windows"
            ) from None
        bar.close()
    if arguments.alpha is None:  # of levels that nobody asked for, where the check has no p-values, one says so
        unasked = {f"calibrated, alpha {alpha:g}" for alpha in ALPHAS[1:]}
        found.trials = [one for one in found.trials if one.evaluable or one.rule.name not in unasked]
    if arguments.csv is not None:
        write(arguments.csv, report.as_csv(found), "--csv")
    if arguments.plot is not None:
        write(arguments.plot, report.write_plot(arguments.plot, found), "--plot")
    if arguments.json == "-":
        print_json(report.plain(found))
    else:
        if arguments.json is not None:
            import orjson

            text = orjson.dumps(report.plain(found), option=orjson.OPT_INDENT_2).decode() + "\n"
            write(Path(arguments.json), text, "--json")
        print(report.told(found))
    if not any(one.evaluable for one in found.trials):
        print("modelwatch: no window could be judged; the table says why", file=sys.stderr)
        return UNUSABLE
    return STOPPED if found.stopped is not None else OK


def when(option: str, text: str) -> datetime:
    """
    Raises:
        ValueError: it is no time.
    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{option} {text!r} is no time; give one as 2026-03-01 or 2026-03-01T06:00:00Z") from None
    if not 1970 <= found.year < 9999:
        raise ValueError(f"{option} {text!r} is of no record; give a year from 1970 on")
    return found.astimezone(UTC) if found.tzinfo is not None else found.replace(tzinfo=UTC)


def written(path: Path) -> list[dict[str, Any]]:
    """The checks of a file: one, a list of them, or a mapping with `checks`.

    Raises:
        ValueError: it holds no check.
        OSError: it cannot be read.
    """
    import yaml

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as exc:
        raise ValueError(f"{path}: is no YAML: {' '.join(str(exc).split())}") from exc
    found = found.get("checks", [found]) if isinstance(found, dict) else found
    if not isinstance(found, list) or not found or not all(isinstance(one, dict) and "name" in one for one in found):
        raise ValueError(f"{path}: holds no check with a name; write one as it stands under checks in a config")
    return found


def named(config: Config, name: str) -> Check:
    """
    Raises:
        ValueError: there is none.
    """
    for one in config.checks:
        if one.name == name:
            return one
    known = ", ".join(sorted(one.name for one in config.checks)) or "none"
    raise ValueError(f"--check {name!r} is not in the config; there are: {known}. Or give it with --check-file")


def threshold(text: str) -> Threshold:
    """
    Raises:
        ValueError: it is no threshold.
    """
    from pydantic import ValidationError

    from monitor.config import Threshold

    pairs = [one.partition("=") for one in text.split(",") if one.strip()]
    if not pairs or any(not sign for _, sign, _ in pairs):
        raise ValueError(f"--threshold {text!r}: write KEY=VALUE,... as upper=0.2 or kind=calibrated,alpha=0.001")
    try:
        return Threshold.model_validate({key.strip(): value.strip() for key, _, value in pairs})
    except ValidationError as exc:
        said = "; ".join(f"{'.'.join(map(str, e['loc']))} {e['msg'].removeprefix('Value error, ')}".strip() for e in exc.errors())
        raise ValueError(f"--threshold {text!r}: {said}") from exc
