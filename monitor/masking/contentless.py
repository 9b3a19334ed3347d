"""Metrics only: what is left of a record when no content may be stored.

Nothing that a person or a model wrote stays: no question, answer, message, passage, prompt, tool argument, comment, error
text. Numbers, booleans, times and ids stay, and text in fields that are known not to carry content. That list is of what may
stay, so an attribute nobody has heard of is left out rather than let through. How long the left-out texts were is kept
under `content_characters`.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

LENGTHS = "content_characters"
ATTRIBUTE_LENGTHS = "modelwatch.content_characters"

IDS = frozenset({"record_id", "trace_id", "span_id", "parent_id", "model", "timestamp"})
NO_ID = "not kept: no id"
RECORD_FIELDS = frozenset(
    [
        "model_version", "provider", "llm_model",
        "request_model", "operation", "finish_reason", "error_type", "conversation_id", "user_id", "prompt_name",
        "prompt_version", "document_id", "agent", "workflow", "service", "environment", "release", "gateway", "route",
        "prediction", "label", "name", "source", "rater", "feedback_id", "version", "data_hash", "code_commit", "prompt_hash",
        "approver", "origin", "event", "alias", "fingerprint", "type", "kind",
    ]
)  # fmt: skip
"""Fields of pushed records whose text is no content, if it is no longer than a few words."""
_MAX_WORDS, _MAX_WORD = 3, 128
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_TIME = re.compile(r"[0-9TtZz:+. -]{1,40}")

_ATTRIBUTES = re.compile(
    r"""
    gen_ai\.(?:system|provider\.name|operation\.name|output\.type|token\.type|data_source\.id)
  | gen_ai\.(?:request|response)\.(?:model|id|finish_reasons|service_tier|system_fingerprint|encoding_formats|reasoning\.level)
  | gen_ai\.(?:openai|aws|azure|anthropic)\.(?:request|response|api|bedrock)[\w.]*
  | gen_ai\.(?:agent|workflow|conversation|prompt)\.(?:id|name|version)
  | gen_ai\.tool\.(?:name|type|call\.id)
  | gen_ai\.evaluation\.(?:name|score\.label)
  | gen_ai\.completion\.\d+\.finish_reason
  | gen_ai\.(?:prompt|completion)\.\d+\.role
  | openinference\.span\.kind | (?:llm|embedding|reranker)\.(?:model_name|provider|system|finish_reason)
  | llm\.(?:request\.(?:type|model_name)|response\.(?:model|model_name|finish_reason)|is_streaming|user)
  | llm\.(?:input|output)_messages\.\d+\.message\.(?:role|finish_reason)
  | tool\.name | agent\.name | graph\.node\.(?:id|name|parent_id)
  | traceloop\.(?:span\.kind|workflow\.name|entity\.(?:name|path|version)|prompt\.(?:key|version))
  | traceloop\.association\.properties\.(?:session_id|user_id|ls_provider|ls_model_name|ls_model_type)
  | ai\.(?:operationId|model\.(?:id|provider)|response\.(?:id|model|finishReason|timestamp)|toolCall\.(?:name|id)|finishReason)
  | ai\.telemetry\.(?:functionId|metadata\.(?:sessionId|userId))
  | langfuse\.(?:environment|release|version|internal\.\w+|session\.id|user\.id|trace\.name)
  | langfuse\.observation\.(?:type|level|model\.name|prompt\.(?:name|version)|completion_start_time)
  | mlflow\.(?:spanType|traceRequestId|spanFunctionName|experimentId)
  | (?:session|user|enduser|thread|conversation|prompt)[._]id
  | (?:service|deployment|telemetry|host|os|container|k8s|cloud|faas|process\.runtime|otel)\.[\w.-]+
  | modelwatch\.(?:model|model_version|judge|gateway|route|prompt\.(?:name|version))
  | (?:error|exception)\.type | http\.(?:request\.method|response\.status_code|method|status_code)
  | (?:server|network|net)\.[\w.]+ | rpc\.(?:system|service|method)
  | db\.(?:system|system\.name|operation|operation\.name|collection\.name|namespace|name|vector\.[\w.]+)
    """,
    re.VERBOSE,
)


def record(item: dict[str, Any]) -> dict[str, Any]:
    """A pushed record without content."""
    lengths: dict[str, Any] = dict(old) if isinstance(old := item.get(LENGTHS), dict) else {}
    kept: dict[str, Any] = {}
    for name, value in item.items():
        if name in IDS:
            kept[name] = value if is_id(name, value) else NO_ID  # still there, so that the record is rejected for it
        elif name in RECORD_FIELDS and _is_word(value):
            kept[name] = value
        elif name == "features" and isinstance(value, dict):
            kept[name] = value  # a tabular model's numbers and categories, which drift is measured on
        elif name == "contexts" and isinstance(value, list):
            kept[name] = [_passage(one) for one in value]
            lengths[name] = characters(value) or lengths.get(name, 0)
        elif name == LENGTHS or not _NAME.fullmatch(name):
            continue  # a name that is no name may be content too
        elif _is_number(value):
            kept[name] = value
        elif size := characters(value):
            lengths[name] = size
    lengths = {name: size for name, size in lengths.items() if _is_number(size) and size}
    if lengths:
        kept[LENGTHS] = lengths
    return kept


def attributes(values: dict[str, Any], also: Collection[str] = ()) -> dict[str, Any]:
    """Attributes of a span, an event, a link or a log record without content. `also`: names that may stay beside those known."""
    old = values.get(ATTRIBUTE_LENGTHS)
    lengths: dict[str, Any] = dict(old) if isinstance(old, dict) else {}
    kept: dict[str, Any] = {}
    for name, value in values.items():
        if name == ATTRIBUTE_LENGTHS or not _NAME.fullmatch(name):
            continue
        if _is_number(value) or ((name in also or _ATTRIBUTES.fullmatch(name)) and _is_word(value)):
            kept[name] = value
        elif size := characters(value):
            lengths[name] = size
    if lengths := {name: size for name, size in lengths.items() if _is_number(size)}:
        kept[ATTRIBUTE_LENGTHS] = lengths
    return kept


_NAME = re.compile(r"[A-Za-z_][\w.\[\]-]{0,127}")


def characters(value: Any) -> int:
    """In all texts of a value."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(characters, value.values()))
    if isinstance(value, list):
        return sum(map(characters, value))
    return 0


def _passage(one: Any) -> Any:
    """Its place, id and score. The text is there and empty, as the record wants one."""
    if not isinstance(one, dict):
        return {"text": ""}
    kept = {name: one[name] for name in ("document_id", "score") if name in one and _is_word(one[name])}
    return {"text": "", **kept}


def _is_number(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float))


def is_id(name: str, value: Any) -> bool:
    """Whether what stands in a field of `IDS` is an id, a model or a time, and not something that only got there."""
    if not isinstance(value, str):
        return _is_number(value)
    return _MODEL.fullmatch(value) is not None if name == "model" else name != "timestamp" or _TIME.fullmatch(value) is not None


def _is_word(value: Any) -> bool:
    """A number, a few words, or a list of such."""
    if isinstance(value, str):
        return len(value) <= _MAX_WORD and len(value.split()) <= _MAX_WORDS
    return _is_number(value) or (isinstance(value, list) and all(not isinstance(v, (list, dict)) and _is_word(v) for v in value))
