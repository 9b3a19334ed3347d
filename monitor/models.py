"""Models that users bring: checkpoints placed in the store's folder under a name, with where they came from and their hashes.

`<store>/models/NAME/` holds the files and `modelwatch.json`. A name stands for one content for good, as scores name the settings
they were made with: another revision gets another name.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from detectors import registry
from monitor.errors import ModelwatchError

if TYPE_CHECKING:
    from monitor.config import Check, Config
    from monitor.crosschecks import Sound

FOLDER = "models"
MANIFEST = "modelwatch.json"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
WANTED = {".json", ".txt", ".model", ".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".jinja", ".md"}
# How torch.hub names what it publishes: the file's SHA-256 begins with the last part of its name.
HASHED_NAME = re.compile(r"-([0-9a-f]{8,64})\.\w+$")
BLOCK_BYTES = 2**20


class ModelRefused(ModelwatchError):
    """A model cannot be placed or is not what it was. The message says why and what to do."""


class File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    bytes: int
    sha256: str


class Manifest(BaseModel):
    """What is known of a placed model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    sha256: str  # over names and hashes of all files
    revision: str | None
    license: str | None
    source: str
    added_at: datetime
    files: tuple[File, ...]

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)


def placed(store: Path, path: Path) -> Path | None:
    """The folder of the model of that name, where `path` is a mere name and there is one."""
    folder = store / FOLDER / path.name
    return folder if len(path.parts) == 1 and (folder / MANIFEST).is_file() else None


def names(store: Path) -> list[str]:
    return sorted(path.parent.name for path in (store / FOLDER).glob(f"*/{MANIFEST}"))


def manifest(store: Path, name: str) -> Manifest:
    """
    Raises:
        ModelRefused: there is no such model, or its manifest is damaged.
    """
    path = store / FOLDER / name / MANIFEST
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError as exc:
        there = ", ".join(names(store)) or "none"
        raise ModelRefused(f"no model {name!r} in {store / FOLDER}; there are {there}") from exc
    except (OSError, ValidationError) as exc:
        raise ModelRefused(f"{path}: cannot be read; delete the folder and add the model again") from exc


def add(
    store: Path, name: str, sources: Sequence[Path], *, revision: str | None, license: str | None, now: datetime
) -> tuple[Manifest, list[str]]:
    """Copy the files under that name: files as they are, folders with the files right in them. Whole or not at all.

    Returns the manifest, and what was left out because no model needs it (code among it).

    Raises:
        ModelRefused: the name is taken or no name, nothing can be found, or a file is not what its name says.
    """
    if not NAME.fullmatch(name):
        raise ModelRefused(f"{name!r} is no name; up to 63 letters, digits, _, . and -, of which the first is no sign")
    folder = store / FOLDER / name
    if folder.exists():
        raise ModelRefused(f"{folder} is there already; a name stands for one content, so choose another for a new revision")
    files, left_out = _chosen(sources)
    if not files:
        raise ModelRefused(f"{', '.join(map(str, sources))}: no file of a model in it ({', '.join(sorted(WANTED))})")
    half = folder.with_name(f".{name}.half")
    shutil.rmtree(half, ignore_errors=True)  # what an interrupted run left
    try:
        half.mkdir(parents=True)
        entries = tuple(_copied(path, half) for path in files)
        found = Manifest(
            name=name,
            sha256=tree_hash(entries),
            revision=revision,
            license=license,
            source=", ".join(path.name for path in sources),  # names only: where they lay is nobody's business
            added_at=now,
            files=entries,
        )
        _write(half / MANIFEST, (json.dumps(found.model_dump(mode="json"), indent=1) + "\n").encode())
        _sync(half)
        half.rename(folder)
        _sync(folder.parent)
    except OSError as exc:
        raise ModelRefused(f"{folder}: not placed ({exc.strerror or exc}); nothing was changed") from exc
    finally:
        shutil.rmtree(half, ignore_errors=True)
    return found, left_out


def _chosen(sources: Sequence[Path]) -> tuple[list[Path], list[str]]:
    files: dict[str, Path] = {}
    left_out = []
    for source in sources:
        if not source.exists():
            raise ModelRefused(f"--from {source}: is not there; `modelwatch models how` prints how to get a checkpoint")
        for path in sorted(source.iterdir()) if source.is_dir() else [source]:
            if not path.is_file() or path.name == MANIFEST or path.name.startswith("."):
                continue
            if path.suffix.lower() not in WANTED and not path.name.upper().startswith("LICENSE"):
                left_out.append(path.name)
            elif path.name in files:
                raise ModelRefused(f"{path.name} stands both in {files[path.name].parent} and in {path.parent}; give one of them")
            else:
                files[path.name] = path
    return list(files.values()), left_out


