"""Content-Encoding undone, within a limit: 200 KB of gzip can hold 200 MB."""

from __future__ import annotations

import zlib

from monitor.errors import BodyRejected

GZIP, ZLIB, RAW = 31, 15, -15  # zlib's names for the formats
NONE = ("", "identity", "none")


def inflate(body: bytes, encoding: str, limit: int) -> bytes:
    """The bytes meant, at most `limit` of them. `encoding` is the header's value: gzip, deflate, identity or nothing.

    Raises:
        BodyRejected: 413 beyond the limit, 415 for another encoding, 400 where the bytes are damaged.
    """
    name = encoding.strip().lower()
    if name in NONE:
        if len(body) > limit:
            raise _too_large(limit)
        return body
    if name in ("gzip", "x-gzip"):
        return _inflate(body, GZIP, name, limit)
    if name == "deflate":
        # By the standard it is zlib's format; some senders leave zlib's two bytes out.
        zlib_header = len(body) >= 2 and body[0] & 0x0F == 8 and (body[0] << 8 | body[1]) % 31 == 0
        return _inflate(body, ZLIB if zlib_header else RAW, name, limit)
    raise BodyRejected(415, "bad_encoding", f"Content-Encoding: {encoding[:64]!r} is not taken; send gzip, deflate or none")


def _inflate(body: bytes, form: int, name: str, limit: int) -> bytes:
    pieces: list[bytes] = []
    size = 0
    rest = body
    while True:
        inflater = zlib.decompressobj(form)
        try:
            piece = inflater.decompress(rest, limit - size + 1)
        except zlib.error as exc:
            raise BodyRejected(400, "bad_encoding", f"the body is no {name}: {exc}") from exc
        size += len(piece)
        if size > limit:
            # The error keeps this frame until the cycles it is part of are collected: sixty bombs held a gigabyte.
            del piece
            pieces.clear()
            raise _too_large(limit)
        pieces.append(piece)
        if not inflater.eof:
            raise BodyRejected(400, "bad_encoding", f"the {name} body ends before its end; send it again")
        # What gzip wrote in pieces is several members, one after the other.
        rest = inflater.unused_data
        if form != GZIP or not rest.strip(b"\0"):
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _too_large(limit: int) -> BodyRejected:
    return BodyRejected(413, "too_large", f"more than {limit} bytes when inflated, max_body_bytes; send smaller batches")
