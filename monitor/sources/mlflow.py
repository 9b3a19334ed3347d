"""Reads an MLflow model registry: a new version, a moved alias and a new stage are deployments.

The registry tells how things are, not what happened to them, so each look is compared with the deployments that are stored:
nothing is kept beside them, a restart repeats nothing, and of two moves between two looks the last one is seen.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal

import orjson
from pydantic import Field

from monitor.clock import Clock
from monitor.config import Name
from monitor.errors import ConfigError
from monitor.inbox import Inbox
from monitor.metrics import Metrics
from monitor.sources.polling import PollingConfig, PollingSource
from monitor.store import Store
from monitor.transaction import Transaction

PAGE = 200
TAGS = ("data_hash", "code_commit", "prompt_hash", "approver")
"""Tags of a model version that say what a deployment says of itself."""


class MlflowConfig(PollingConfig):
    type: Literal["mlflow"]
    tracking_uri: str = Field(min_length=1)
    registry_uri: str | None = Field(None, description="where models are registered, if not there")
    registered: dict[str, Name] = Field(min_length=1, description="registered model: monitored model")
    versions: bool = Field(True, description="a new version is a deployment")
    aliases: tuple[str, ...] | None = Field(None, description="whose move is a deployment; default: all")
    stages: tuple[str, ...] | None = Field(None, description="which are a deployment; default: all but None and Archived")
    poll_seconds: float = Field(60.0, gt=0)

    def models(self) -> Iterator[tuple[str, str]]:
        yield from super().models()
        for name, model in self.registered.items():
            yield f"registered.{name}", model


class MlflowSource(PollingSource):
    """`poll` is one look at each registered model."""

    Config: ClassVar = MlflowConfig
    transport = "mlflow"

    def __init__(self, config: MlflowConfig, inbox: Inbox, store: Store, *, clock: Clock, metrics: Metrics) -> None:
        if importlib.util.find_spec("mlflow") is None:
            raise ConfigError([f"sources: {config.name}: needs the MLflow client; pip install 'modelwatch[mlflow]'"])
        super().__init__(config, inbox, store, clock=clock, metrics=metrics)
        self._client: Any = None
        self._seen: dict[str, _Seen] = {}  # by registered model

    def poll(self) -> int:
        """
        Raises:
            OSError: the registry is away, or refuses.
        """
        client = self._client = self._client or _connect(self.config)
        from mlflow.exceptions import MlflowException

        away: list[str] = []
        for name, model in self.config.registered.items():
            if name not in self._seen:
                self._seen[name] = self._stored(name, model)
            try:
                items = list(self._news(client, name, self._seen[name]))
            except MlflowException as exc:  # one that is not registered yet is no reason to leave the others out
                away.append(f"{name}: {exc}")
                continue
            if items:
                size = len(orjson.dumps(items))
                self._put("deployments", [{"model": model, **i} for i in items], size, also=_nothing)
                for item in items:
                    self._seen[name].note(item["record_id"])
        if away:
            raise OSError(f"{self.config.tracking_uri}: {'; '.join(away)}")
        return 0  # all there is has been taken: wait for the next look

    def _stored(self, name: str, model: str) -> _Seen:
        """What is known of a registered model: all that this source ever stored of it."""
        seen = _Seen(f"mlflow:{self.config.name}:{_short(name)}")
        with self._store.read() as reader:
            rows = reader.query(
                f"SELECT record_id FROM {reader.source('deployments', model)} WHERE starts_with(record_id, ?) ORDER BY seq",
                [seen.prefix],
            )
        for row in rows:
            seen.note(row["record_id"])
        return seen

    def _news(self, client: Any, name: str, seen: _Seen) -> Iterator[dict[str, Any]]:
        config, now = self.config, self._clock.now()
        versions = {str(one.version): one for one in _versions(client, name)}
        by_age = sorted(versions.items(), key=lambda item: item[1].creation_timestamp)
        for number, one in by_age:
            if config.versions and (place := seen.next("", number)):
                yield _deployment(client, one, place, "registered", None, _time(one.creation_timestamp))
            stage = one.current_stage or "None"
            wanted = stage in config.stages if config.stages is not None else stage not in ("None", "Archived")
            if wanted and (place := seen.next(f"^{number}", stage)):
                yield _deployment(client, one, place, "stage", stage, _time(one.last_updated_timestamp))
        aliases = dict(client.get_registered_model(name).aliases)
        for alias, number in sorted(aliases.items()):
            if config.aliases is not None and alias not in config.aliases:
                continue
            if (found := versions.get(str(number))) and (place := seen.next(f"@{_short(alias, 40)}", str(number))):
                # The registry does not say when an alias was moved; it was before now.
                yield _deployment(client, found, place, "alias", alias, now)


class _Seen:
    """What was told of one registered model. A place is the alias `@name`, or `^version` for its stage, or empty for the
    versions themselves; what stands there is told when it is not what was told last."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self._ids: set[str] = set()
        self._last: dict[str, tuple[int, str]] = {}  # place -> how many were told, and the last

    def next(self, place: str, value: str) -> str | None:
        """The id under which to tell it, or None where it was told."""
        if not place:
            record_id = f"{self.prefix}/{value}"
            return None if record_id in self._ids else record_id
        count, last = self._last.get(place, (0, None))
        return None if last == value else f"{self.prefix}{place}#{count + 1}={value}"

    def note(self, record_id: str) -> None:
        self._ids.add(record_id)
        place, found, rest = record_id.removeprefix(self.prefix).rpartition("#")
        if found:
            count, _, value = rest.partition("=")
            self._last[place] = (int(count), value)


