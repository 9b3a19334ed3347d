"""Masking: what personal data, secrets and content become before anything is parsed, hashed, stored or set aside.

`apply` stands at the top of the inbox, so that there is no way in around it: records of every kind, spans and log records,
and what was rejected on the way, down to the raw text of a body that could not be read. It never raises and never changes
what it is given.
"""

from __future__ import annotations

import functools
import hashlib
import re
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson
import yaml

from monitor import log
from monitor.config import Config, MaskingConfig, MaskingOverride
from monitor.fields import Rejected
from monitor.genai.dialecttable import FILE as DIALECTS
from monitor.masking import contentless
from monitor.masking.policy import HASH, Count, Policy, keyed, parsed
from monitor.masking.recognisers import RECOGNISERS
from monitor.otlp.routing import Router
from monitor.otlp.spans import Event, Link, LogRecord, Span
from monitor.records import MAX_ID, Reject

SIDES = ("input", "output")
ID_FIELDS = ("trace_id", "span_id", "parent_id", "traceId", "spanId", "parentSpanId")
STRICTNESS = ("keep", "mask", "hash", "drop")
CUT_AT, TAIL = 2**20, 256  # a payload of this length was cut; what stands at its end may be half of a number
_UNREADABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffd]")
_LEFT_OUT = re.compile(r"not kept: \d{1,12} characters; masking\.content is none")
_PIECE = re.compile("[^\x00-\x1f\ufffd]+")
_ID = re.compile("[0-9a-f]{32}|[0-9a-f]{16}")
_BOTH = re.compile("[0-9a-f]{32}-[0-9a-f]{16}")


Marks = dict[int, dict[str, int]]
"""By place in a batch: how many values of each kind were recognised and masked in that item."""


