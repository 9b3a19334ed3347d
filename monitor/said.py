"""What was asked and answered, as SQL: the texts of a generation's span, else those that came as log records of it.

Instrumentations send content in the attributes of the span, in its events or, apart from it, as logs. A stored generation never
changes, and its logs may come before it or long after. So the two are put together whenever somebody reads, by one rule.
"""

from __future__ import annotations

from collections.abc import Sequence

TEXTS = ("question", "system", "response", "messages", "tool_calls", "finish_reason")

_ORDER = "ORDER BY event_time, seq"
_ALL = (  # each log has messages of its own
    "CASE WHEN count({0}) > 0 THEN "
    f"to_json(flatten(list(from_json({{0}}, '[\"JSON\"]') {_ORDER}) FILTER ({{0}} IS NOT NULL)))::VARCHAR END"
)
_RULES = {
    "question": f"last(question {_ORDER}) FILTER (question IS NOT NULL)",  # what was asked last
    "system": f"first(system {_ORDER}) FILTER (system IS NOT NULL)",
    "response": f"first(response {_ORDER}) FILTER (response IS NOT NULL)",  # of several choices the first
    "messages": _ALL.format("messages"),
    "tool_calls": _ALL.format("tool_calls"),
    "finish_reason": f"first(finish_reason {_ORDER}) FILTER (finish_reason IS NOT NULL)",
}


def in_logs(contents: str, names: Sequence[str] = TEXTS, by: str = "record_id") -> str:
    """SQL of one row for each generation of which there are logs. `contents`: what follows FROM, and perhaps a WHERE."""
    return f"SELECT {by}, {', '.join(f'{_RULES[name]} AS {name}' for name in names)} FROM {contents} GROUP BY {by}"


def filled(generations: str, contents: str, names: Sequence[str] = TEXTS, by: str = "record_id") -> str:
    """SQL of a subquery: all columns of `generations`, with these texts put in where a span has none."""
    chosen = ", ".join(f"coalesce(g.{name}, l.{name}) AS {name}" for name in names)
    return f"(SELECT g.* REPLACE ({chosen}) FROM {generations} g LEFT JOIN ({in_logs(contents, names, by)}) l USING ({by}))"
