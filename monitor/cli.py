"""The command line. Nothing else parses arguments, handles signals or exits."""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import monitor
from monitor import (
    backtest,
    compare,
    configfile,
    estimate,
    evaluate,
    exportdataset,
    log,
    modelscommand,
    outboxcommand,
    reportclient,
    rulescommand,
)
from monitor.allocator import return_large_blocks
from monitor.config import StoreConfig
from monitor.deadletter import letterbox
from monitor.errors import ConfigError, ModelwatchError, StoreError
from monitor.grafana import command as grafana
from monitor.maintenance import command as maintenance
from monitor.notify import READY, STOPPING, notify, reloading

STOP_SECONDS = 20.0
WATCH_SECONDS = 1.0  # so often it is looked whether the writer lives
KINDS = ("predictions", "labels", "generations", "contexts", "feedback", "deployments")  # a test holds it to records.KINDS


def main(argv: Sequence[str] | None = None) -> None:
    arguments = _parser().parse_args(argv)
    try:
        code = arguments.do(arguments)
    except ConfigError as exc:
        code = _complain(*exc.problems)
    except ModelwatchError as exc:
        code = _complain(str(exc))
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="modelwatch", description=monitor.__doc__)
    parser.add_argument("--version", action="version", version=f"modelwatch {monitor.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="run the daemon")
    run.add_argument("config", type=Path)
    run.set_defaults(do=_run)
    check = commands.add_parser("check-config", help="check a config file and exit")
    check.add_argument("config", type=Path)
    check.set_defaults(do=_check)
    init = commands.add_parser("init", help="print a commented config to start from")
    init.add_argument("file", type=Path, nargs="?", help="write it here instead; an existing file is left alone")
    init.set_defaults(do=_init)
    sql = commands.add_parser("sql", help="ask the store, while the daemon runs")
    sql.add_argument("query", help="a SELECT over the views; try: SHOW TABLES")
    sql.add_argument("--store", type=Path, default=None, help="the store's folder (default: store.path of --config)")
    sql.add_argument("--config", type=Path, default=None, help="a config file that says where the store is")
    sql.add_argument("--format", choices=("table", "json", "csv"), default="table")
    sql.set_defaults(do=_sql)
    ingest = commands.add_parser("ingest", help="send files of the past to the running daemon; again, after an interruption")
    ingest.add_argument("files", nargs="+", metavar="FILE", help=".jsonl, .csv or .parquet, also .gz; - is stdin")
    ingest.add_argument("--kind", choices=KINDS, required=True)
    ingest.add_argument("--model", default=None, help="for records that name none")
    ingest.add_argument("--columns", default="", help="FIELD=COLUMN,... with features=A+B or features=rest; or the same as JSON")
    ingest.add_argument("--text-columns", default="", help="A,B: text although they look like numbers")
    ingest.add_argument("--timezone", default=None, help="of times that have none, like UTC or Europe/Oslo")
    ingest.add_argument("--format", choices=("jsonl", "csv", "parquet", "sagemaker"), default=None, help="default: by the name")
    ingest.add_argument("--server", default=None, help="the push API, such as http://127.0.0.1:9710 (default: as in --config)")
    ingest.add_argument("--url", dest="server", default=None, help=argparse.SUPPRESS)  # its name in earlier versions
    ingest.add_argument("--config", type=Path, default=None, help="a config file that says where the daemon listens")
    ingest.add_argument("--token-file", type=Path, default=None, help="holds a token of the role ingest (or: MODELWATCH_TOKEN)")
    ingest.add_argument("--ca-file", type=Path, default=None, help="who may have signed the daemon's certificate")
    ingest.set_defaults(do=_ingest)
    letterbox.add_to(commands)
    maintenance.add_to(commands)
    grafana.add_to(commands)
    reportclient.add_to(commands)
    exportdataset.add_to(commands)
    outboxcommand.add_to(commands)
    evaluate.add_to(commands)
    modelscommand.add_to(commands)
    compare.add_to(commands)
    estimate.add_to(commands)
    backtest.add_to(commands)
    rulescommand.add_to(commands)
    return parser


def _complain(*lines: str) -> int:
    for line in lines:
        print(f"modelwatch: {line}", file=sys.stderr)
    return 1


def _check(arguments: argparse.Namespace) -> int:
    from monitor import external, thresholds  # imports more than the other commands need
    from monitor.budgets.config import lines as budgeted
    from monitor.judging import forecast

    found = configfile.load(arguments.config)
    for line in (*thresholds.warnings(found), *external.warnings(found)):
        print(f"modelwatch: {arguments.config}: warning: {line}", file=sys.stderr)
    for line in (*forecast.lines(found), *budgeted(found.budgets)):
        print(f"{arguments.config}: {line}")
    if found.checks:
        print(f"how often each would have fired: modelwatch backtest --config {arguments.config} --check NAME --from TIME")
    print(f"{arguments.config}: ok, {len(found.models)} models, {len(found.checks)} checks, {len(found.sources)} sources")
    return 0


def _init(arguments: argparse.Namespace) -> int:
    text = (Path(__file__).parent / "starter.yaml").read_text(encoding="utf-8")
    if arguments.file is None:
        print(text, end="")
        return 0
    try:
        with arguments.file.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as exc:
        return _complain(f"{arguments.file}: not written ({exc.strerror}); choose another name")
    print(f"{arguments.file}: written; edit it, then: modelwatch check-config {arguments.file}")
    return 0


def _run(arguments: argparse.Namespace) -> int:
    from monitor.app import App  # only the daemon needs what this imports

    log.configure()
    return_large_blocks()
    app = App(arguments.config)
    log.configure(app.config.log_level)
    open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    signals = Signals()
    try:
        app.start()
    except OSError as exc:
        return _complain(str(exc))
    # What is there by now stays: else a search for cycles among it stops all threads for 0.1 s, every half minute under load.
    gc.collect()
    gc.freeze()
    notify(READY)
    while not (broken := app.store.broken) and (sent := signals.wait(WATCH_SECONDS)) in (set(), {signal.SIGHUP}):
        if sent:
            notify(reloading())
            app.reload()
            notify(READY)
    if broken:  # nothing is taken any more: whoever started the daemon has to hear of it, and starts it again
        log.error("the daemon ends: only a restart can mend it", problem=broken)
    notify(STOPPING)
    gc.unfreeze()  # what is never collected nanobind, at the exit, calls leaked
    log.info("stopping")
    # What cannot stop in time must not keep the service manager waiting: everything acknowledged is on disk already.
    deadline = threading.Timer(STOP_SECONDS, lambda: os._exit(1))
    deadline.daemon = True
    deadline.start()
    app.stop()
    log.info("stopped")
    return 1 if broken else 0


def open_files(most: int) -> None:
    """Allow this process so many open files. The soft limit is 1,024 nearly everywhere, for programs that use select(); each
    larger index of a segment and each file that a query reads is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and (soft < most or most == resource.RLIM_INFINITY):
        with contextlib.suppress(ValueError, OSError):  # some systems allow less than they say
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


class Signals:
    """Says what was sent to the process, from now on.

    A lock of `threading` is no way to wait for that: the handler may interrupt its owner, or run in the moment between the look
    and the wait. A byte in a socket stays there.
    """

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._sent: set[int] = set()
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda number, frame: self._sent.add(number))

    def wait(self, seconds: float | None = None) -> set[int]:
        """All that came since the last call, once there is any; nothing after so many seconds without."""
        self._reader.settimeout(seconds)
        with contextlib.suppress(TimeoutError):
            self._sent.update(self._reader.recv(4096))  # the bytes are the numbers; of a flood the handler knows the rest
        sent, self._sent = self._sent, set()
        return sent


def _sql(arguments: argparse.Namespace) -> int:
    import duckdb

    from monitor import auditsql

    if arguments.store is not None:
        store = arguments.store
    elif arguments.config is not None:
        store = configfile.load(arguments.config).store.path
    else:
        store = StoreConfig().path
    try:
        auditsql.ask(store, arguments.query, arguments.format, sys.stdout)
    except (duckdb.Error, StoreError) as exc:
        return _complain(str(exc))
    return 0


def _ingest(arguments: argparse.Namespace) -> int:
    import ssl

    import httpx
    from pydantic import ValidationError

    from monitor.config import Server
    from monitor.deadletter.adminclient import token, url_of
    from monitor.ingest import Ingest
    from monitor.sources.mapping import Columns

    try:
        given = _columns(arguments.columns)
        texts = [name for name in arguments.text_columns.split(",") if name]
        columns = Columns.model_validate({"columns": given, "text_columns": texts, "timezone": arguments.timezone})
        if problem := columns.problem(arguments.kind):
            return _complain(f"--{problem}")
        server = configfile.load(arguments.config).server if arguments.config else Server()
        authority = arguments.ca_file or (server.tls.cert_file if server.tls else None)
        bearer = token(arguments.token_file)
        verify: ssl.SSLContext | bool = ssl.create_default_context(cafile=authority) if authority else True
    except ValidationError as exc:
        return _complain(*(f"--{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in exc.errors()))
    except (OSError, ValueError) as exc:
        return _complain(str(exc))
    headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
    with httpx.Client(base_url=arguments.server or url_of(server), headers=headers, verify=verify, timeout=60) as client:
        ingest = Ingest(client, arguments.kind, model=arguments.model)
        progress = sys.stderr if sys.stderr.isatty() else None
        try:
            for file in arguments.files:
                ingest.file(file, sys.stdin.buffer, columns, arguments.format, progress)
        except (OSError, ModelwatchError) as exc:
            return _complain(str(exc), f"so far {ingest.summary}; run it again to go on")
        except KeyboardInterrupt:
            return _complain("interrupted", f"so far {ingest.summary}; run it again to go on")
    for line in ingest.summary.errors:
        print(f"modelwatch: {line}", file=sys.stderr)
    print(ingest.summary)
    return 1 if ingest.summary.rejected else 0


def _columns(text: str) -> dict[str, object]:
    """
    Raises:
        ValueError: it is neither FIELD=COLUMN,... nor a JSON object.
    """
    if text.startswith("{"):
        import json

        return dict(json.loads(text))
    found: dict[str, object] = {}
    for one in filter(None, text.split(",")):
        field, given, column = one.partition("=")
        if not given:
            raise ValueError(f"--columns: {one!r} is not FIELD=COLUMN")
        found[field] = column.split("+") if field == "features" and column != "rest" else column
    return found
