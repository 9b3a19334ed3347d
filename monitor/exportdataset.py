"""`modelwatch export-dataset`: the records of an incident as a data set to fine-tune on or to test against."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from monitor import configfile
from monitor.config import StoreConfig
from monitor.errors import ModelwatchError

LIMIT = 10_000
FORMATS = ("jsonl", "parquet")


class DatasetError(ModelwatchError):
    """There is nothing to write, or it cannot be written. The message says why and what to do."""


def add_to(commands: Any) -> None:
    """The arguments of the command. `commands`: what `add_subparsers` gives."""
    parser = commands.add_parser("export-dataset", help="the records of an incident, to fine-tune on or to test against")
    parser.add_argument("incident", metavar="INCIDENT", help="its id: modelwatch sql 'SELECT incident_id FROM incidents'")
    parser.add_argument("--format", choices=FORMATS, default="jsonl")
    parser.add_argument(
        "--out", type=Path, default=None, help="write it here (default: INCIDENT.jsonl), FILE.manifest.json beside"
    )
    parser.add_argument("--limit", type=int, default=LIMIT, help=f"at most so many records of the incident (default: {LIMIT})")
    parser.add_argument("--baseline", type=int, default=0, help="and so many of before it")
    parser.add_argument("--force", action="store_true", help="write over a file that is there")
    parser.add_argument("--store", type=Path, default=None, help="the store's folder (default: store.path of --config)")
    parser.add_argument("--config", type=Path, default=None, help="a config file that says where the store is")
    parser.set_defaults(do=_run)


def _run(arguments: argparse.Namespace) -> int:
    from monitor import datasetfile  # imports more than the other commands need

    store = arguments.store
    if store is None:
        store = configfile.store_path(arguments.config) if arguments.config is not None else StoreConfig().path
    if arguments.limit < 1 or arguments.baseline < 0:
        raise DatasetError(f"--limit {arguments.limit} --baseline {arguments.baseline}: give at least 1 and 0")
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", arguments.incident)
    out = (arguments.out or Path(f"{name}.{arguments.format}")).resolve()  # before the process's folder is another
    manifest = datasetfile.export(
        store,
        arguments.incident,
        out,
        form=arguments.format,
        limit=arguments.limit,
        baseline=arguments.baseline,
        force=arguments.force,
    )
    there = f", of {manifest['records_there']:,}" if manifest["records"] < manifest["records_there"] else ""
    print(f"{out}: {manifest['records']:,} records{there}, {manifest['baseline']:,} of before; {beside(out).name} beside it")
    if manifest["records"] < manifest["records_there"]:
        print(f"modelwatch: {manifest['records_there']:,} records; --limit {arguments.limit} left some out", file=sys.stderr)
    return 0


def beside(out: Path) -> Path:
    """The manifest of a data set."""
    return out.with_name(out.name + ".manifest.json")
