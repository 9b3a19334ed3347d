"""What kind of failure a call ended in: six classes, made of the error type that was stored, whoever named it and however."""

from __future__ import annotations

import re
from typing import Literal, get_args

ErrorClass = Literal["timeout", "server", "rate_limit", "auth", "content_filter", "other"]
CLASSES: tuple[ErrorClass, ...] = get_args(ErrorClass)

OTHER_ERROR = "_OTHER"  # what OpenTelemetry calls an error without a class
FILTERED = "content_filter"
SAID = re.compile(r"\bError code: (\d{3})\b")  # as the clients of OpenAI and Anthropic begin their messages

# In this order: what a filter refuses comes as a bad request, and a gateway that waited too long is late, not broken.
_WORDS: tuple[tuple[ErrorClass, re.Pattern[str]], ...] = (
    ("content_filter", re.compile("contentfilter|contentpolicy|responsibleai|guardrail|moderation|safety|blockedprompt")),
    ("rate_limit", re.compile("ratelimit|toomanyrequests|throttl|resourceexhausted|quota|toomanytokens")),
    ("timeout", re.compile("timeout|timedout|deadlineexceeded")),
    ("auth", re.compile("auth|permission|forbidden|accessdenied|apikey|credential|unrecognizedclient|signaturedoesnotmatch")),
    ("server", re.compile("internalserver|servererror|serviceunavailable|unavailable|overload|badgateway|internalfailure|connect|"
                          "modelerrorexception|modelnotready|protocolerror|readerror|writeerror|internalerror")),
)  # fmt: skip


def class_of(error_type: str | None, finish_reason: str | None = None) -> ErrorClass | None:
    """None where there is no error. A connection that failed counts as `server`: nobody answered.

    >>> [class_of(e) for e in ("RateLimitError", "429", "APITimeoutError", "503", "AuthenticationError", "BadRequestError", None)]
    ['rate_limit', 'rate_limit', 'timeout', 'server', 'auth', 'other', None]
    >>> class_of("BadRequestError", "content_filter")
    'content_filter'
    """
    if error_type is None:
        return None
    if finish_reason == FILTERED:
        return "content_filter"
    if error_type.isascii() and error_type.isdigit():
        return _of_status(int(error_type[:9]))
    word = re.sub(r"[^a-z0-9]", "", error_type[:200].lower())
    return next((found for found, words in _WORDS if words.search(word)), "other")


def _of_status(status: int) -> ErrorClass:
    known: dict[int, ErrorClass] = {401: "auth", 403: "auth", 408: "timeout", 429: "rate_limit"}
    return known.get(status, "server" if 500 <= status < 600 else "other")


def named(error_type: str, status: int | None, message: str | None) -> str:
    """The error type, where the sender gave none that says anything: the HTTP status, else what the message begins with.

    A prompt that a filter refused is a bad request by its type, and only its message says more.

    >>> named("_OTHER", 429, None), named("_OTHER", None, "Error code: 401 - {'error': ...}"), named("KeyError", 500, None)
    ('429', '401', 'KeyError')
    """
    text = (message or "")[:2000]
    if error_type in (OTHER_ERROR, "BadRequestError", "400") and re.search(r"content_filter|content management policy", text):
        return FILTERED
    if error_type != OTHER_ERROR:
        return error_type
    if status is not None and 400 <= status < 600:
        return str(status)
    said = SAID.search(text)
    return said[1] if said else OTHER_ERROR
