"""Files of records, read row by row: JSON lines, CSV, Parquet, SageMaker data capture; plain or gzip."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import closing
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, Literal, cast

from monitor.cloudevents.inference import NoInference, cell
from monitor.decode import decode_lines
from monitor.records import Reject
from monitor.sources.mapping import Columns, plain
from monitor.sources.sagemaker import predictions

Format = Literal["jsonl", "csv", "parquet", "sagemaker"]

SUFFIXES: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
}
MAX_LINE_BYTES = 16 * 2**20  # longer is no record: its beginning goes to the dead letter
SAMPLE_ROWS = 1000  # by which the columns of CSV are taken for numbers or text
PARQUET_ROWS = 1000
KEPT_CHARACTERS = 64 * 2**10


class Unreadable(Exception):
    """The file as a whole, or from some row on, cannot be read. Reading it again cannot help."""


def format_of(name: str) -> Format | None:
    """By the name's suffix, .gz left out."""
    return SUFFIXES.get(Path(name.removesuffix(".gz")).suffix.lower())


def read(file: IO[bytes], name: str, form: Format, kind: str, columns: Columns, *, skip: int = 0) -> Iterator[Any]:
    """Records of a file opened for reading, from the `skip`-th on; a `Reject` stands where a row is none.

    Equal files give equal rows, so that `skip` finds where an earlier reading stopped.

    Raises:
        Unreadable: from that row on.
        OSError: try again later.
    """
    try:
        source = cast(IO[bytes], gzip.GzipFile(fileobj=file)) if name.endswith(".gz") else file
        if form == "parquet":
            yield from _parquet(source, kind, columns, skip)
        else:
            rows = {"jsonl": _json_rows, "sagemaker": _captures, "csv": _csv_rows}[form](source, name, kind, columns)
            yield from islice(rows, skip, None)
    except (EOFError, gzip.BadGzipFile, zlib.error) as exc:
        raise Unreadable(f"the compressed file is damaged: {exc}") from exc


def _lines(file: IO[bytes]) -> Iterator[bytes | Reject]:
    first = True
    while line := file.readline(MAX_LINE_BYTES):
        if first and b"\0" in line[:4096]:
            raise Unreadable("zero bytes in the first line: this is no text")
        first = False
        size = len(line)
        if size == MAX_LINE_BYTES and not line.endswith(b"\n"):
            while (more := file.readline(MAX_LINE_BYTES)) and not more.endswith(b"\n"):
                size += len(more)
            message = f"a line of {size + len(more)} bytes; {MAX_LINE_BYTES} is the limit"
            yield Reject(0, "too_large", message, None, line[:KEPT_CHARACTERS].decode(errors="replace"), size)
        elif line.strip():
            yield line


def _json_rows(file: IO[bytes], name: str, kind: str, columns: Columns) -> Iterator[Any]:
    for line in _lines(file):
        for item in [line] if isinstance(line, Reject) else decode_lines(line):
            yield columns.record(item, kind, table=False) if isinstance(item, dict) else item


def _captures(file: IO[bytes], name: str, kind: str, columns: Columns) -> Iterator[Any]:
    for line in _lines(file):
        for item in [line] if isinstance(line, Reject) else decode_lines(line):
            if isinstance(item, Reject):
                yield item
                continue
            try:
                yield from predictions(item, columns)
            except NoInference as exc:
                yield Reject(0, "undecodable", str(exc), None, item)


def _csv_rows(file: IO[bytes], name: str, kind: str, columns: Columns) -> Iterator[Any]:
    csv.field_size_limit(MAX_LINE_BYTES)
    # Bytes that are not UTF-8 become lone surrogates, which mark the record they stand in.
    text = io.TextIOWrapper(cast(Any, file), encoding="utf-8-sig", errors="surrogateescape", newline="")
    rows = csv.reader(text, delimiter="\t" if ".tsv" in name.lower() else ",", strict=True)
    try:
        header = next(rows, None)
        if header is None:
            return
        if any("\0" in name for name in header):
            raise Unreadable("zero bytes in the first line: this is no text")
        if len(set(header)) < len(header) or not all(h.strip() for h in header):
            raise Unreadable(f"the first line is no header: a name is empty or stands twice: {','.join(header)[:200]}")
        body = _csv_body(rows, header)
        sample = list(islice(body, SAMPLE_ROWS))
        good = [row for row in sample if not isinstance(row, Reject)]
        numbers = {
            name
            for i, name in enumerate(header)
            if not columns.as_text(name) and all(not isinstance(cell(row[i].strip()), str) for row in good)
        }
        for row in chain(sample, body):
            if isinstance(row, Reject):
                yield row
                continue
            values = {
                name: cell(value.strip()) if name in numbers else _text(value) for name, value in zip(header, row, strict=True)
            }
            yield columns.record(values, kind, table=True)
    except csv.Error as exc:
        raise Unreadable(f"line {rows.line_num}: {exc}") from exc
    finally:
        text.detach()


def _csv_body(rows: Any, header: list[str]) -> Iterator[list[str] | Reject]:
    for row in rows:
        if not row:
            continue
        if len(row) != len(header):
            message = f"line {rows.line_num}: {len(row)} cells under {len(header)} names"
            yield Reject(0, "undecodable", message, None, ",".join(row)[:KEPT_CHARACTERS])
            continue
        joined = "".join(row)
        if not joined.isascii():
            try:
                joined.encode()
            except UnicodeEncodeError:
                message = f"line {rows.line_num}: bytes that are not UTF-8; write the file as UTF-8"
                yield Reject(0, "invalid_utf8", message, None, ",".join(row)[:KEPT_CHARACTERS].encode(errors="replace").decode())
                continue
        yield row


def _text(value: str) -> str | None:
    return value or None


def _parquet(file: IO[bytes], kind: str, columns: Columns, skip: int) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with closing(pq.ParquetFile(file)) as opened:
            groups: list[int] = []
            for i in range(opened.num_row_groups):  # those before the place are not even read
                size = opened.metadata.row_group(i).num_rows
                if skip >= size and not groups:
                    skip -= size
                else:
                    groups.append(i)
            for batch in opened.iter_batches(PARQUET_ROWS, row_groups=groups) if groups else ():
                rows = batch.to_pylist()
                for row in rows[skip:]:
                    yield columns.record(plain(row), kind, table=True)
                skip = max(0, skip - len(rows))
    except (pa.ArrowException, OSError) as exc:
        if isinstance(exc, OSError) and exc.errno is not None:
            raise
        raise Unreadable(f"no Parquet, or a damaged file: {exc}") from exc
