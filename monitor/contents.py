"""What is in the files that settings name: another checkpoint under the same path makes other scores, which need another hash."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from pydantic import ValidationError

from detectors.contract import DetectorConfig
from monitor.models import MANIFEST, Manifest, tree_hash
from monitor.models import File as Hashed


def with_files_hash(settings: DetectorConfig) -> DetectorConfig:
    """The settings, with the hash of the files and folders that they name. Paths must be absolute by now.

    Raises:
        OSError: one cannot be read.
    """
    paths = {key: value for key, value in settings if isinstance(value, Path)}
    if not paths:
        return settings
    told = "".join(f"{key} {_digest(path)}\n" for key, path in sorted(paths.items()))
    return settings.of_files(hashlib.sha256(told.encode()).hexdigest())


def _digest(path: Path) -> str:
    if path.is_file():
        return _file(path)
    if (path / MANIFEST).is_file():  # placed: its hash is known, and `models.changed` has looked at its sizes
        try:
            return Manifest.model_validate_json((path / MANIFEST).read_bytes()).sha256
        except ValidationError as exc:
            raise OSError(f"{path / MANIFEST}: cannot be read") from exc
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return tree_hash([Hashed(path=file.relative_to(path).as_posix(), bytes=0, sha256=_file(file)) for file in files])


def _file(path: Path) -> str:
    found = path.stat()
    return _read(path, found.st_ino, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=1000)
def _read(path: Path, inode: int, size: int, changed_ns: int) -> str:
    """Read once for all checks that name it, and after a reload only where it is another."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
