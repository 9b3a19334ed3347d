"""The DuckDB file of the hot tier: its options, and the tables it has.

Set up as measured: storage version v1.5.0 so that a rollback to DuckDB 1.5 stays possible, small row groups and uncompressed
text so that a checkpoint stalls commits for 0.3 s and not for 5, no index.
"""

from __future__ import annotations

import os
import re
from datetime import datetime
from pathlib import Path

import duckdb

from monitor.config import StoreConfig
from monitor.errors import StoreError, StoreLocked, StoreTooNew
from monitor.reader import literal
from monitor.schema import KINDS, create_table
from monitor.schema.state import MIGRATIONS, STATE_DDL, VERSION

NAME = "hot.duckdb"


def connect(root: Path, config: StoreConfig) -> duckdb.DuckDBPyConnection:
    """Open the file as its one owner, making it where there is none.

    Raises:
        StoreLocked: another process has it.
        StoreError: it cannot be opened.
    """
    path = root / NAME
    connection = duckdb.connect(":memory:", config={"memory_limit": config.memory_limit, "threads": threads(config.threads)})
    try:
        connection.execute(f"ATTACH {literal(str(path))} AS hot (STORAGE_VERSION 'v1.5.0', ROW_GROUP_SIZE 8192)")
    except duckdb.Error as exc:
        connection.close()
        if re.search(r"\block\b", str(exc)):  # and not a damaged block
            holder = re.search(r"PID (\d+)", str(exc))
            raise StoreLocked(str(root), int(holder[1]) if holder else None) from exc
        raise StoreError(f"{path}: cannot be opened: {exc}{advice(root, exc)}") from exc
    connection.execute("USE hot")
    connection.execute("SET GLOBAL TimeZone = 'UTC'")
    connection.execute(f"SET GLOBAL checkpoint_threshold = '{config.checkpoint_bytes}B'")
    return connection


def threads(asked: int | None) -> int:
    """Of the engine: as asked for, else one for each two processors, two at most. On two processors a second one is awake most of
    the time, for no work that could not be done without it: commits and answers wait for it."""
    return asked if asked is not None else max(1, min(2, len(os.sched_getaffinity(0)) // 2))


def advice(root: Path, problem: duckdb.Error) -> str:
    """What an operator can do about a file that is there and cannot be read."""
    log = root / f"{NAME}.wal"
    if "wal" in str(problem).lower() and log.exists():
        return (
            f"; nothing was changed. {log.name} holds what was acknowledged since the last checkpoint, and it is damaged: "
            f"restore the folder from a backup, or, to go on without these records, move {log.name} aside and keep it"
        )
    return "; nothing was changed. Check the permissions and the disk; if the file is damaged, restore the folder from a backup"


def migrate(connection: duckdb.DuckDBPyConnection, root: Path, now: datetime) -> None:
    """Bring the tables to this program's version.

    Raises:
        StoreTooNew: a later version wrote the file.
    """
    tables = {
        row[0] for row in connection.execute("SELECT table_name FROM duckdb_tables() WHERE database_name = 'hot'").fetchall()
    }
    if "migrations" not in tables:
        _upgrade(
            connection, VERSION, [*STATE_DDL.strip().split(";\n"), *(create_table(k) for k in KINDS if k != "predictions")], now
        )
        return
    found = connection.execute("SELECT max(version) FROM migrations").fetchall()[0][0]
    if found > VERSION:
        raise StoreTooNew(f"{root}: written by schema version {found}, this program knows {VERSION}; upgrade it")
    for version in range(found + 1, VERSION + 1):
        _upgrade(connection, version, MIGRATIONS[version].strip().split(";\n"), now)


def _upgrade(connection: duckdb.DuckDBPyConnection, version: int, statements: list[str], now: datetime) -> None:
    connection.execute("BEGIN TRANSACTION")
    for statement in statements:
        connection.execute(statement)
    connection.execute("INSERT INTO migrations VALUES (?, ?)", [version, now])
    connection.execute("COMMIT")
