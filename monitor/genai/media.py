"""Parts of a message that are not text: what is kept of an image, a sound or a file, and how their bytes stay out of texts.

The bytes themselves are never kept: type, size, SHA-256 and where it lies say whether it is the same picture again. Who wants
to compare pictures by content sends a vector along (`vector` in the part), made on their side.
"""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

MAX_DEPTH = 32
MAX_VECTOR = 4096

DATA_URI = re.compile(r"data:([\w.+-]+/[\w.+-]+)?((?:;[\w.+=-]+)*);base64,([A-Za-z0-9+/_=\s-]*)")
# Bytes without a data URI are known by how files begin: PNG, JPEG, GIF, PDF, RIFF (WAV, WebP), MP3, Ogg, ZIP, MP4. A long word of
# letters and digits alone proves nothing: keys and random prompts look the same.
NAKED = re.compile(
    r"(?:iVBORw0KGgo|/9j/[24]|R0lGOD[dl]h|JVBERi0|UklGR|SUQz|T2dnUw|UEsDB|AAAA[A-Za-z0-9+/]{4}Z0eX)[A-Za-z0-9+/]{160,}={0,2}"
)

_ROW = b"a" * 160
_SHAPE = bytes(97 if i < 128 and (chr(i).isalnum() or chr(i) in "+/") else 32 for i in range(256))
"""Each byte as one of base64 or something else: whether `_ROW` stands among them costs a fraction of trying the pattern."""

MODALITIES = ("image", "audio", "video")


def modality(kind: str | None, mime_type: str | None) -> str:
    """image, audio, video or file."""
    for text in (kind, mime_type):
        if text:
            for name in MODALITIES:
                if name in text:
                    return name
    return "file"


def part(kind: str | None, mime_type: Any = None, data: Any = None, uri: Any = None, vector: Any = None) -> dict[str, Any]:
    """The canonical part {type, mime_type, size, sha256, uri, vector}; only what is known. `data` is base64 or a data URI."""
    mime = mime_type if isinstance(mime_type, str) else None
    size: int | None = None
    digest: str | None = None
    address = uri if isinstance(uri, str) else None
    for text in (address, data):
        if isinstance(text, str) and (found := DATA_URI.match(text)):
            mime = found[1] or mime
            size, digest = measured(found[3])
            if text is address:
                address = None
    if size is None and isinstance(data, str) and data:
        size, digest = measured(data)
    out: dict[str, Any] = {"type": modality(kind, mime)}
    if mime:
        out["mime_type"] = mime
    if size is not None:
        out["size"] = size
        out["sha256"] = digest
    if address:
        out["uri"] = lean_text(address)
    if numbers := _vector(vector):
        out["vector"] = numbers
    return out


def measured(base64: str) -> tuple[int | None, str | None]:
    """Bytes and SHA-256 of what a base64 text stands for; the text itself where it was cut short."""
    try:
        content = b64decode("".join(base64.split()), altchars=b"-_" if "-" in base64 or "_" in base64 else None, validate=True)
    except (Error, ValueError):
        return (None, None) if not base64 else (len(base64) * 3 // 4, None)
    return len(content), sha256(content).hexdigest()


def lean_text(text: str) -> str:
    """The text without the bytes of files: `[image/png 70 bytes sha256:ab12...]` stands in their place."""
    if "base64," in text:
        text = DATA_URI.sub(lambda m: _stub(m[1], m[3]), text)
    if len(text) > 160 and _ROW in text.encode(errors="replace").translate(_SHAPE):
        text = NAKED.sub(lambda m: _stub(None, m[0]), text)
    return text


def lean(value: Any, depth: int = 0) -> Any:
    """The same for every text in a value; the value itself where there is nothing to take out. Beyond 32 levels: null."""
    if isinstance(value, str):
        return lean_text(value) if len(value) > 32 else value
    if isinstance(value, (bytes, bytearray)):
        return _stub(None, None, bytes(value))
    if depth >= MAX_DEPTH:
        return None
    if isinstance(value, Mapping):
        return {str(k): lean(v, depth + 1) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [lean(v, depth + 1) for v in value]
    return value


def _stub(mime_type: str | None, base64: str | None, content: bytes | None = None) -> str:
    if content is not None:
        size, digest = len(content), sha256(content).hexdigest()
    else:
        found = measured(base64 or "")
        size, digest = found[0] or 0, found[1] or ""
    return f"[{mime_type or 'file'} {size} bytes{' sha256:' + digest if digest else ''}]"


def _vector(value: Any) -> list[float] | None:
    if not isinstance(value, (list, tuple)) or not 0 < len(value) <= MAX_VECTOR:
        return None
    numbers = [float(x) for x in value if isinstance(x, (int, float)) and not isinstance(x, bool) and abs(x) < 1e38]
    return numbers if len(numbers) == len(value) else None
