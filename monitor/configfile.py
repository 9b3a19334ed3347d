"""Reads the config file: checked whole before anything starts, every problem said at once.

A problem reads `file: path.to.key: what is wrong (value); what to do`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from detectors.modelfolder import ModelMissing, ModelUnfit, find_model
from monitor import authorities, crosschecks, models
from monitor.config import Config, Listener, StoreConfig, Tls
from monitor.contents import with_files_hash
from monitor.crosschecks import Sound
from monitor.errors import ConfigError
from monitor.genai import prices
from monitor.grafana import config as grafanaconfig
from monitor.judging import spending

SECRETS = ("secret", "hash_key", "api_key", "token")


def load(path: Path, checks: Sequence[Mapping[str, Any]] = ()) -> Config:
    """Read, resolve and check the file. Relative paths in it are taken from the file's folder. `checks` stand in for those of the
    same name in it, or beside them.

    Raises:
        ConfigError: with every problem found.
    """
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # a safe one
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
        raise ConfigError([f"{path}: cannot be read: {' '.join(str(exc).split())}"]) from exc
    if not isinstance(raw, dict):
        raise ConfigError([f"{path}: must be a mapping of sections; `modelwatch init` prints a commented one"])
    problems: list[str] = []
    references: dict[str, str] = {}
    if checks:
        names = {one.get("name") for one in checks}
        there = raw.get("checks") or []
        raw["checks"] = [one for one in there if not (isinstance(one, dict) and one.get("name") in names)] + list(checks)
    raw = _resolve(raw, path, "", problems, references)
    problems += [
        f"{path}: {where}: a secret does not stand in the config file; point to it with ${{env:NAME}} or ${{file:PATH}}"
        for where, value in _secrets(raw)
        if value is not None and where not in references
    ]
    folder = path.resolve().parent
    config: Config | None = None
    try:
        config = Config.model_validate(raw)
        sound = Sound.of(config)
    except ValidationError as exc:
        problems += _problems(path, exc, references)
        sound = Sound.of_raw(raw, Config)
        # Where the sections are good each by itself, these were among the above.
        problems += [one for line in crosschecks.problems(sound) if (one := f"{path}: {line}") not in problems]
    store = folder / (config.store.path if config is not None else _store_path(raw))
    sound = models.in_sound(sound, store)
    problems += [f"{path}: {line}" for line in models.problems(sound.checks, folder)]
    problems += [
        f"{path}: {where}: {file} is not there; create it or correct the path"
        for where, file in crosschecks.missing(sound, folder)
    ]
    if sound.encoder is not None and sound.encoder.path is not None and (folder / sound.encoder.path).exists():
        try:
            find_model(folder / sound.encoder.path)
        except (ModelMissing, ModelUnfit) as exc:
            problems.append(f"{path}: encoder.path: {exc}")
    if sound.prices is not None and sound.prices.file is not None and (folder / sound.prices.file).exists():
        try:
            prices.load(folder / sound.prices.file)
        except ConfigError as exc:
            problems += exc.problems
    if config is not None:
        problems += [f"{path}: {line}" for line in grafanaconfig.problems(config.grafana, folder)]
        problems += [f"{path}: {line}" for line in authorities.problems(config, folder)]
    if config is not None and not problems:
        problems += [f"{path}: {line}" for line in spending.unpriced(config, folder)]
    if config is None or problems:
        raise ConfigError(problems)
    try:
        return _anchored(models.in_config(config, store), folder)
    except OSError as exc:
        raise ConfigError([f"{path}: {exc.filename}: cannot be read ({exc.strerror}); correct permissions or path"]) from exc


def store_path(path: Path) -> Path:
    """Where the store of a config file is, whatever else is wrong with the file: models are placed before it can be right.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
        raise ConfigError([f"{path}: cannot be read: {' '.join(str(exc).split())}"]) from exc
    problems: list[str] = []
    raw = _resolve({"store": raw.get("store") if isinstance(raw, dict) else None}, path, "", problems, {})
    if problems:
        raise ConfigError(problems)
    return path.resolve().parent / _store_path(raw)


def _store_path(raw: Mapping[str, Any]) -> Path:
    section = raw.get("store")
    found = section.get("path") if isinstance(section, dict) else None
    return Path(found) if isinstance(found, str) else StoreConfig().path