def _copied(path: Path, folder: Path) -> File:
    digest = hashlib.sha256()
    with path.open("rb") as source, (folder / path.name).open("xb") as target:
        while block := source.read(BLOCK_BYTES):
            digest.update(block)
            target.write(block)
        target.flush()
        os.fsync(target.fileno())
        size = target.tell()
    if (said := HASHED_NAME.search(path.name)) and not digest.hexdigest().startswith(said[1]):
        raise ModelRefused(
            f"{path}: its name promises a SHA-256 beginning with {said[1]}, it is {digest.hexdigest()[:16]}...; download it again"
        )
    return File(path=path.name, bytes=size, sha256=digest.hexdigest())


def tree_hash(files: Sequence[File]) -> str:
    """One hash for all: of the lines that `sha256sum` would print, by name."""
    lines = "".join(f"{file.sha256}  {file.path}\n" for file in sorted(files, key=lambda file: file.path))
    return hashlib.sha256(lines.encode()).hexdigest()


def damage(store: Path, found: Manifest) -> Iterator[str]:
    """What differs from the manifest, in words. Reads every byte."""
    folder = store / FOLDER / found.name
    for file in found.files:
        path = folder / file.path
        try:
            digest = hashlib.sha256()
            with path.open("rb") as source:
                while block := source.read(BLOCK_BYTES):
                    digest.update(block)
        except OSError as exc:
            yield f"{path}: cannot be read ({exc.strerror})"
            continue
        if digest.hexdigest() != file.sha256:
            yield f"{path}: changed since it was added"
    known = {file.path for file in found.files} | {MANIFEST}
    yield from (f"{path}: was not added" for path in sorted(folder.iterdir()) if path.name not in known)
    if tree_hash(found.files) != found.sha256:
        yield f"{folder / MANIFEST}: its hashes do not belong together"


def changed(folder: Path) -> str | None:
    """What `damage` would find, as far as sizes tell: quick enough for every start. None for a folder without a manifest."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        found: Any = Manifest.model_validate_json(path.read_bytes())
        wrong = [file.path for file in found.files if (folder / file.path).stat().st_size != file.bytes]
    except (OSError, ValidationError):
        return f"{folder}: is not as it was added; `modelwatch models verify` says more"
    return f"{folder / wrong[0]}: changed since it was added; delete the folder and add the model again" if wrong else None


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- in a config -----------------------------------------------------------------------------------------------------


def in_config(config: Config, store: Path) -> Config:
    """With the folders of placed models where `encoder.path` or a check's settings give their names."""
    checks = tuple(_checked(check, store) for check in config.checks)
    return config.model_copy(update={"encoder": by_name(config.encoder, store), "checks": checks})


def in_sound(sound: Sound, store: Path) -> Sound:
    checks = {i: _checked(check, store) for i, check in sound.checks.items()}
    return replace(sound, encoder=sound.encoder and by_name(sound.encoder, store), checks=checks)


def _checked(check: Check, store: Path) -> Check:
    return check.model_copy(update={"settings": by_name(check.settings, store)})


def by_name(section: Any, store: Path) -> Any:
    """The section, or settings, with the folders of placed models in the place of their names."""
    found = {key: folder for key, path in _paths(section) if (folder := placed(store, path))}
    return section.model_copy(update=found) if found else section


def anchored(settings: Any, folder: Path) -> Any:
    """The settings with relative paths taken from `folder`."""
    found = {key: folder / path for key, path in _paths(settings)}
    return settings.model_copy(update=found) if found else settings


def problems(checks: Mapping[int, Check], folder: Path) -> Iterator[str]:
    """What is wrong with the files that settings name, each as `path.to.key: what is wrong; what to do`. Quick."""
    for i, check in checks.items():
        for line in unfit(registry.load(check.detector), anchored(check.settings, folder)):
            yield f"checks.{i}.settings.{line}"


def unfit(detector: type, settings: Any) -> Iterator[str]:
    """The same of one detector's settings, as `key: what is wrong; what to do`."""
    for key, path in _paths(settings):
        if not path.exists():
            yield (
                f"{key}: there is no {path}, and no model of that name was placed; place one with `modelwatch models add` "
                "(`modelwatch models how` prints how to get one; nothing is downloaded), or correct the path"
            )
            continue
        look = getattr(detector, "problem", None)
        if wrong := changed(path) or (look(settings) if callable(look) else None):
            yield f"{key}: {wrong}"


def _paths(section: Any) -> Iterator[tuple[str, Path]]:
    yield from ((key, value) for key, value in section if isinstance(value, Path))
