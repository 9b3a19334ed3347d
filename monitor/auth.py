"""Bearer tokens by role, hashed in a file, several valid at once.

A line is `role:sha256-hex`, made by `printf %s TOKEN | sha256sum`; blank lines and lines with # are skipped.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from pathlib import Path

from monitor.errors import ConfigError

ROLES = ("ingest", "query", "admin")


class Tokens:
    """Who may do what. Without a file everybody may, which the config only allows on a loopback address."""

    def __init__(self, path: Path | None) -> None:
        """
        Raises:
            ConfigError: the file cannot be read, or a line of it is wrong.
        """
        self._hashes: dict[str, list[bytes]] | None = None
        if path is not None:
            self._hashes = _read(path)

    def allow(self, role: str, authorization: str | None, *, basic: bool = False) -> bool:
        """Whether the header `Authorization: Bearer TOKEN` carries a token of the role, or of admin.

        `basic`: a token may also come as the password of HTTP Basic (RFC 7617, any user), which is what a browser asks for. It
        then sends it along with links on other people's pages, too, so this is for what only reads.
        """
        if self._hashes is None:
            return True
        scheme, _, token = (authorization or "").partition(" ")
        if basic and scheme.lower() == "basic":
            token = _password(token)
        elif scheme.lower() != "bearer":
            return False
        digest = hashlib.sha256(token.strip().encode()).hexdigest().encode()
        valid = [*self._hashes.get(role, ()), *self._hashes.get("admin", ())]
        # Every hash is compared, so that the time taken says nothing.
        return sum(hmac.compare_digest(digest, one) for one in valid) > 0


def _password(credentials: str) -> str:
    try:
        return base64.b64decode(credentials.strip(), validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _read(path: Path) -> dict[str, list[bytes]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else exc.reason
        raise ConfigError([f"{path}: cannot be read ({why}); create it or correct server.tokens_file"]) from exc
    found: dict[str, list[bytes]] = {}
    problems = []
    for number, line in enumerate(lines, 1):
        role, _, digest = line.strip().partition(":")
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if role not in ROLES or len(digest) != 64 or set(digest.lower()) - set("0123456789abcdef"):
            problems.append(f"{path}: line {number}: not role:sha256-hex; roles are {', '.join(ROLES)}")
            continue
        found.setdefault(role, []).append(digest.lower().encode())
    if problems:
        raise ConfigError(problems)
    return found