class _Loader(yaml.SafeLoader):
    """YAML lets the second of two equal keys win, so that half of a file is ignored and nobody hears of it."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[Any, yaml.Node] = {}
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:str" and seen.setdefault(key.value, key) is not key:
                first = seen[key.value].start_mark.line + 1
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value!r} stands here and in line {first}; keep one of them", key.start_mark
                )
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


def _secrets(raw: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    masking = raw.get("masking")
    if isinstance(masking, dict):
        yield "masking.hash_key", masking.get("hash_key")
    judge = raw.get("judge")
    if isinstance(judge, dict):
        yield "judge.api_key", judge.get("api_key")
    grafana = raw.get("grafana")
    if isinstance(grafana, dict):
        yield "grafana.token", grafana.get("token")
        if isinstance(records := grafana.get("records"), dict):
            yield "grafana.records.token", records.get("token")
    webhooks = raw.get("webhooks")
    for i, one in enumerate(webhooks if isinstance(webhooks, list) else ()):
        if isinstance(one, dict):
            yield f"webhooks.{i}.secret", one.get("secret")
    export = raw.get("export")
    otlp = export.get("otlp") if isinstance(export, dict) else None
    headers = otlp.get("headers") if isinstance(otlp, dict) else None
    if isinstance(headers, dict):
        yield from ((f"export.otlp.headers.{name}", value) for name, value in headers.items())


def _resolve(value: Any, file: Path, where: str, problems: list[str], references: dict[str, str]) -> Any:
    """Replace a whole value `${env:NAME}` or `${file:PATH}` by what it points to, and note by path which was there."""
    if isinstance(value, dict):
        return {k: _resolve(v, file, f"{where}.{k}".lstrip("."), problems, references) for k, v in value.items()}
    if isinstance(value, list):
        return [_resolve(v, file, f"{where}.{i}", problems, references) for i, v in enumerate(value)]
    if isinstance(value, str) and (match := re.fullmatch(r"\$\{(env|file):([^}]+)\}", value)):
        kind, target = match.groups()
        references[where] = value
        if kind == "env":
            if target in os.environ:
                return os.environ[target]
            problems.append(f"{file}: {where}: the environment variable {target} is not set ({value}); set it")
        else:
            try:
                return (file.parent / target).read_text(encoding="utf-8").strip()
            except OSError as exc:
                problems.append(f"{file}: {where}: cannot read {target} ({exc.strerror}); create it or correct the path")
    return value


def _problems(file: Path, error: ValidationError, references: Mapping[str, str]) -> Iterator[str]:
    for one in error.errors():
        where = ".".join(str(p) for p in one["loc"])
        message = one["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
        if one["type"] == "extra_forbidden":
            message = "no such key; remove it or correct its spelling"
        shown = one.get("input")
        if isinstance(shown, str) and shown.startswith("${"):
            continue  # a reference that could not be resolved has been reported already
        if where in references:  # what it points to may be a secret
            message, shown = message.replace(str(shown), references[where]), references[where]
        elif where.rpartition(".")[2] in SECRETS:  # one that stands in the file, which has been reported
            shown = None
        if isinstance(shown, str) and (safe := _without_password(shown)) != shown:
            message, shown = message.replace(shown, safe), safe
        value = "" if isinstance(shown, (dict, list, BaseModel)) or shown is None else f" ({str(shown)[:80]!r})"
        for line in _without_password(message).splitlines():
            # A rule over several keys names its own path.
            yield f"{file}: {line}" if not where else f"{file}: {where}: {line}{value}"


def _without_password(text: str) -> str:
    """Addresses in it without user, password and what follows a question mark, where tokens stand.

    >>> _without_password("'https://me:pw@g' and https://hooks.example/a?key=pw")
    "'https://...@g' and https://hooks.example/a?..."
    """
    text = re.sub(r"//\S*@", "//...@", text)
    return re.sub(r"(://[^\s?#]*[?#])[^\s'\"]+", r"\1...", text)


def _anchored(config: Config, folder: Path) -> Config:
    def at(path: Path | None) -> Path | None:
        return None if path is None else folder / path

    def tls(listener: Listener) -> Tls | None:
        t = listener.tls
        return t and Tls(cert_file=folder / t.cert_file, key_file=folder / t.key_file)

    return config.model_copy(
        update={
            "store": config.store.model_copy(update={"path": at(config.store.path)}),
            "server": config.server.model_copy(update={"tokens_file": at(config.server.tokens_file), "tls": tls(config.server)}),
            "metrics": config.metrics.model_copy(update={"tls": tls(config.metrics)}),
            "otlp": config.otlp.model_copy(
                update={
                    name.removeprefix("otlp."): listener.model_copy(update={"tls": tls(listener)})
                    for name, listener in config.otlp.listeners.items()
                }
            ),
            "encoder": config.encoder.model_copy(update={"path": at(config.encoder.path)}),
            "webhooks": tuple(w.model_copy(update={"ca_file": at(w.ca_file)}) for w in config.webhooks),
            "prices": config.prices.model_copy(update={"file": at(config.prices.file)}),
            "grafana": config.grafana and config.grafana.model_copy(update={"ca_file": at(config.grafana.ca_file)}),
            "sources": tuple(s.anchored(folder) for s in config.sources),
            "checks": tuple(
                c.model_copy(
                    update={
                        "reference": c.reference and c.reference.model_copy(update={"file": at(c.reference.file)}),
                        "settings": with_files_hash(models.anchored(c.settings, folder)),
                    }
                )
                for c in config.checks
            ),
        }
    )
