"""Messages that come in pieces: as indexed attributes, and as one event each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monitor.genai.messages import Message, message, parsed, text_message


def of_trees(tree: Mapping[Any, Any], role: str) -> list[Message]:
    """Of all nodes in order; the index need not begin at 0."""
    return [m for i in sorted(i for i in tree if isinstance(i, int)) if (m := _of_tree(tree[i], role))]


def _of_tree(node: Any, role: str) -> Message | None:
    """OpenInference's {"message": {...}}, Traceloop's {role, content}, OpenInference's prompts and choices."""
    if not isinstance(node, dict):
        return None
    for name in ("prompt", "completion"):
        if isinstance(inner := node.get(name), dict):
            return next(iter(text_message(inner.get("text"), role)), None)
    holder = dict(inner) if isinstance(inner := node.get("message"), dict) else dict(node)
    if isinstance(calls := holder.get("tool_calls"), dict):
        holder["tool_calls"] = [c.get("tool_call", c) if isinstance(c, dict) else c for c in _ordered(calls)]
    if isinstance(contents := holder.pop("contents", None), dict):
        holder["content"] = _ordered(contents)  # where `content` is there too, the parts are the fuller telling
    if not isinstance(holder.get("role"), str):
        holder["role"] = role
    return message(holder, role)


def _ordered(items: Mapping[Any, Any]) -> list[Any]:
    return [items[i] for i in sorted(i for i in items if isinstance(i, int))]


def of_event(body: Mapping[str, Any], attributes: Mapping[str, Any], role: str) -> Message | None:
    """An event up to 1.36: the message in the body, in the attributes, or as JSON in `gen_ai.event.content`."""
    content = parsed(attributes.get("gen_ai.event.content"))
    value: dict[str, Any] = dict(content) if isinstance(content, dict) else {}
    value.update(body)
    inner = parsed(value.get("message"))
    if isinstance(inner, dict):
        value["message"] = {"role": role, **inner}
        for name in ("content", "tool_calls"):
            if name in value["message"]:
                value["message"][name] = _calls(name, value["message"][name])
    else:
        value.pop("message", None)
        if isinstance(inner, str):
            value.setdefault("content", inner)
        if not isinstance(value.get("role"), str):
            value["role"] = role
    for name in ("tool_calls", "function_call"):
        if name in value:
            value[name] = parsed(value[name])
    value.pop("type", None)
    return message(value, role)


def _calls(name: str, value: Any) -> Any:
    return parsed(value) if name == "tool_calls" else value
