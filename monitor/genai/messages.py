"""Messages of any form to one: a list of {role, parts}, as the OpenTelemetry GenAI conventions write them.

What comes: lists of {role, content} (OpenAI, Anthropic, Vercel), of {role, parts} (OTel, Gemini), items of the Responses API,
choices, serialized LangChain messages, trees of indexed attributes (OpenInference, Traceloop), single texts; each as values, as
JSON, or as JSON inside JSON.

What leaves: parts of type `text` and `reasoning` {content}, `tool_call` {id, name, arguments}, `tool_call_response`
{id, name, response}, and `image`, `audio`, `video`, `file` (see media.py); messages with `role`, `parts`, and `name` and
`finish_reason` where there is one. Nothing here raises on a value of another shape: it is passed over.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from typing import Any

import orjson

from monitor.genai.media import lean, lean_text, modality
from monitor.genai.media import part as media_part

Message = dict[str, Any]
Part = dict[str, Any]

MAX_NESTED_JSON = 3
MAX_LITERAL = 1 << 18
MAX_OBJECT = 200

ROLES = {
    "human": "user", "HumanMessage": "user", "HumanMessageChunk": "user",
    "ai": "assistant", "AIMessage": "assistant", "AIMessageChunk": "assistant", "model": "assistant", "bot": "assistant",
    "SystemMessage": "system", "developer": "system",
    "ToolMessage": "tool", "function": "tool", "FunctionMessage": "tool",
}  # fmt: skip
NAMES = {"user", "assistant", "system", "tool"}

CALLS = {"tool_call", "tool_use", "tool-call", "function_call", "server_tool_use", "mcp_call", "custom_tool_call"}
RESULTS = {
    "tool_call_response", "tool_result", "tool-result", "function_call_output", "tool_response", "mcp_tool_result",
    "web_search_tool_result", "custom_tool_call_output",
}  # fmt: skip
TEXTS = {"text", "input_text", "output_text", "TextPart", "summary_text", "refusal", "compaction"}
THOUGHTS = {"reasoning", "thinking", "redacted_thinking", "reasoning_text"}
MEDIA = {
    "image", "image_url", "input_image", "image-url", "audio", "input_audio", "audio_url", "video", "video_url", "file",
    "input_file", "document", "media", "blob", "uri", "output_image", "image_file", "file-data", "file-url",
}  # fmt: skip
_PLAIN, _TEXT = frozenset({"role", "parts", "finish_reason"}), frozenset({"type", "content"})
_SPEAKERS = ("user", "assistant", "system")
INSIDE = ("messages", "input", "contents", "prompt", "output", "choices", "generations", "candidates", "message", "response")
"""Where a request or an answer as a whole keeps its messages."""


def parsed(value: Any) -> Any:
    """The value of a text that is JSON of an object, a list or a text; every other value as it is."""
    for _ in range(MAX_NESTED_JSON):
        if not isinstance(value, str) or len(value) < 2:
            break
        start = value[0] if not value[0].isspace() else value.lstrip()[:1]
        if start not in ("{", "[", '"'):
            break
        try:
            value = orjson.loads(value)
        except (orjson.JSONDecodeError, UnicodeEncodeError):
            break
    return value


def literal(value: Any) -> Any:
    """The value of a text that is what Python prints of a list or a dict: LiteLLM writes them so. Others as they are."""
    if isinstance(value, str) and value[:2] in ("{'", "[{") and len(value) <= MAX_LITERAL:
        try:
            found = ast.literal_eval(value)
            orjson.dumps(found, option=orjson.OPT_NON_STR_KEYS)  # half of a pair, bytes or sets go no further
            return found
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            return value
    return value


def messages(value: Any, role: str) -> list[Message]:
    """Messages of anything; a bare text becomes one of the given role."""
    original = value
    value = parsed(value)
    if isinstance(value, str):
        return [_text_message(role, value)] if value else []
    if isinstance(value, list):
        return _of_list(value, role, original)
    if isinstance(value, dict):
        return _of_object(value, role, original)
    return []


def text_message(value: Any, role: str) -> list[Message]:
    """One message of a text that is no JSON to be read, whatever it looks like."""
    return [_text_message(role, value)] if isinstance(value, str) and value else []


def _text_message(role: str, text: str) -> Message:
    """One text part. What Python prints of an object is no text: MLflow writes it for a stream that it did not look into."""
    if text[0] == "<" and text[-1] == ">" and " object at 0x" in text and len(text) < MAX_OBJECT:
        return {"role": role, "parts": []}
    return {"role": role, "parts": [{"type": "text", "content": lean_text(text)}]}


def _of_list(items: list[Any], role: str, original: Any) -> list[Message]:
    if not items:
        return []
    if all(isinstance(i, str) for i in items):
        items = [parsed(i) for i in items]
        if all(isinstance(i, str) for i in items):
            return [_text_message(role, i) for i in items if i]
    if all(isinstance(i, list) for i in items):  # LangChain: a list of conversations, nearly always of one
        items = [inner for outer in items for inner in outer]
    out: list[Message] = []
    loose: list[Any] = []  # parts without a message around them
    for item in items:
        item = parsed(item)
        if isinstance(item, dict):
            if one := _canonical(item) or message(item, role):
                out.append(one)
            else:
                loose.append(item)
        elif isinstance(item, str):
            loose.append(item)
    if loose and not out and (found := parts(loose)):
        out.append({"role": role, "parts": found})
    return out


def _of_object(value: dict[str, Any], role: str, original: Any) -> list[Message]:
    if one := message(value, role):
        return [one]
    out: list[Message] = []
    system = value.get("system") or value.get("instructions") or value.get("systemInstruction")
    if system and (found := parts(system)):
        out.append({"role": "system", "parts": found})
    for name in INSIDE:
        inner = value.get(name)
        if inner:
            out += messages(inner, role)
            if out:
                return out
    if isinstance(value.get("text"), str):
        return [_text_message(role, value["text"])]
    # A shape nobody told us about is still what the model was given: keep it as text.
    text = original if isinstance(original, str) else dumped(value)
    return [*out, _text_message(role, text)] if text else out


def _canonical(value: dict[str, Any]) -> Message | None:
    """One that is written as here already, with nothing but text: as most are, and in a fifth of the time. None for others."""
    if (
        not value.keys() <= _PLAIN
        or (named := value.get("role")) not in _SPEAKERS
        or not isinstance(given := value.get("parts"), list)
    ):
        return None
    found: list[Part] = []
    for one in given:
        if type(one) is not dict or one.keys() != _TEXT or one["type"] != "text" or type(text := one["content"]) is not str:
            return None
        if text:
            found.append({"type": "text", "content": lean_text(text)})
    out: Message = {"role": named, "parts": found}
    if isinstance(reason := value.get("finish_reason"), str) and reason:
        out["finish_reason"] = reason
    return out


def message(value: dict[str, Any], role: str) -> Message | None:
    """One message, or None where the object is none: a part, or a whole request."""
    if isinstance(inner := value.get("message"), dict):  # a choice, or OpenInference's tree
        value = {**inner, **{k: v for k, v in value.items() if k in ("finish_reason", "index")}}
    kind = value.get("type")
    if isinstance(inner := value.get("kwargs"), dict) and isinstance(ids := value.get("id"), list) and ids:  # LangChain
        value, kind = inner, ids[-1]
    elif isinstance(inner := value.get("data"), dict) and kind in ROLES:
        value = inner
    named = value.get("role")
    if not isinstance(named, str) or not named:
        if not isinstance(kind, str):
            kind = None
        if kind in ("function_call", "custom_tool_call", "mcp_call", "reasoning"):
            return _made("assistant", parts([value]), value)
        if kind in ("function_call_output", "custom_tool_call_output"):
            return _made("tool", parts([value]), value)
        if kind is not None and (kind in ROLES or (kind in NAMES and "content" in value)):
            named = kind
        elif (
            isinstance(value.get("tool_calls"), (list, dict, str))
            or "parts" in value
            or ("content" in value and kind is None)
            or kind == "message"
        ):
            named = role
        elif isinstance(value.get("text"), str) and "finish_reason" in value:  # a choice of the old completions API
            return _made(role, parts([value["text"]]), value)
        else:
            return None
    named = ROLES.get(named, named)
    found = _content(value)
    if named == "tool" and not any(p["type"] == "tool_call_response" for p in found):
        answer = value.get("content") if "content" in value else _join(found)
        found = [_result(value.get("tool_call_id") or value.get("id"), value.get("name"), answer)]
    return _made(named, found, value)


def _made(role: str, found: list[Part], value: dict[str, Any]) -> Message | None:
    if not found and "finish_reason" not in value and "content" not in value and "parts" not in value:
        return None
    out: Message = {"role": role[:64], "parts": found}
    if isinstance(name := value.get("name"), str) and name and role != "tool":
        out["name"] = name
    if isinstance(reason := value.get("finish_reason") or value.get("stop_reason"), str):
        out["finish_reason"] = reason
    return out


def _content(value: dict[str, Any]) -> list[Part]:
    found: list[Part] = []
    if isinstance(thought := value.get("reasoning_content") or value.get("thinking"), str):
        found.append({"type": "reasoning", "content": lean_text(thought)})
    for name in ("content", "parts", "contents"):
        if (inner := value.get(name)) is not None:
            found += parts(inner)
    calls = parsed(value.get("tool_calls"))
    if isinstance(calls, dict):  # indexed keys: {0: {...}, 1: {...}}
        calls = list(calls.values())
    if isinstance(calls, list):
        known = {p.get("id") for p in found if p["type"] == "tool_call"}
        for item in calls:
            if isinstance(item, dict) and (one := _call(item)) and not (one.get("id") and one["id"] in known):
                found.append(one)
    if isinstance(call := value.get("function_call"), dict) and (one := _call(call)):
        found.append(one)
    if isinstance(called := value.get("function_call_name"), str):
        found.append(_made_call(None, called, value.get("function_call_arguments_json")))
    return found


def parts(value: Any) -> list[Part]:
    """Parts of a content: a text, JSON of parts, a list of parts, a single part."""
    if isinstance(value, str) and value[:1] in ("[", "{") and value[1:2] in ('"', "{", "[", "\n", " "):
        inner = literal(parsed(value))
        # A user may well write JSON: it is parts only where each says its type.
        if isinstance(inner, list) and inner and all(isinstance(i, dict) and isinstance(i.get("type"), str) for i in inner):
            value = inner
    if isinstance(value, str):
        return [{"type": "text", "content": lean_text(value)}] if value else []
    if isinstance(value, dict):
        value = list(value.values()) if value and all(isinstance(k, int) for k in value) else [value]
    if not isinstance(value, (list, tuple)):
        return []
    found: list[Part] = []
    for item in value:
        if isinstance(item, str):
            if item:
                found.append({"type": "text", "content": lean_text(item)})
        elif isinstance(item, dict) and (one := part(item)):
            found.append(one)
    return found


def part(value: dict[str, Any]) -> Part | None:
    """One part in canonical form; None where nothing is in it."""
    if isinstance(inner := value.get("message_content"), dict):
        value = {**value, **inner}
    if isinstance(value.get("tool_call"), dict):
        return _call(value)
    kind = value.get("type")
    if not isinstance(kind, str):
        kind = None
    if kind in TEXTS or (kind is None and isinstance(value.get("text"), str)):
        text = value.get("text") if isinstance(value.get("text"), str) else value.get("content", value.get("refusal"))
        if not isinstance(text, str) or not text:
            return None
        return {"type": "reasoning" if value.get("thought") is True else "text", "content": lean_text(text)}
    if kind in CALLS or "functionCall" in value or "function_call" in value:
        return _call(value)
    if kind in RESULTS or "functionResponse" in value or "function_response" in value:
        answer = value.get("functionResponse") or value.get("function_response")
        if isinstance(answer, dict):
            return _result(answer.get("id"), answer.get("name"), answer.get("response"))
        called = value.get("tool_use_id") or value.get("call_id") or value.get("toolCallId") or value.get("id")
        for name in ("response", "result", "content", "output"):
            if name in value:
                return _result(called, value.get("name") or value.get("toolName"), value[name])
        return _result(called, value.get("name"), None)
    if kind in THOUGHTS:
        text = _first_text(value, "content", "thinking", "text", "reasoning") or _join(parts(value.get("summary")))
        return {"type": "reasoning", "content": lean_text(text)} if text else None
    if kind in MEDIA or any(name in value for name in ("inlineData", "inline_data", "fileData", "file_data", "image_url")):
        return _media(value, kind)
    if kind is None:
        return None
    return {**lean(value), "type": kind[:64]}


def _media(value: dict[str, Any], kind: str | None) -> Part:
    mime = _first_text(value, "mime_type", "mimeType", "media_type", "mediaType")
    data = _first_text(value, "data", "image", "audio", "content", "file_data", "fileData")
    uri = _first_text(value, "uri", "url", "image_url", "file_uri", "file_id")
    for name in ("image", "image_url", "audio", "input_audio", "video", "video_url", "file", "source", "document", "inlineData",
                 "inline_data", "fileData", "data"):  # fmt: skip
        inner = value.get(name)
        for _ in range(2):  # OpenInference: message_content.image.image.url
            if not isinstance(inner, dict):
                break
            mime = (
                mime
                or _first_text(inner, "mime_type", "mimeType", "media_type", "mimetype")
                or (f"audio/{inner['format']}" if name == "input_audio" and isinstance(inner.get("format"), str) else None)
            )
            data = data or _first_text(inner, "data", "file_data", "bytes")
            uri = uri or _first_text(inner, "url", "uri", "fileUri", "file_uri", "file_id")
            inner = inner.get(name)
    if data and not uri and "://" in data[:32]:
        data, uri = None, data
    if uri and uri.startswith("@@@langfuseMedia:"):  # it took the bytes out itself; its id begins with the hash of them
        kind, mime = kind or "image", mime or uri.partition("type=")[2].partition("|")[0] or None
    hint = value.get("modality") if isinstance(value.get("modality"), str) else kind
    found = media_part(modality(hint, mime), mime, data, uri, value.get("vector"))
    for name, of in (("size", int), ("sha256", str)):  # said by the sender, who kept the bytes
        if name not in found and isinstance(value.get(name), of) and not isinstance(value.get(name), bool):
            found[name] = value[name]
    return found


def _call(value: dict[str, Any]) -> Part | None:
    identity = _first_text(value, "call_id", "tool_call_id", "toolCallId", "id")
    for name in ("tool_call", "function", "functionCall", "function_call"):
        if isinstance(inner := value.get(name), dict):
            identity = identity or _first_text(inner, "call_id", "id")
            value = inner
    called = _first_text(value, "name", "toolName", "tool_name")
    if called is None and identity is None:
        return None
    for key in ("arguments", "args", "input", "parameters"):
        if key in value:
            return _made_call(identity, called, value[key])
    return _made_call(identity, called, None)


def _made_call(identity: str | None, name: str | None, arguments: Any) -> Part:
    if isinstance(arguments, str) and arguments[:1] in ("{", "["):
        arguments = parsed(arguments)
    return {"type": "tool_call", "id": identity, "name": name, "arguments": lean(arguments)}


def _result(identity: Any, name: Any, response: Any) -> Part:
    if isinstance(response, dict) and response.get("type") in ("text", "json") and "value" in response:  # Vercel
        response = response["value"]
    if isinstance(response, list):
        inner = parts(response)
        if inner and all(p["type"] == "text" for p in inner):
            response = _join(inner)
        elif inner:
            response = inner
    out: Part = {"type": "tool_call_response", "id": identity if isinstance(identity, str) else None, "response": lean(response)}
    if isinstance(name, str) and name:
        out["name"] = name
    return out


def _first_text(value: dict[str, Any], *names: str) -> str | None:
    for name in names:
        if isinstance(text := value.get(name), str) and text:
            return text
    return None


def _join(found: Iterable[Part], by: str = "") -> str:
    return by.join(p["content"] for p in found if p["type"] == "text")


def text_of(one: Message, by: str = "") -> str:
    """The text parts of a message."""
    return _join(one["parts"], by)


def dumped(value: Any) -> str | None:
    """JSON of a value, None where it has none."""
    try:
        return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode()
    except (TypeError, ValueError, RecursionError):
        return None
