"""What a span says, in any dialect. Recorded spans of real instrumentations are in tests/golden."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monitor.genai.canonical import Canonical
from monitor.genai.dialects import Dialects
from monitor.otlp.spans import Event, Link, LogRecord, Span
from monitor.schema import KINDS

DIALECTS = Dialects()
START, END = 1_760_000_000_000_000_000, 1_760_000_002_000_000_000
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def span(
    attributes: dict[str, Any], *, name: str = "a span", events: list[Event] | None = None, links: list[Link] | None = None,
    resource: dict[str, Any] | None = None, scope: str | None = None, status: str = "unset",
) -> Span:  # fmt: skip
    return Span(
        TRACE,
        SPAN,
        None,
        name,
        "client",
        START,
        END,
        status,
        None,
        attributes,
        events or [],
        links or [],
        resource or {},
        scope,
        None,
    )


def log(name: str | None, body: Any = None, **attributes: Any) -> LogRecord:
    return LogRecord(START, TRACE, SPAN, name, None, body, attributes, {}, None, None)


def read(attributes: dict[str, Any], **more: Any) -> Canonical:
    return DIALECTS.read(span(attributes, **more))


# ---- what it is ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "kind"),
    (
        ({"openinference.span.kind": "LLM", "gen_ai.operation.name": "invoke_agent"}, "llm"),
        ({"gen_ai.operation.name": "chat"}, "llm"),
        ({"gen_ai.operation.name": "invoke_agent", "gen_ai.usage.input_tokens": 10}, "agent"),
        ({"gen_ai.operation.name": "invoke_workflow"}, "agent"),
        ({"gen_ai.operation.name": "execute_tool"}, "tool"),
        ({"gen_ai.operation.name": "embeddings"}, "embedding"),
        ({"gen_ai.operation.name": "retrieval"}, "retriever"),
        ({"traceloop.span.kind": "workflow"}, "agent"),
        ({"traceloop.span.kind": "task"}, "chain"),
        ({"llm.request.type": "rerank"}, "reranker"),
        ({"langfuse.observation.type": "generation"}, "llm"),
        ({"langfuse.observation.type": "guardrail"}, "guardrail"),
        ({"ai.operationId": "ai.streamText", "ai.usage.inputTokens": 5}, "agent"),
        ({"ai.operationId": "ai.streamText.doStream"}, "llm"),
        ({"ai.operationId": "ai.toolCall"}, "tool"),
        ({"ai.operationId": "ai.somethingNew"}, "chain"),
        ({"mlflow.spanType": '"CHAT_MODEL"'}, "llm"),
        ({"mlflow.spanType": "RERANKER"}, "reranker"),
        ({"gen_ai.tool.name": "search"}, "tool"),
        ({"gen_ai.prompt.0.content": "hi"}, "llm"),
        ({"retrieval.documents.0.document.id": "7"}, "retriever"),
        ({"db.system": "postgresql", "db.operation": "query"}, "other"),
        ({"http.request.method": "POST"}, "other"),
        ({"openinference.span.kind": 7, "gen_ai.operation.name": ["chat"]}, "other"),
    ),
)
def test_the_type_of_a_span_is_told_by_the_first_attribute_that_knows(attributes: dict[str, Any], kind: str) -> None:
    assert read(attributes).type == kind


def test_the_traffic_of_our_own_judge_is_marked_by_the_span_or_its_resource() -> None:
    assert read({"modelwatch.judge": True, "gen_ai.operation.name": "chat"}).own
    assert read({"gen_ai.operation.name": "chat"}, resource={"modelwatch.judge": "true"}).own
    assert not read({"gen_ai.operation.name": "chat", "modelwatch.judge": False}).own
    marked = log("gen_ai.user.message", {"content": "hi"}, **{"modelwatch.judge": True})
    one = DIALECTS.read_log(marked)
    assert one is not None
    assert one.own


# ---- content ---------------------------------------------------------------------------------------------------------------

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Where is Paris?"},
]


@pytest.mark.parametrize(
    "attributes",
    (
        {"gen_ai.input.messages": MESSAGES},
        {"gen_ai.input.messages": json.dumps(MESSAGES)},
        {"gen_ai.input.messages": json.dumps(json.dumps(MESSAGES))},
        {"gen_ai.input.messages": [{"role": m["role"], "parts": [{"type": "text", "content": m["content"]}]} for m in MESSAGES]},
        {"gen_ai.input.messages": [json.dumps(m) for m in MESSAGES]},
        {
            "gen_ai.input.messages": MESSAGES[1:],
            "gen_ai.system_instructions": '[{"type": "text", "content": "Be brief."}]',
        },
        {"gen_ai.input.messages": MESSAGES[1:], "gen_ai.system_instructions": "Be brief."},
        {f"llm.input_messages.{i}.message.{k}": v for i, m in enumerate(MESSAGES, 1) for k, v in m.items()},
        {f"gen_ai.prompt.{i}.{k}": v for i, m in enumerate(MESSAGES) for k, v in m.items()},
        {"ai.prompt": json.dumps({"system": "Be brief.", "prompt": "Where is Paris?"})},
        {"ai.prompt": json.dumps({"system": "Be brief.", "messages": MESSAGES[1:]})},
        {
            "ai.prompt.messages": json.dumps(
                [MESSAGES[0], {"role": "user", "content": [{"type": "text", "text": "Where is Paris?"}]}]
            )
        },
        {"langfuse.observation.input": json.dumps({"messages": MESSAGES, "tools": []})},
        {"mlflow.spanInputs": json.dumps({"system": "Be brief.", "messages": MESSAGES[1:], "model": "m"})},
        {"input.value": json.dumps({"instructions": "Be brief.", "input": "Where is Paris?"})},
        {
            "input.value": json.dumps(
                [[{"type": "system", "content": "Be brief."}, {"type": "human", "content": "Where is Paris?"}]]
            )
        },
        {
            "traceloop.entity.input": json.dumps(
                [
                    {"lc": 1, "type": "constructor", "id": ["langchain", "SystemMessage"], "kwargs": {"content": "Be brief."}},
                    {
                        "lc": 1,
                        "type": "constructor",
                        "id": ["langchain", "HumanMessage"],
                        "kwargs": {"content": "Where is Paris?"},
                    },
                ]
            )
        },
        {"gen_ai.input.messages": 7, "llm.input_messages": "?", "langfuse.observation.input": json.dumps(MESSAGES)},
    ),
)
def test_a_conversation_is_read_whatever_form_it_comes_in(attributes: dict[str, Any]) -> None:
    fields = read({"gen_ai.operation.name": "chat", **attributes}).fields
    assert fields["question"] == "Where is Paris?"
    assert fields["system"] == "Be brief."
    assert json.loads(fields["messages"]) == [
        {"role": "system", "parts": [{"type": "text", "content": "Be brief."}]},
        {"role": "user", "parts": [{"type": "text", "content": "Where is Paris?"}]},
    ]


@pytest.mark.parametrize(
    "attributes",
    (
        {
            "gen_ai.completion.0.role": "assistant",
            "gen_ai.completion.0.finish_reason": "tool_calls",
            "gen_ai.completion.0.tool_calls.0.id": "c1",
            "gen_ai.completion.0.tool_calls.0.name": "add",
            "gen_ai.completion.0.tool_calls.0.arguments": '{"a": 1}',
        },
        {
            "llm.output_messages.0.message.role": "assistant",
            "llm.output_messages.0.message.finish_reason": "tool_calls",
            "llm.output_messages.0.message.tool_calls.0.tool_call.id": "c1",
            "llm.output_messages.0.message.tool_calls.0.tool_call.function.name": "add",
            "llm.output_messages.0.message.tool_calls.0.tool_call.function.arguments": '{"a": 1}',
            "llm.output_messages.0.message.contents.0.message_content.type": "tool_use",
            "llm.output_messages.0.message.contents.0.tool_call.id": "c1",
            "llm.output_messages.0.message.contents.0.tool_call.function.name": "add",
            "llm.output_messages.0.message.contents.0.tool_call.function.arguments": '{"a": 1}',
        },
        {
            "ai.response.toolCalls": '[{"type": "tool-call", "toolCallId": "c1", "toolName": "add", "input": "{\\"a\\": 1}"}]',
            "ai.response.finishReason": "tool-calls",
        },
        {
            "langfuse.observation.output": json.dumps(
                {"role": "assistant", "tool_calls": [{"id": "c1", "function": {"name": "add", "arguments": '{"a": 1}'}}]}
            ),
            "gen_ai.response.finish_reasons": ["tool_calls"],
        },
        {
            "output.value": json.dumps(
                {"content": [{"type": "tool_use", "id": "c1", "name": "add", "input": {"a": 1}}], "role": "assistant"}
            ),
            "llm.finish_reason": "tool_use",
        },
        {
            "gen_ai.output.messages": [
                {"role": "assistant", "parts": [{"type": "tool_call", "id": "c1", "name": "add", "arguments": {"a": 1}}],
                 "finish_reason": "tool_call"},
            ],
        },
        {
            "mlflow.spanOutputs": json.dumps(
                {"choices": [{"finish_reason": "tool_calls", "message": {"role": "assistant", "content": None, "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}]}}]}
            )
        },
        {
            "output.value": json.dumps(
                {"output": [{"type": "function_call", "call_id": "c1", "name": "add", "arguments": '{"a": 1}'}]}
            ),
            "llm.finish_reason": "tool_calls",
        },
    ),
)  # fmt: skip
def test_a_tool_call_is_found_once_in_every_form(attributes: dict[str, Any]) -> None:
    fields = read({"gen_ai.operation.name": "chat", **attributes}).fields
    assert json.loads(fields["tool_calls"]) == [{"id": "c1", "name": "add", "arguments": {"a": 1}}]
    assert fields["finish_reason"] == "tool_call"


def test_an_answer_that_is_json_stays_the_text_it_was() -> None:
    assert (
        read({"ai.operationId": "ai.generateObject.doGenerate", "ai.response.object": '{"a": [1]}'}).fields["response"]
        == '{"a": [1]}'
    )
    plain = read(
        {"openinference.span.kind": "LLM", "output.value": '{"a": [1]}', "input.value": '["b"]', "input.mime_type": "text/plain"}
    )
    assert plain.fields["response"] == '{"a": [1]}'
    assert plain.fields["question"] == '["b"]'


def test_events_up_to_1_36_carry_the_messages_on_the_span() -> None:
    events = [
        Event("gen_ai.system.message", START, {"content": "Be brief.", "gen_ai.system": "openai"}),
        Event("gen_ai.user.message", START, {"gen_ai.event.content": '{"content": "Add 1 and 2"}'}),
        Event(
            "gen_ai.assistant.message", START, {"tool_calls": '[{"id": "c1", "function": {"name": "add", "arguments": "{}"}}]'}
        ),
        Event("gen_ai.tool.message", START, {"id": "c1", "content": "3"}),
        Event(
            "gen_ai.choice", END, {"index": 0, "finish_reason": "stop", "message": '{"role": "assistant", "content": "It is 3."}'}
        ),
        Event("somebody.else", END, {"content": "?"}),
    ]
    found = read({"gen_ai.operation.name": "chat", "gen_ai.system": "openai"}, events=events)
    assert [m["role"] for m in json.loads(found.fields["messages"])] == ["system", "user", "assistant", "tool", "assistant"]
    assert found.input_messages[3]["parts"] == [{"type": "tool_call_response", "id": "c1", "response": "3"}]
    assert (found.fields["question"], found.fields["response"]) == ("Add 1 and 2", "It is 3.")
    assert found.fields["finish_reason"] == "stop"


def test_the_details_event_fills_in_what_the_span_leaves_out_and_changes_nothing_else() -> None:
    details = {"gen_ai.input.messages": [{"role": "user", "content": "From the event"}], "gen_ai.request.model": "other"}
    event = Event("gen_ai.client.inference.operation.details", END, details)
    found = read({"gen_ai.operation.name": "chat", "gen_ai.request.model": "mine"}, events=[event])
    assert found.fields["question"] == "From the event"
    assert found.fields["request_model"] == "mine"


def test_content_that_comes_as_logs_completes_the_generation_in_any_number_of_steps() -> None:
    first = read({"gen_ai.operation.name": "chat", "gen_ai.system": "openai", "gen_ai.request.model": "m"})
    assert "question" not in first.fields
    records = [
        log("gen_ai.system.message", {"content": "Be brief."}),
        log("gen_ai.user.message", {"content": "Where is Paris?"}),
        log(None, {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "In France."}},
            **{"event.name": "gen_ai.choice"}),
    ]  # fmt: skip
    later = [c for r in records if (c := DIALECTS.read_log(r))]
    whole = DIALECTS.complete(first, later)
    assert whole.fields["question"] == "Where is Paris?"
    assert whole.fields["response"] == "In France."
    assert whole.fields["system"] == "Be brief."
    assert whole.fields["finish_reason"] == "stop"
    assert whole.fields["request_model"] == "m"
    assert "fingerprint" in whole.fields
    assert DIALECTS.complete(whole, later).fields == whole.fields
    assert "question" not in first.fields, "what was read before is not changed"


def test_other_logs_are_none_of_ours() -> None:
    assert DIALECTS.read_log(log("exception", {"message": "?"})) is None
    assert DIALECTS.read_log(log(None, "GET / 200")) is None


@pytest.mark.parametrize("absurd", (-1.0, "-1", 1e300, math.inf))
def test_a_cost_that_cannot_be_one_is_none(absurd: object) -> None:
    # It would be added to a counter, which cannot go down, and in which 1e300 hides all that was there.
    assert "cost_usd" not in read({"gen_ai.operation.name": "chat", "gen_ai.usage.cost": absurd}).fields


def test_without_content_there_are_still_numbers() -> None:
    found = read(
        {
            "gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "gpt-4o",
            "gen_ai.response.model": "gpt-4o-2024-08-06", "gen_ai.usage.input_tokens": "12", "gen_ai.usage.output_tokens": 3,
            "gen_ai.response.finish_reasons": ["length"], "gen_ai.response.time_to_first_chunk": 0.25,
        },
        resource={"service.name": "shop", "service.version": "1.4", "deployment.environment": "live"},
    )  # fmt: skip
    assert found.fields == {
        "operation": "chat", "provider": "openai", "request_model": "gpt-4o", "llm_model": "gpt-4o-2024-08-06",
        "input_tokens": 12, "output_tokens": 3, "finish_reason": "length", "time_to_first_token_seconds": 0.25,
        "service": "shop", "release": "1.4", "environment": "live",
    }  # fmt: skip


# ---- columns ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "tokens"),
    (
        # Anthropic's own counting leaves out what was cached; more was cached than given, so it must
        ({"gen_ai.usage.input_tokens": 21, "gen_ai.usage.cache_read.input_tokens": 1733}, (1754, None)),
        ({"gen_ai.usage.input_tokens": 1754, "gen_ai.usage.cache_read.input_tokens": 1733}, (1754, None)),
        # only the total tells
        ({"gen_ai.usage.input_tokens": 100, "gen_ai.usage.cache_creation.input_tokens": 50, "gen_ai.usage.output_tokens": 5,
          "gen_ai.usage.total_tokens": 155}, (150, 5)),
        ({"gen_ai.usage.input_tokens": 100, "gen_ai.usage.cache_creation.input_tokens": 50, "gen_ai.usage.output_tokens": 5,
          "gen_ai.usage.total_tokens": 105}, (100, 5)),
        # Langfuse's own buckets do not overlap; OpenAI's names in the same place do
        ({"langfuse.observation.usage_details": '{"input": 100, "output": 5, "cache_read_input_tokens": 50}'}, (150, 5)),
        ({"langfuse.observation.usage_details":
          '{"prompt_tokens": 100, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 50}}'}, (100, 5)),
        # thoughts that are counted apart belong to the output
        ({"gen_ai.usage.input_tokens": 9, "gen_ai.usage.output_tokens": 5, "gen_ai.usage.reasoning_tokens": 40}, (9, 45)),
        ({"gen_ai.usage.output_tokens": 5, "gen_ai.usage.total_tokens": 12}, (7, 5)),
        ({"llm.token_count.prompt": 9, "llm.token_count.total": 12}, (9, 3)),
        ({"gen_ai.usage.input_tokens": -1, "gen_ai.usage.output_tokens": "many", "llm.token_count.prompt": 4.0}, (4, None)),
        ({"gen_ai.usage.input_tokens": math.nan, "gen_ai.usage.output_tokens": True}, (None, None)),
    ),
)  # fmt: skip
def test_input_includes_what_was_cached_and_output_what_was_thought(
    attributes: dict[str, Any], tokens: tuple[int | None, int | None]
) -> None:
    fields = read({"gen_ai.operation.name": "chat", **attributes}).fields
    assert (fields.get("input_tokens"), fields.get("output_tokens")) == tokens


@pytest.mark.parametrize(
    ("attributes", "cost"),
    (
        ({"langfuse.observation.cost_details": '{"input": 0.1, "total": 0.3}', "llm.cost.total": 9.0}, 9.0),
        ({"langfuse.observation.cost_details": '{"input": 0.1, "total": 0.3}'}, 0.3),
        ({"gen_ai.cost.total_cost": 6.75e-06}, 6.75e-06),
        ({"gen_ai.usage.cost": "0.002"}, 0.002),
        ({"gen_ai.usage.cost": -1, "llm.cost.total": math.inf}, None),
    ),
)
def test_a_reported_cost_is_taken_and_named_so(attributes: dict[str, Any], cost: float | None) -> None:
    fields = read({"gen_ai.operation.name": "chat", **attributes}).fields
    assert fields.get("cost_usd") == cost
    assert fields.get("cost_source") == (None if cost is None else "reported")


@pytest.mark.parametrize(
    ("more", "error"),
    (
        ({"attributes": {"error.type": "openai.RateLimitError"}, "status": "error"}, "RateLimitError"),
        ({"attributes": {"error.type": "429"}, "status": "error"}, "429"),
        ({"events": [Event("exception", END, {"exception.type": "httpx.ReadTimeout"})], "status": "error"}, "ReadTimeout"),
        ({"status": "error"}, "_OTHER"),
        ({"attributes": {"langfuse.observation.level": "ERROR"}}, "_OTHER"),
        ({"status": "ok"}, None),
    ),
)
def test_an_error_has_a_class(more: dict[str, Any], error: str | None) -> None:
    attributes = {"gen_ai.operation.name": "chat", **more.pop("attributes", {})}
    assert read(attributes, **more).fields.get("error_type") == error


@pytest.mark.parametrize(
    ("more", "gateway"),
    (
        ({"scope": "litellm"}, "litellm"),
        ({"attributes": {"server.address": "openrouter.ai"}}, "openrouter"),
        ({"attributes": {"gen_ai.openai.api_base": "https://oai.helicone.ai/v1"}}, "helicone"),
        ({"attributes": {"modelwatch.gateway": "ours", "server.address": "api.portkey.ai"}}, "ours"),
        ({"attributes": {"server.address": "api.openai.com"}}, None),
    ),
)
def test_who_stands_between_is_told_by_scope_or_address(more: dict[str, Any], gateway: str | None) -> None:
    attributes = {"gen_ai.operation.name": "chat", **more.pop("attributes", {})}
    assert read(attributes, **more).fields.get("gateway") == gateway


def test_spans_that_a_gateway_sends_itself_say_so() -> None:
    bifrost = read(
        {"gen_ai.operation.name": "chat", "bifrost.retries": 1, "bifrost.fallback_index": 2, "bifrost.routing_rule.name": "eu"}
    )
    assert {k: bifrost.fields[k] for k in ("gateway", "retry", "fallback", "route")} == {
        "gateway": "bifrost", "retry": 1, "fallback": True, "route": "eu",
    }  # fmt: skip
    first = read({"gen_ai.operation.name": "chat", "gen_ai.number_of_retries": 0, "gen_ai.fallback_index": 0})
    assert (first.fields["retry"], first.fields["fallback"]) == (0, False)
    openrouter = read(
        {"gen_ai.operation.name": "chat", "trace.metadata.openrouter.provider_name": "Groq", "gen_ai.usage.total_cost": 0.1,
         "gen_ai.usage.input_tokens": 10, "gen_ai.usage.input_tokens.cached": 4, "trace.metadata.openrouter.first_token_ms": 300}
    ).fields  # fmt: skip
    assert (openrouter["gateway"], openrouter["route"], openrouter["cost_usd"]) == ("openrouter", "Groq", 0.1)
    assert (openrouter["cache_read_tokens"], openrouter["time_to_first_token_seconds"]) == (4, 0.3)


def test_attempts_and_fallbacks_of_a_gateway_are_fields() -> None:
    hidden = {"model_id": "deployment-2", "response_cost": 0.01,
              "additional_headers": {"x-litellm-attempted-retries": 2, "x-litellm-attempted-fallbacks": 1}}  # fmt: skip
    fields = read({"llm.request.type": "completion", "hidden_params": json.dumps(hidden)}, scope="litellm").fields
    assert (fields["gateway"], fields["route"], fields["retry"], fields["fallback"]) == ("litellm", "deployment-2", 2, True)
    assert fields["cost_usd"] == 0.01
    assert read({"gen_ai.operation.name": "chat", "http.request.resend_count": 1}).fields["retry"] == 1


def test_prompt_user_conversation_agent_and_workflow_have_columns() -> None:
    fields = read(
        {
            "gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "planner", "gen_ai.workflow.name": "trip",
            "gen_ai.conversation.id": "c-1", "enduser.id": "u-1", "langfuse.observation.prompt.name": "plan",
            "langfuse.observation.prompt.version": 3,
        }
    ).fields  # fmt: skip
    want = {"agent": "planner", "workflow": "trip", "conversation_id": "c-1", "user_id": "u-1", "prompt_name": "plan",
            "prompt_version": "3"}  # fmt: skip
    assert {k: fields[k] for k in want} == want
    assert read({"traceloop.span.kind": "agent", "traceloop.entity.name": "planner"}).fields["agent"] == "planner"


def test_time_to_the_first_token_comes_from_an_attribute_else_from_the_first_chunk() -> None:
    chunk = Event("gen_ai.content.completion.chunk", START + 500_000_000, {})
    later = Event("gen_ai.content.completion.chunk", START + 900_000_000, {})
    assert read({"gen_ai.operation.name": "chat"}, events=[chunk, later]).fields["time_to_first_token_seconds"] == 0.5
    told = read({"gen_ai.operation.name": "chat", "ai.response.msToFirstChunk": 250}, events=[chunk])
    assert told.fields["time_to_first_token_seconds"] == 0.25
    early = Event("gen_ai.content.completion.chunk", START - 1, {})
    assert "time_to_first_token_seconds" not in read({"gen_ai.operation.name": "chat"}, events=[early]).fields


def test_a_tool_span_keeps_name_arguments_and_result() -> None:
    fields = read(
        {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "add", "gen_ai.tool.call.id": "c1",
         "gen_ai.tool.call.arguments": '{"a": 1}', "gen_ai.tool.call.result": "3"}
    ).fields  # fmt: skip
    assert json.loads(fields["tool_calls"]) == [{"id": "c1", "name": "add", "arguments": {"a": 1}, "result": "3"}]
    assert "question" not in fields


# ---- scores that come along ------------------------------------------------------------------------------------------------


def test_annotations_on_a_span_become_feedback_of_that_span_and_of_its_trace() -> None:
    found = read(
        {
            "openinference.span.kind": "LLM",
            "annotations.0.annotation.name": "correct", "annotations.0.annotation.score": 1,
            "annotations.0.annotation.label": "yes", "annotations.0.annotation.annotator_kind": "HUMAN",
            "trace.evaluations.0.evaluation.name": "helpful", "trace.evaluations.0.evaluation.score": 0.5,
            "annotations.1.annotation.name": "empty",
        }
    )  # fmt: skip
    assert [(f["name"], f["value"], f["label"], f["source"], f["span_id"]) for f in found.feedback] == [
        ("correct", 1.0, "yes", "HUMAN", SPAN),
        ("helpful", 0.5, None, None, None),
    ]
    assert {f["trace_id"] for f in found.feedback} == {TRACE}


def test_an_evaluator_span_with_one_link_scores_the_span_it_links_to() -> None:
    found = read(
        {
            "openinference.span.kind": "EVALUATOR",
            "evaluations.0.evaluation.name": "faithful",
            "evaluations.0.evaluation.score": 0.9,
        },
        links=[Link("1" * 32, "2" * 16, {})],
    )
    assert [(f["trace_id"], f["span_id"], f["value"]) for f in found.feedback] == [("1" * 32, "2" * 16, 0.9)]


def test_an_evaluation_event_is_feedback_as_span_event_and_as_log() -> None:
    attributes = {
        "gen_ai.evaluation.name": "toxic",
        "gen_ai.evaluation.score.value": 0.1,
        "gen_ai.evaluation.explanation": "calm",
    }
    event = Event("gen_ai.evaluation.result", END, attributes)
    [on_span] = read({"gen_ai.operation.name": "chat"}, events=[event]).feedback
    one = DIALECTS.read_log(log("gen_ai.evaluation.result", None, **attributes))
    assert one is not None
    [in_log] = one.feedback
    for feedback in (on_span, in_log):
        assert (feedback["name"], feedback["value"], feedback["comment"], feedback["span_id"]) == ("toxic", 0.1, "calm", SPAN)
    failed = Event("gen_ai.evaluation.result", END, {"gen_ai.evaluation.name": "toxic", "error.type": "timeout"})
    assert not read({"gen_ai.operation.name": "chat"}, events=[failed]).feedback


# ---- any shape -------------------------------------------------------------------------------------------------------------

LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(
    ["user", "assistant", "text", "tool_use", "image_url", "data:image/png;base64,iVBO", "[{'type': 'text'}]", '{"role": "user"}',
     "["]
)  # fmt: skip
NAMES = st.sampled_from(
    ["role", "content", "parts", "type", "text", "tool_calls", "function", "arguments", "id", "name", "message", "messages",
     "image_url", "url", "source", "data", "document", "metadata", "score", "input", "output", "choices", "kwargs", "usage",
     "input_tokens", "node"]
) | st.text(max_size=6)  # fmt: skip
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=5), max_leaves=8)
AS_JSON = VALUES.map(lambda v: json.dumps(v, default=str))
INDEXED = st.builds(
    lambda prefix, i, rest: f"{prefix}{i}.{'.'.join(rest)}",
    st.sampled_from(sorted(DIALECTS.table.prefixes)),
    st.integers(-1, 3),
    st.lists(
        st.sampled_from(
            ["message", "role", "content", "contents", "0", "1", "message_content", "type", "text", "tool_calls", "tool_call",
             "function", "name", "arguments", "document", "score", "annotation", "prompt", "completion", "image", "url", ""]
        ),
        max_size=6,
    ),
)  # fmt: skip
KEYS = st.sampled_from(sorted(DIALECTS.table.rules)) | INDEXED | st.text(max_size=10)
KINDS_OF_SPAN = st.sampled_from(
    [{}, {"openinference.span.kind": "RETRIEVER"}, {"gen_ai.operation.name": "chat"}, {"mlflow.spanType": "TOOL"},
     {"db.system": "qdrant"}]
)  # fmt: skip
ATTRIBUTES = st.dictionaries(KEYS, VALUES | AS_JSON, max_size=8)
EVENTS = st.lists(
    st.builds(Event, st.sampled_from(sorted(DIALECTS.table.events)) | st.text(max_size=5), st.integers(0, 2**63), ATTRIBUTES),
    max_size=3,
)
COLUMNS = {c.name for c in KINDS["generations"].columns}


def check(found: Canonical) -> None:
    for name, value in found.fields.items():
        assert isinstance(value, (str, int, float, bool)), name
        assert not isinstance(value, float) or math.isfinite(value), name
        assert "base64,iVBO" not in str(value), name
    for name in ("messages", "tool_calls"):
        json.loads(found.fields.get(name, "[]"))
    for document in found.documents:
        assert isinstance(document.text, (str, type(None)))
        json.dumps(document.metadata)
    json.dumps(found.retrieval)
    json.dumps(found.feedback, allow_nan=False)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ATTRIBUTES, KINDS_OF_SPAN, EVENTS, ATTRIBUTES)
def test_attributes_of_any_shape_are_read_or_passed_over_and_never_raise(
    attributes: dict[str, Any], kind: dict[str, Any], events: list[Event], resource: dict[str, Any]
) -> None:
    check(read({**attributes, **kind}, events=events, resource=resource))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(DIALECTS.table.events)), VALUES | AS_JSON, ATTRIBUTES)
def test_log_events_of_any_shape_never_raise(name: str, body: Any, attributes: dict[str, Any]) -> None:
    record = LogRecord(START, TRACE, SPAN, name, None, body, attributes, {}, None, None)
    found = DIALECTS.read_log(record)
    if found is not None:
        check(found)
        check(DIALECTS.complete(read({"gen_ai.operation.name": "chat"}), [found, found]))


def test_nesting_without_end_is_cut_and_not_followed() -> None:
    deep: Any = "x"
    for _ in range(900):
        deep = [deep]
    text = "[" * 5000 + "]" * 5000
    for value in (deep, text, {"role": "user", "content": deep}, {"messages": deep}):
        check(read({"gen_ai.operation.name": "chat", "gen_ai.input.messages": value, "gen_ai.output.messages": value}))
        check(read({"openinference.span.kind": "TOOL", "input.value": value}))
        check(read({"openinference.span.kind": "RETRIEVER", "output.value": value}))