class Masking:
    """Made of one config; a reload makes another. Any thread may call it."""

    def __init__(self, config: Config, count: Count) -> None:
        self._router = Router(config.models, config.otlp.default_model)
        self._failed = False
        self._told = count
        self._here = threading.local()  # .counts: what was masked in the item in hand, where the thread asked
        base, secret = config.masking, config.masking.hash_key
        self._key = secret.get_secret_value().encode() if secret else None
        dialects = _dialects()
        self._aliases = _aliases(dialects)
        self._kept = {*_harmless(dialects), *(key for model in config.models for key in model.match)}
        self._known = frozenset(model.name for model in config.models)
        self._base = self._rules(base.kinds, base.fields, base.content)
        self._models: dict[str, _Rules] = {}
        for model in config.models:
            if (own := model.masking) is not None:
                self._models[model.name] = self._rules(*_merged(base, own))
        self._strictest = self._base
        if self._models:
            every = [self._base, *self._models.values()]
            self._strictest = self._rules(
                tuple({kind for one in every for kind in one.policy.kinds}),
                _strictest(one.policy.fields for one in every),
                "none" if any(one.content == "none" for one in every) else "keep",
            )

    def apply(self, kind: str, items: Sequence[Any], model: str | None = None, marks: Marks | None = None) -> list[Any]:
        """The items as they may be stored, in the same order. `model` is that of items that name none. What was recognised in an
        item is put into `marks`, by its place."""
        resources: dict[tuple[int, int], dict[str, Any]] = {}  # the spans of an export share theirs
        masked = []
        counts: Counter[str] = Counter()
        self._here.counts = counts
        for index, item in enumerate(items):
            if counts:
                counts.clear()
            try:
                masked.append(self._item(kind, item, model, resources))
            except Exception as exc:
                # Whatever it is that cannot be masked must not be stored as it is, nor hold up the others.
                deep = isinstance(exc, RecursionError)
                if not deep and not self._failed:
                    self._failed = True  # a fault of ours; not its message, which may show what was sent
                    log.error("a record cannot be masked and is not kept", kind=kind, error=type(exc).__name__)
                masked.append(_unmaskable(index, item, deep=deep))
            if counts and marks is not None and (found := {one: n for one, n in counts.items() if one in RECOGNISERS}):
                marks[index] = found
        self._here.counts = None
        return masked

    def _count(self, kind: str, many: int) -> None:
        if (counts := getattr(self._here, "counts", None)) is not None:
            counts[kind] += many
        self._told(kind, many)

    def model(self, name: str | None) -> str | None:
        """What a batch says its model is: one that is not configured may be anything."""
        return name if name is None or name in self._known else self._strictest.model(name)

    def key(self, key: str | None) -> str | None:
        """The client's name for a batch. One in which something is recognised becomes its hash, which is the same each time."""
        if key is None or self._strictest.policy.text(key) == key:
            return key
        data = key.encode(errors="surrogatepass")
        return HASH + (keyed(self._key, data) if self._key else hashlib.sha256(data).hexdigest()[:32])

    def _item(self, kind: str, item: Any, model: str | None, resources: dict[tuple[int, int], dict[str, Any]]) -> Any:
        if isinstance(item, dict):
            named = item.get("model", model)
            return self._rules_for(named if isinstance(named, str) else None).record(kind, item)
        if isinstance(item, Span):
            return self._rules_for(self._of(item, model)).span(item, resources)
        if isinstance(item, LogRecord):
            return self._rules_for(self._of(item, model)).log(item, resources)
        if isinstance(item, Reject):
            return self._rules_for(model).reject(kind, item)
        return self._rules_for(model).anything(item)

    def _of(self, one: Span | LogRecord, model: str | None) -> str | None:
        if not self._models:
            return None
        try:
            return self._router.model_of(one.attributes, one.resource, model)
        except Rejected:
            return None

    def _rules_for(self, model: str | None) -> _Rules:
        if not self._models:
            return self._base
        if model not in self._known:
            return self._strictest  # it may turn out to belong to any of them
        return self._models.get(model, self._base)

    def _rules(self, kinds: Sequence[str], fields: Mapping[str, str], content: str) -> _Rules:
        more = {f"attributes.{key}": action for field, action in fields.items() for key in self._aliases.get(field, ())}
        policy = Policy(tuple(kinds), {**more, **fields}, self._key, self._count)
        return _Rules(policy, content, self._key, self._count, self._kept, self._known)


