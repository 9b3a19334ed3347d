"""From messages to the columns of a generation: question, response, system instructions, tool calls, fingerprint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from monitor.genai.canonical import Canonical
from monitor.genai.fingerprint import Fingerprints
from monitor.genai.messages import Part, dumped, parts, text_of

FROM_MESSAGES = ("question", "response", "system", "messages", "tool_calls", "fingerprint")


def fill(
    found: Canonical, system: list[Part], template: str | None, finish_reasons: Mapping[str, str], fingerprints: Fingerprints
) -> None:
    """Derive what the messages say. `system`: instructions that came apart from the messages."""
    fields = found.fields
    given, answered = found.input_messages, found.output_messages
    instructions = "\n".join(p["content"] for p in system if p["type"] == "text") or next(
        (said for m in given if m["role"] == "system" and (said := text_of(m, "\n"))), None
    )
    if instructions:
        fields["system"] = instructions
    question = next((said for m in reversed(given) if m["role"] == "user" and (said := text_of(m, "\n"))), None)
    if question:
        fields["question"] = question
    response = next((said for m in answered if (said := text_of(m))), None)
    if response:
        fields["response"] = response
    calls = [
        {"id": p.get("id"), "name": p.get("name"), "arguments": p.get("arguments")}
        for m in answered
        for p in m["parts"]
        if p["type"] == "tool_call"
    ]
    if calls and (text := dumped(calls)):
        fields["tool_calls"] = text
    if "finish_reason" not in fields and (reason := next((m["finish_reason"] for m in answered if "finish_reason" in m), None)):
        fields["finish_reason"] = finish_reasons.get(reason, reason)
    whole = given + answered
    if whole or system:
        if system and not any(m["role"] == "system" for m in given):
            whole = [{"role": "system", "parts": system}, *whole]
        if text := dumped(whole):
            fields["messages"] = text
    if "prompt_name" not in fields or "prompt_version" not in fields:
        first = next((text_of(m, "\n") for m in given if m["role"] == "user"), None)
        if mark := fingerprints.of(instructions, first, template):
            fields["fingerprint"] = mark


def complete(
    found: Canonical, later: Iterable[Canonical], finish_reasons: Mapping[str, str], fingerprints: Fingerprints
) -> Canonical:
    """The generation of a span with what came beside it as log records of the same trace and span, in their order.

    What the span says itself stands. Messages are taken from the logs where the span has none, so calling it again with the
    same logs, or with more of them, is safe.
    """
    others = list(later)
    out = Canonical(
        found.type, dict(found.fields), found.documents, found.retrieval, found.feedback, found.own,
        found.input_messages, found.output_messages,
    )  # fmt: skip
    whole = [
        o for o in others if o.fields.get("messages") and (len(o.input_messages) > 1 or (o.input_messages and o.output_messages))
    ]
    for name, chosen in (("input_messages", whole), ("output_messages", whole)):
        if not getattr(out, name):
            taken = next((getattr(o, name) for o in chosen if getattr(o, name)), None)
            setattr(out, name, taken or [m for o in others for m in getattr(o, name)])
    for other in others:
        for name, value in other.fields.items():
            if name not in FROM_MESSAGES:
                out.fields.setdefault(name, value)
    if "system" in found.fields:
        system = parts(found.fields["system"])
    else:
        apart = next((o.fields["system"] for o in others if "system" in o.fields and o in whole), None)
        system = parts(apart) if apart and not any(m["role"] == "system" for m in out.input_messages) else []
    for name in FROM_MESSAGES:
        if name != "fingerprint" or out.input_messages is not found.input_messages:
            out.fields.pop(name, None)
    fill(out, system, None, finish_reasons, fingerprints)
    return out
