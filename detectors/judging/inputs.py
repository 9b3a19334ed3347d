"""The arguments of a metric, from a row: bounded, of the right kind, or why there are none."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from detectors.contract import Score
from detectors.judging.catalogue import ANY, KINDS, MESSAGES, MISSING, TEXT, TEXTS

if TYPE_CHECKING:
    from detectors.judge import Judge

PLAIN = ("question", "response", "contexts", "system", "messages")
"""Fields of a row that an argument can be; the others are `attributes.KEY`."""


@dataclass(frozen=True, slots=True)
class Given:
    values: Mapping[str, Any]
    contexts: int = 0
    detail: Mapping[str, Any] = field(default_factory=dict)


def arguments(config: Judge.Config, row: Mapping[str, Any]) -> Given | Score:
    """What the metric is given, texts cut to `max_chars` and lists to `max_contexts`."""
    values: dict[str, Any] = {}
    cut: list[str] = []
    for name in (*config.reads, *config.may_read):
        needed = name in config.reads
        if name in values:
            continue
        found = look_up(row, config.source(name))
        kind = MESSAGES if name == "user_input" and config.conversation else KINDS.get(name, TEXT)
        try:
            value, shorter = _read(found, kind, config)
        except TypeError:
            if needed:
                return Score.not_evaluable("wrong_type", argument=name)
            continue
        if not value:
            if needed:
                return Score.not_evaluable(_missing(name, found), argument=name)
            continue
        values[name] = value
        if shorter:
            cut.append(name)
    contexts = next((len(values[name]) for name in ("retrieved_contexts", "contexts") if name in values), 0)
    return Given(values, contexts, {"truncated": cut} if cut else {})


def look_up(row: Mapping[str, Any], source: str) -> Any:
    """A field of a row, or one of its `attributes` (a mapping)."""
    what, _, key = source.partition(".")
    if what == "attributes" and key:
        attributes = row.get("attributes")
        return attributes.get(key) if isinstance(attributes, Mapping) else None
    return row.get(source)


def _missing(name: str, found: Any) -> str:
    if name == "response" and isinstance(found, str):
        return "empty_answer"
    return MISSING.get(name, "no_reference")


def _read(found: Any, kind: str, config: Judge.Config) -> tuple[Any, bool]:
    """The value, empty where there is none, and whether it was cut.

    Raises:
        TypeError: it is of another kind.
    """
    if found is None:
        return None, False
    if kind == TEXT:
        if not isinstance(found, str):
            found = json.dumps(found, default=str) if isinstance(found, int | float | bool) else _wrong()
        return (clean(found[: config.max_chars]) if found.strip() else ""), len(found) > config.max_chars
    if kind == TEXTS:
        return _texts(found, config)
    found = _parsed(found)
    if kind == ANY:
        if not isinstance(found, list | dict):
            _wrong()
        whole = json.dumps(found, default=str)
        if len(whole) > config.max_chars:
            _wrong()
        if isinstance(found, list):
            return tool_calls(found), False
        return {str(name): clean(str(text)) for name, text in found.items()}, False
    return _messages(found, config)


def _texts(found: Any, config: Judge.Config) -> tuple[list[str], bool]:
    found = _parsed(found)
    if isinstance(found, str):
        found = [found]
    if not isinstance(found, list | tuple):
        _wrong()
    left = config.max_chars
    kept: list[str] = []
    for text in found:
        if not isinstance(text, str):
            _wrong()
        if not text.strip():
            continue
        if len(kept) == config.max_contexts or not left:
            return kept, True
        kept.append(clean(text[:left]))
        if len(text) > left:
            return kept, True
        left -= len(text)
    return kept, False


def _messages(found: Any, config: Judge.Config) -> tuple[list[dict[str, Any]], bool]:
    """Of a conversation as `monitor.genai.messages` keeps it, {role, parts}, or as senders write it, {role, content}: role, text
    and calls of tools. The newest are kept."""
    if not isinstance(found, list):
        _wrong()
    made: list[dict[str, Any]] = []
    for one in found:
        if not isinstance(one, Mapping):
            _wrong()
        role = str(one.get("role"))
        parts = one.get("parts", one.get("content"))
        parts = [parts] if isinstance(parts, str) else [p for p in parts or () if isinstance(p, str | Mapping)]
        text = "\n".join(_text_of(part) for part in parts if _text_of(part))
        asked = [p for p in parts if isinstance(p, Mapping) and p.get("type") == "tool_call"]
        calls = tool_calls([*asked, *(c.get("function", c) for c in one.get("tool_calls") or () if isinstance(c, Mapping))])
        given = [p.get("response") for p in parts if isinstance(p, Mapping) and p.get("type") == "tool_call_response"]
        made += [{"role": "tool", "content": clean(_plain(one)), "tool_calls": []} for one in given]
        if role in ("user", "assistant", "tool") and (text or calls):
            made.append({"role": role, "content": clean(text), "tool_calls": calls})
    left, kept = config.max_chars, 0
    for one in reversed(made):
        left -= len(one["content"]) + len(json.dumps(one["tool_calls"]))
        if left < 0:
            break
        kept += 1
    return made[len(made) - kept :], kept < len(made)


def tool_calls(found: Sequence[Any]) -> list[dict[str, Any]]:
    """{name, args} of each call; its arguments may be JSON, and be called `arguments`."""
    made = []
    for one in found:
        if not isinstance(one, Mapping) or not isinstance(one.get("name"), str):
            raise TypeError
        given = _parsed(one.get("args", one.get("arguments")))
        made.append({"name": one["name"], "args": dict(given) if isinstance(given, Mapping) else {}})
    return made


def _text_of(part: Any) -> str:
    if isinstance(part, str):
        return part
    return str(part.get("content") or part.get("text") or "") if part.get("type", "text") == "text" else ""


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _parsed(found: Any) -> Any:
    """What a text of JSON says; other texts as they are."""
    if isinstance(found, str) and found.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(found)
        except (ValueError, RecursionError):
            pass
    return found


def clean(text: str) -> str:
    """Without lone surrogates, which no request can carry."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _wrong() -> Any:
    raise TypeError
