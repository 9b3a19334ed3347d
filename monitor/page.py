"""The page that Prometheus reads, in the text format 0.0.4 and in OpenMetrics 1.0, byte for byte as prometheus-client writes it.

Its own encoders look at every character of every label's name. With 10,000 series that is most of the time, in which nobody
else in the process can run Python. Here a name is one that prometheus-client let pass when the metric was made, and is written as
it is. Times of creation are not expected (`disable_created_metrics`). A page in any other form is left to the library.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder
from prometheus_client.utils import floatToGoString

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
TEXT_1 = "text/plain; version=1.0.0"


def encoder(accept: str) -> tuple[Callable[[CollectorRegistry], bytes], str]:
    """What writes the page, and its content type: Prometheus 3 refuses a scrape of another type than it says."""
    theirs, content_type = choose_encoder(accept)
    if content_type.endswith(("escaping=dots", "escaping=values")):  # which change names
        return theirs, content_type
    if content_type.startswith(OPENMETRICS):
        return (lambda registry: _written(registry.collect(), True)), content_type
    if content_type == CONTENT_TYPE_PLAIN_0_0_4 or content_type.startswith(TEXT_1):
        return (lambda registry: _written(registry.collect(), False)), content_type
    return theirs, content_type


def _written(families: Iterable[Any], openmetrics: bool) -> bytes:
    out: list[str] = []
    orders: dict[tuple[str, ...], list[str]] = {}
    escaped: dict[str, str] = {}

    def text(labels: Mapping[str, str]) -> str:
        names = tuple(labels)
        if (order := orders.get(names)) is None:
            order = orders[names] = sorted(names)
        parts = []
        for name in order:
            value = labels[name]
            if (known := escaped.get(value)) is None:
                known = escaped[value] = value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
            parts.append(f'{name}="{known}"')
        return "{" + ",".join(parts) + "}"

    for family in families:
        name, kind = family.name, family.type
        about = family.documentation.replace("\\", r"\\").replace("\n", r"\n")
        if openmetrics:
            about = about.replace('"', r"\"")
        else:
            name += {"counter": "_total", "info": "_info"}.get(kind, "")
            kind = {"info": "gauge", "unknown": "untyped"}.get(kind, kind)
        out.append(f"# HELP {name} {about}\n# TYPE {name} {kind}\n")
        if openmetrics and family.unit:
            out.append(f"# UNIT {name} {family.unit}\n")
        for sample in family.samples:
            labels = text(sample.labels) if sample.labels else ""
            value = sample.value
            # Most are 0.0, or a count: repr is what the library makes of those as well.
            shown = repr(value) if type(value) is float and -1e6 < value < 1e6 else _go(value)
            if openmetrics and (one := sample.exemplar) is not None:
                at = "" if one.timestamp is None else f" {one.timestamp}"
                out.append(f"{sample.name}{labels} {shown} # {text(one.labels)} {_go(one.value)}{at}\n")
            else:
                out.append(f"{sample.name}{labels} {shown}\n")
    if openmetrics:
        out.append("# EOF\n")
    return "".join(out).encode()


def _go(value: float) -> str:
    return str(floatToGoString(value))  # type: ignore[no-untyped-call]