class _Rules:
    """A policy, and whether content is stored at all, applied to the things that come in."""

    def __init__(
        self, policy: Policy, content: str, hash_key: bytes | None, count: Count, kept: Collection[str], models: Collection[str]
    ) -> None:
        """`kept`: attributes that carry no content: those the dialects name so, and those by which a span finds its model.
        `models`: those that are configured; what else stands in a record's model may be anything."""
        self.policy = policy
        self.content = content
        self._key = hash_key
        self._count = count
        self._kept = kept
        self._models = models

    def model(self, name: str) -> str:
        if self.content == "none" and not contentless.is_id("model", name):
            return contentless.NO_ID
        return self.policy.text(name)

    def record(self, kind: str, item: dict[str, Any]) -> dict[str, Any]:
        policy = self.policy
        bare = self._bare(item, contentless.record)
        # Ids join the record to others: they are never masked unless a rule names them.
        aside = {
            name: value
            for name in contentless.IDS
            if contentless.is_id(name, value := bare.get(name)) and name in bare and policy.action(name) is None
            and (name != "model" or not isinstance(value, str) or value in self._models)
        }  # fmt: skip
        rest = {name: value for name, value in bare.items() if name not in aside}
        # The numbers of a tabular model are its features: one that looks like a card is still a number.
        new = policy.masked(rest, numbers=kind not in ("predictions", "labels"))
        if new is rest and bare is item:
            return item
        masked = {**aside, **new}
        if self._key and kind in ("predictions", "generations") and not _has_id(item) and item.get("timestamp") is not None:
            # Its id will be a hash of what is left, which may be the same for two that were not.
            masked["record_id"] = f"h-{keyed(self._key, _canonical(item))}"
        return masked

    def span(self, one: Span, resources: dict[tuple[int, int], dict[str, Any]]) -> Span:
        attributes, resource = self._attributes(one.attributes, "attributes"), self._resource(one.resource, resources)
        events = [self._event(event, i) for i, event in enumerate(one.events)]
        links = [self._link(link, i) for i, link in enumerate(one.links)]
        name = self._text(one.name, "name")
        scope, version = self._scope(one.scope, "scope"), self._scope(one.scope_version, "scope_version")
        ids = self._id(one.trace_id), self._id(one.span_id), self._id(one.parent_id)
        status = None if one.status_message is None else self._content(one.status_message, "status_message")
        same = attributes is one.attributes and resource is one.resource and name is one.name and status is one.status_message
        same = same and all(map(_is, events, one.events)) and all(map(_is, links, one.links))
        same = same and scope is one.scope and version is one.scope_version
        same = same and all(map(_is, ids, (one.trace_id, one.span_id, one.parent_id)))
        if same:
            return one
        return replace(
            one, attributes=attributes, resource=resource, events=events, links=links, name=name, status_message=status,
            scope=scope, scope_version=version, trace_id=ids[0] or "", span_id=ids[1] or "", parent_id=ids[2],
        )  # fmt: skip

    def log(self, one: LogRecord, resources: dict[tuple[int, int], dict[str, Any]]) -> LogRecord:
        attributes, resource = self._attributes(one.attributes, "attributes"), self._resource(one.resource, resources)
        body = self._content(one.body, "body")
        name = None if one.event_name is None else self._text(one.event_name, "event_name")
        scope, version = self._scope(one.scope, "scope"), self._scope(one.scope_version, "scope_version")
        severity = self._scope(one.severity, "severity")
        ids = self._id(one.trace_id), self._id(one.span_id)
        same = attributes is one.attributes and resource is one.resource and body is one.body and name is one.event_name
        same = same and scope is one.scope and version is one.scope_version and severity is one.severity
        if same and ids[0] is one.trace_id and ids[1] is one.span_id:
            return one
        return replace(
            one, attributes=attributes, resource=resource, body=body, event_name=name, scope=scope, scope_version=version,
            severity=severity, trace_id=ids[0], span_id=ids[1],
        )  # fmt: skip

    def reject(self, kind: str, one: Reject) -> Reject:
        """A message may show a piece of what it complains of."""
        message = self.policy.text(one.message)
        record_id = one.record_id
        if record_id is not None and self.policy.action("record_id") is not None:
            record_id = self.policy.masked_at(record_id, "record_id")
        elif record_id is not None and kind in ("spans", "logs") and not _BOTH.fullmatch(record_id):
            # An id that is none may be anything. The payload shows it, masked.
            record_id = "-".join(part for part in record_id.split("-") if _ID.fullmatch(part)) or None
        payload = self._payload(kind, one.payload)
        if message is one.message and record_id is one.record_id and payload is one.payload:
            return one
        return replace(one, message=message, record_id=record_id, payload=payload)

    def anything(self, item: Any) -> Any:
        """What should have been a record and is not."""
        if self.content == "none" and isinstance(item, (str, list)):
            return self._left_out(item)
        return self.policy.masked(item)

    # --- parts ---

    def _bare(self, values: dict[str, Any], strip: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
        if self.content != "none":
            return values
        kept = strip(values)
        if kept == values:
            return values
        self._count("content", 1)
        return kept

    def _attributes(self, values: dict[str, Any], path: str) -> dict[str, Any]:
        bare = self._bare(values, lambda values: contentless.attributes(values, self._kept))
        new = self.policy.masked(bare, path)
        return new if isinstance(new, dict) else {}  # a rule for all of them

    def _resource(self, values: dict[str, Any], resources: dict[tuple[int, int], dict[str, Any]]) -> dict[str, Any]:
        place = (id(self), id(values))
        if (done := resources.get(place)) is None:
            done = resources[place] = self._attributes(values, "resource")
        return done

    def _event(self, event: Event, i: int) -> Event:
        attributes = self._attributes(event.attributes, f"events.{i}.attributes")
        name = self._text(event.name, f"events.{i}.name")
        return (
            event if attributes is event.attributes and name is event.name else replace(event, name=name, attributes=attributes)
        )

    def _link(self, link: Link, i: int) -> Link:
        attributes = self._attributes(link.attributes, f"links.{i}.attributes")
        trace_id, span_id = self._id(link.trace_id), self._id(link.span_id)
        if attributes is link.attributes and trace_id is link.trace_id and span_id is link.span_id:
            return link
        return replace(link, trace_id=trace_id or "", span_id=span_id or "", attributes=attributes)

    def _text(self, text: str, path: str) -> str:
        new = self.policy.masked_at(text, path)
        return new if isinstance(new, str) else ""  # what is dropped leaves an empty name

    def _scope(self, text: str | None, path: str) -> str | None:
        return None if text is None else self.policy.masked_at(text, path)

    def _id(self, value: str | None) -> str | None:
        """An id of a trace or span, unless it is none: then it is a text like any other, perhaps one in hex."""
        if not value or _ID.fullmatch(value):
            return value
        try:
            told = bytes.fromhex(value).decode("latin-1")
        except ValueError:
            return self.policy.text(value)
        masked = self.policy.text(told)
        return value if masked == told else masked

    def _content(self, value: Any, path: str) -> Any:
        if self.content == "none" and not (value is None or isinstance(value, (bool, int, float))):
            if value:
                self._count("content", 1)
            return None
        return self.policy.masked_at(value, path)

    def _payload(self, kind: str, payload: Any) -> Any:
        if isinstance(payload, bytes):
            text = payload.decode(errors="replace")
            new_text = self._payload(kind, text)
            return payload if new_text == text else new_text
        if isinstance(payload, Span):
            return self.span(payload, {})
        if isinstance(payload, LogRecord):
            return self.log(payload, {})
        if isinstance(payload, dict):
            return self._whole(kind, payload)
        if not isinstance(payload, str):
            return self.anything(payload)
        if (read := parsed(payload)) is not None:
            value, dumped = read
            many = value if isinstance(value, list) else [value]
            new = [self._whole(kind, one) if isinstance(one, dict) else self.anything(one) for one in many]
            return payload if all(map(_is, new, many)) else dumped(new if isinstance(value, list) else new[0])
        if self.content == "none":
            return self._left_out(payload)
        if self.policy.removes:
            return f"not kept: {len(payload)} characters that cannot be read, so masking.fields cannot be applied to them"
        if len(payload) >= CUT_AT:
            end = max(payload.rfind(mark, len(payload) - TAIL) for mark in ' \n,"')
            payload = payload[: end if end > 0 else len(payload) - TAIL]
        return self._binary(payload) if _UNREADABLE.search(payload) else self.policy.text(payload)

    def _whole(self, kind: str, item: dict[str, Any]) -> dict[str, Any]:
        """A span that was rejected is plain JSON: in our own form, or in that of the wire, where fields have no names."""
        if kind not in ("spans", "logs"):
            return self.record(kind, item)
        if self.content == "none":
            return {"payload": self._left_out(item)}
        if isinstance(item.get("attributes"), dict):
            return self._ids(self.policy.masked(item))
        if self.policy.removes:
            return {
                "payload": f"not kept: {contentless.characters(item)} characters; masking.fields cannot be applied to this form"
            }
        return self._ids(self.policy.masked(self._wire(item)))

    def _ids(self, item: dict[str, Any]) -> dict[str, Any]:
        """Those that came as bytes of a wrong length stand there in hex, where the recognisers see nothing."""
        new = {name: self._id(item[name]) for name in ID_FIELDS if isinstance(item.get(name), str)}
        return item if all(new[name] is item[name] for name in new) else {**item, **new}

    def _wire(self, value: Any) -> Any:
        """OTLP/JSON with its attributes' texts masked, each under the name of its attribute."""
        if isinstance(value, list):
            return [self._wire(one) for one in value]
        if not isinstance(value, dict):
            return value
        name, held = value.get("key"), value.get("value")
        if isinstance(name, str) and isinstance(held, dict) and isinstance(text := held.get("stringValue"), str):
            return {**value, "value": {**held, "stringValue": self.policy.text(text, name)}}
        return {key: self._wire(one) for key, one in value.items()}

    def _binary(self, text: str) -> str:
        """A piece of protobuf: the byte before and the byte after a text can look as if they belonged to it."""
        pieces = []
        last = 0
        for found in _PIECE.finditer(text):
            piece = found[0]
            variants = (piece, piece[1:], piece[:-1], piece[1:-1])
            new = next((one for one in map(self.policy.text, variants) if one not in variants), piece)
            pieces += [text[last : found.start()], new]
            last = found.end()
        return "".join([*pieces, text[last:]])

    def _left_out(self, value: Any) -> str:
        if isinstance(value, str) and _LEFT_OUT.fullmatch(value):
            return value
        self._count("content", 1)
        return f"not kept: {contentless.characters(value)} characters; masking.content is none"


def _unmaskable(index: int, item: Any, *, deep: bool) -> Reject:
    found = item.get("record_id") if isinstance(item, dict) else None
    record_id = found if isinstance(found, str) and len(found) <= MAX_ID else None
    if deep:
        message = "the record is nested too deep; send flat records"
        return Reject(index, "too_large", message, record_id, "nested too deep to be shown")
    return Reject(index, "wrong_type", "the record cannot be masked, so it is not kept", record_id, "not kept")


@functools.cache
def _dialects() -> dict[str, Any]:
    return yaml.safe_load(DIALECTS.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def _aliases(dialects: Mapping[str, Any]) -> dict[str, list[str]]:
    """Field of a record -> the attributes of spans that it is read from, with * for what is indexed."""
    found = {field: list(keys) for kind in ("text", "resource") for field, keys in dialects[kind].items()}
    sides = {side: [rule.get("key") or f"{rule['prefix']}*" for rule in dialects[side] if "events" not in rule] for side in SIDES}
    return {
        **found,
        "system": list(dialects["system"]),
        "question": sides["input"],
        "response": sides["output"],
        "messages": sides["input"] + sides["output"],
    }


def _harmless(dialects: Mapping[str, Any]) -> set[str]:
    """Attributes whose text says how a call was made and not what was said."""
    texts = {key for field, keys in dialects["text"].items() if field != "template" for key in keys}
    retrieval = {key for part in ("collection", "system", "operation") for key in dialects["retrieval"][part]}
    kinds = {rule["key"] for rule in dialects["span_type"]}
    tools = {*dialects["tool"]["name"], *dialects["tool"]["id"]}
    said = {rule["key"] for side in SIDES for rule in dialects[side] if "key" in rule}
    return (texts | retrieval | kinds | tools) - said - set(dialects["system"])


def _merged(base: MaskingConfig, own: MaskingOverride) -> tuple[Sequence[str], Mapping[str, str], str]:
    return base.kinds if own.kinds is None else own.kinds, {**base.fields, **own.fields}, own.content or base.content


def _strictest(every: Iterable[Mapping[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for fields in every:
        for path, action in fields.items():
            found[path] = max(found.get(path, action), action, key=STRICTNESS.index)
    return found


def _has_id(item: Mapping[str, Any]) -> bool:
    return bool(item.get("record_id") or (item.get("trace_id") and item.get("span_id")))


def _canonical(item: Mapping[str, Any]) -> bytes:
    return orjson.dumps(item, option=orjson.OPT_SORT_KEYS)


def _is(one: Any, other: Any) -> bool:
    return one is other
