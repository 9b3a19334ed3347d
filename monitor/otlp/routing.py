"""Which monitored model a span or log record belongs to: what it says itself, else what the config says of its attributes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from monitor.config import ModelConfig
from monitor.fields import Rejected, shown

MODEL = "modelwatch.model"
SERVICE = "service.name"


class Router:
    """In this order: the attribute `modelwatch.model` of the span, then of its resource; the first model whose `match` fits;
    the model that is called like the service; the batch's model; the default."""

    def __init__(self, models: Iterable[ModelConfig], default: str | None = None) -> None:
        self._tasks = {m.name: m.task for m in models}
        self._matches = [(m.name, tuple(m.match.items())) for m in models if m.match]
        self._keys = {key for _, wanted in self._matches for key, _ in wanted} | {MODEL}
        self._default = default

    def model_of(self, attributes: Mapping[str, Any], resource: Mapping[str, Any], batch: str | None = None) -> str:
        """
        Raises:
            Rejected: no model takes it.
        """
        found = attributes.get(MODEL) or resource.get(MODEL) or self._matched(attributes, resource)
        if found is None:
            service = resource.get(SERVICE)
            # Which may be a list: whatever it is, the others of its export must not suffer.
            found = service if isinstance(service, str) and service in self._tasks else batch or self._default
        task = self._tasks.get(found) if isinstance(found, str) else None
        if task == "llm":
            return found  # type: ignore[return-value]
        if task is not None:
            raise Rejected("wrong_task", f"model: {found} has task {task}, which takes no spans")
        known = ", ".join(name for name, task in self._tasks.items() if task == "llm") or "none"
        if found is not None:
            raise Rejected("unknown_model", f"{MODEL}: {shown(found)} is not configured; there are {known}")
        raise Rejected(
            "unknown_model",
            f"no model takes it: service.name is {shown(resource.get(SERVICE))}; call a model like it, give one a match, "
            f"or set {MODEL} (one of {known}) or otlp.default_model",
        )

    def per_span(self, attributes: Mapping[str, Any]) -> bool:
        """Whether the attributes of the span itself may decide; else all of one resource have one model."""
        return not self._keys.isdisjoint(attributes)

    def _matched(self, attributes: Mapping[str, Any], resource: Mapping[str, Any]) -> str | None:
        for name, wanted in self._matches:
            if all(_text(attributes.get(key, resource.get(key))) == value for key, value in wanted):
                return name
        return None


def _text(value: Any) -> str | None:
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) or value is None else str(value)
