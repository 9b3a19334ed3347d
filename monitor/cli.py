"""The command line. Nothing else parses arguments, handles signals or exits."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import monitor
from monitor import configfile, letterbox, log
from monitor.config import StoreConfig
from monitor.errors import ConfigError, ModelwatchError, StoreError

STOP_SECONDS = 20.0


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
    letterbox.add_to(commands)
    return parser


def _complain(*lines: str) -> int:
    for line in lines:
        print(f"modelwatch: {line}", file=sys.stderr)
    return 1


def _check(arguments: argparse.Namespace) -> int:
    found = configfile.load(arguments.config)
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
    app = App(arguments.config)
    log.configure(app.config.log_level)
    signals = Signals()
    try:
        app.start()
    except OSError as exc:
        return _complain(str(exc))
    while signals.wait() == {signal.SIGHUP}:
        app.reload()
    log.info("stopping")
    # What cannot stop in time must not keep the service manager waiting: everything acknowledged is on disk already.
    deadline = threading.Timer(STOP_SECONDS, lambda: os._exit(1))
    deadline.daemon = True
    deadline.start()
    app.stop()
    log.info("stopped")
    return 0


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

    def wait(self) -> set[int]:
        """All that came since the last call, once there is any."""
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