def _nothing(transaction: Transaction) -> None:
    """Where this source stands is what it has stored."""


def _connect(config: MlflowConfig) -> Any:
    # Read by the client when it is imported, and when it asks. Its own patience is seven tries of two minutes, and `stop`
    # waits for the one in hand.
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        return MlflowClient(tracking_uri=config.tracking_uri, registry_uri=config.registry_uri or config.tracking_uri)
    except MlflowException as exc:
        raise OSError(f"{config.tracking_uri}: {exc}") from exc


def _versions(client: Any, name: str) -> Iterator[Any]:
    quoted = name.replace("'", "\\'")
    token = None
    while True:
        page = client.search_model_versions(f"name='{quoted}'", max_results=PAGE, page_token=token)
        yield from page
        if not (token := page.token):
            return


def _deployment(client: Any, one: Any, record_id: str, event: str, alias: str | None, at: datetime) -> dict[str, Any]:
    tags = dict(one.tags or {})
    made = {name: tags.pop(name) for name in TAGS if tags.get(name)}
    more = {
        "registered_model": one.name, "registered_by": one.user_id, "run_id": one.run_id, "artifact": one.source,
        "description": one.description, "tags": tags,
    }  # fmt: skip
    return {
        "record_id": record_id,
        "version": str(one.version),
        "timestamp": at.isoformat(),
        "origin": "mlflow",
        "event": event,
        "alias": alias,
        **_of_run(client, one.run_id),
        **made,
        **{name: value for name, value in more.items() if value},
    }


def _of_run(client: Any, run_id: str | None) -> dict[str, str]:
    """What the run that made it says of code and data."""
    from mlflow.exceptions import MlflowException

    if not run_id:
        return {}
    try:
        run = client.get_run(run_id)
    except MlflowException:  # deleted, or of another tracking server
        return {}
    found: dict[str, str] = {}
    if commit := run.data.tags.get("mlflow.source.git.commit"):
        found["code_commit"] = commit
    if run.inputs and (digests := [d.dataset.digest for d in run.inputs.dataset_inputs]):
        found["data_hash"] = ",".join(digests)
    return found


def _time(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def _short(name: str, limit: int = 100) -> str:
    """A name as part of an id, which has its limit."""
    return name if len(name) <= limit else f"{name[: limit - 17]}~{hashlib.sha256(name.encode()).hexdigest()[:16]}"
