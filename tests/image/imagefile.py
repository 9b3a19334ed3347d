"""Reads the Dockerfile: the instructions of one stage and of those it stands on. What ours does not use is an error."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path
from string import Template

IGNORED = {"VOLUME", "EXPOSE", "STOPSIGNAL"}


@dataclass(frozen=True)
class Stage:
    """What is done to make an image, in order, and how its container runs."""

    base: str  # another stage, or an image from outside
    steps: tuple[tuple[str, str], ...] = ()  # ("RUN", command) or ("COPY", arguments)
    environment: dict[str, str] = field(default_factory=dict)
    arguments: dict[str, str] = field(default_factory=dict)  # ARG, with their defaults
    folder: str = "/"
    user: str = "0:0"
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    health: tuple[str, ...] = ()


def stages(path: Path) -> dict[str, Stage]:
    """Every stage by its name.

    Raises:
        ValueError: an instruction this reader does not know.
    """
    found: dict[str, Stage] = {}
    name = ""
    for number, line in _lines(path.read_text(encoding="utf-8")):
        word, _, rest = line.partition(" ")
        rest = rest.strip()
        if word == "FROM":
            base, name = re.fullmatch(r"(\S+) AS (\S+)", rest).groups()  # type: ignore[union-attr]
            # What runs is inherited; what was done already is not done again.
            found[name] = replace(found[base], base=base, steps=(), arguments={}) if base in found else Stage(base)
            continue
        try:
            found[name] = _apply(found[name], word, rest)
        except (ValueError, KeyError) as exc:
            raise ValueError(f"{path}:{number}: {word} {rest}: {exc}") from exc
    return found


def _lines(text: str) -> list[tuple[int, str]]:
    """Instructions with the number of their first line, continued lines joined, comments left out."""
    found: list[tuple[int, str]] = []
    goes_on = False
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        body = line.removesuffix("\\").strip()
        found[-1:] = [(found[-1][0], f"{found[-1][1]} {body}")] if goes_on else [*found[-1:], (number, body)]
        goes_on = line.endswith("\\")
    return found


def _apply(stage: Stage, word: str, rest: str) -> Stage:
    match word:
        case "RUN" | "COPY":
            return replace(stage, steps=(*stage.steps, (word, rest)))
        case "ENV":
            pairs = (Template(part).safe_substitute(stage.environment) for part in shlex.split(rest))
            return replace(stage, environment=stage.environment | dict(_pair(pair) for pair in pairs))
        case "ARG":
            key, _, value = rest.partition("=")
            return replace(stage, arguments=stage.arguments | {key: "".join(shlex.split(value))})
        case "WORKDIR":
            return replace(stage, folder=rest)
        case "USER":
            return replace(stage, user=rest)
        case "ENTRYPOINT":
            return replace(stage, entrypoint=tuple(json.loads(rest)))
        case "CMD":
            return replace(stage, command=tuple(json.loads(rest)))
        case "HEALTHCHECK":
            return replace(stage, health=tuple(json.loads(rest.partition(" CMD ")[2])))
    if word in IGNORED:
        return stage
    raise ValueError("this reader does not know it")


def _pair(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    return key, value
