"""One metric with a limit on its label sets: label values come from outside, and a page has to stay one that can be scraped."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from prometheus_client import Counter

OTHER = "__other__"
LABEL_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Spec:
    """One metric as it is documented in monitor/README.md."""

    name: str
    kind: str
    about: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Known:
    """What the config names. Series of anything else are not made: what was in hand when its model was dropped would else bring
    them back for good."""

    models: frozenset[str]
    checks: frozenset[str]
    detectors: frozenset[tuple[str, str]]  # model and detector

    def __or__(self, other: Known) -> Known:
        return Known(self.models | other.models, self.checks | other.checks, self.detectors | other.detectors)

    def has(self, labels: dict[str, str]) -> bool:
        model, check, detector = labels.get("model"), labels.get("check"), labels.get("detector")
        return (
            (model is None or model in self.models)
            and (check is None or check in self.checks)
            and (detector is None or model is None or (model, detector) in self.detectors)
        )


def label(text: str) -> str:
    """Fit for a page: a long one is cut, and keeps apart from others that begin alike.

    >>> label("gpt-4o"), len(label("x" * 10_000)), label("x" * 10_000) == label("x" * 10_001)
    ('gpt-4o', 200, False)
    """
    if len(text) > LABEL_CHARACTERS:
        digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=4).hexdigest()
        text = f"{text[: LABEL_CHARACTERS - 9]}~{digest}"
    # A lone surrogate is no UTF-8: it would cost the whole page.
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


class Family:
    """A prometheus-client metric. Any thread may call it."""

    def __init__(self, metric: Any, spec: Spec, limit: int, overflow: Counter) -> None:
        self.metric = metric
        self.spec = spec
        self._limit = limit
        self._overflow = overflow.labels(spec.name)
        self._children: dict[tuple[str, ...], Any] = {}
        self._known: Known | None = None

    def labels(self, *values: str) -> Any:
        if (child := self._children.get(values)) is not None:
            return child
        values = tuple(label(value) for value in values)
        if (child := self._children.get(values)) is not None:
            return child
        if self._known is not None and not self._known.has(dict(zip(self.spec.labels, values, strict=True))):
            return _Nowhere()
        if len(self._children) < self._limit:
            return self._children.setdefault(values, self.metric.labels(*values))
        self._overflow.inc()
        if self.spec.kind == "gauge":
            return _Nowhere()
        other = (OTHER,) * len(values)
        return self._children.get(other) or self._children.setdefault(other, self.metric.labels(*other))

    def forget(self, **labels: str) -> None:
        """Remove every series with these label values: its model or check is gone from the config."""
        places = {self.spec.labels.index(name): label(value) for name, value in labels.items() if name in self.spec.labels}
        if len(places) == len(labels):
            self._remove([v for v in list(self._children) if all(v[i] == want for i, want in places.items())])

    def only(self, known: Known) -> None:
        """Remove every series of what is not known, and make none."""
        self._known = known
        names = self.spec.labels
        other = (OTHER,) * len(names)
        self._remove([v for v in list(self._children) if v != other and not known.has(dict(zip(names, v, strict=True)))])

    def _remove(self, gone: list[tuple[str, ...]]) -> None:
        for values in gone:
            self._children.pop(values, None)
            self.metric.remove(*values)


class _Nowhere:
    """What is not exported."""

    def set(self, value: float) -> None: ...

    def inc(self, amount: float = 1) -> None: ...

    def observe(self, value: float, exemplar: dict[str, str] | None = None) -> None: ...

    dec = inc
