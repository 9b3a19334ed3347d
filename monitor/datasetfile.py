"""A data set of an incident, with a manifest beside it. Reads `audit.duckdb`, with or without a daemon; the same store gives the
same bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from monitor import auditsql
from monitor.arrays import rows
from monitor.datasetrows import Dataset, Incident
from monitor.errors import StoreError
from monitor.exportdataset import LIMIT, DatasetError, beside
from monitor.past import LATEST


def export(
    store: Path, incident_id: str, out: Path, *, form: str = "jsonl", limit: int = LIMIT, baseline: int = 0, force: bool = False
) -> dict[str, Any]:
    """Write data set and manifest; what the manifest says. Changes the process's folder to the store's.

    Raises:
        DatasetError: there is no such incident, it has no records, or a file cannot be written.
        StoreError: there is no store, or it cannot be read.
    """
    for path in (out, beside(out)):
        if path.exists() and not force:
            raise DatasetError(f"{path}: is there already; name another file with --out, or say --force")
    try:
        with auditsql.connect(store) as connection:
            incident = _incident(connection, incident_id)
            dataset = Dataset(connection, incident)
            ids, there = dataset.ids(limit)
            if not ids:
                raise DatasetError(f"{incident_id}: its records are not in the store any more; {dataset.sql}")
            before = dataset.baseline(baseline)
            found = [*dataset.rows(ids, "incident"), *dataset.rows(before, "baseline")]
    except duckdb.Error as exc:
        raise StoreError(f"{store}: cannot be read: {exc}") from exc
    data = _jsonl(found) if form == "jsonl" else _parquet(found)
    manifest = {
        "incident_id": incident_id,
        **{key: incident.row[key] for key in ("model", "check_name", "slice", "severity", "state")},
        "opened": incident.row["opened_slot"].isoformat(),
        "statistic": incident.evidence.get("statistic"),
        "value": incident.evidence.get("value"),
        "threshold": incident.evidence.get("threshold"),
        "kind": "tabular" if dataset.tabular else "chat",
        "format": form,
        "file": out.name,
        "records": len(ids),
        "records_there": there,
        "baseline": len(before),
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "sql": dataset.sql,
    }
    _write(out, data)
    _write(beside(out), orjson.dumps(manifest, option=orjson.OPT_INDENT_2) + b"\n")
    return manifest


def _incident(connection: duckdb.DuckDBPyConnection, incident_id: str) -> Incident:
    sql = f"SELECT * FROM incidents WHERE incident_id = ? {LATEST.format('incident_id')}"
    found = rows(connection.sql(sql, params=[incident_id]).to_arrow_table())
    if not found:
        raise DatasetError(
            f"no incident {incident_id!r:.80}; modelwatch sql 'SELECT incident_id FROM incidents' has them all, some seconds old"
        )
    return Incident(found[0], orjson.loads(found[0]["evidence"]))


def _jsonl(found: Sequence[dict[str, Any]]) -> bytes:
    return b"".join(orjson.dumps(row, default=str) + b"\n" for row in found)


def _parquet(found: Sequence[dict[str, Any]]) -> bytes:
    """Features are columns of their own, `messages` a list of {role, content}; what has no fixed form is JSON."""
    flat = []
    for row in found:
        row = dict(row)
        features = row.pop("features", None) or {}
        for name in ("contexts", "scores", "feedback", "metadata", "expected"):
            if name in row:
                value = row[name]
                row[name] = value if value is None or isinstance(value, str) else orjson.dumps(value, default=str).decode()
        for name in ("prediction", "label"):  # numbers and classes in one column are text
            if name in row and any(isinstance(other[name], str) for other in found):
                row[name] = None if row[name] is None else str(row[name])
        flat.append({**row, **{f"feature.{name}": value for name, value in features.items()}})
    names = list(dict.fromkeys(name for row in flat for name in row))
    table = pa.table({name: pa.array([row.get(name) for row in flat]) for name in names})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _write(path: Path, data: bytes) -> None:
    """Whole, or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_bytes(data)
        temporary.rename(path)
    except OSError as exc:
        temporary.unlink(missing_ok=True)
        raise DatasetError(f"{path}: cannot be written ({exc.strerror}); name another file with --out") from exc
