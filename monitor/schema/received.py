"""The kinds that senders fill: what came in, in canonical form."""

from __future__ import annotations

from monitor.schema.tables import HEAD, KEY, TRACE, Table, columns

RECEIVED: tuple[Table, ...] = (
    Table(
        "predictions",
        "What a classical model answered; features are typed columns named f_<feature>.",
        columns(
            HEAD
            + """
record_id VARCHAR the sender's id, by which labels join
event_time TIMESTAMPTZ when the prediction was made
model_version VARCHAR version of the model, as sent
prediction DOUBLE the predicted number, or 0/1
prediction_text VARCHAR the predicted class where it is text
probability DOUBLE probability of the positive class, 0..1
trace_id VARCHAR trace the prediction belongs to
extra VARCHAR JSON of fields and features without a column
"""
            + KEY
        ),
        "event_time",
    ),
    Table(
        "labels",
        "Ground truth, often late. The highest revision of a record counts.",
        columns(
            HEAD
            + """
record_id VARCHAR id of the prediction it belongs to
revision INTEGER 0, or higher for a correction
event_time TIMESTAMPTZ when the truth became known
label DOUBLE the true number, or 0/1
label_text VARCHAR the true class where it is text
"""
            + KEY
        ),
    ),
    Table(
        "generations",
        "One model call each, in canonical form.",
        columns(
            HEAD
            + """
record_id VARCHAR the sender's id, else trace and span id
event_time TIMESTAMPTZ when the answer was given
trace_id VARCHAR 32 hex digits
span_id VARCHAR 16 hex digits
model_version VARCHAR version of the deployment
provider VARCHAR who serves the LLM
llm_model VARCHAR the LLM that answered
operation VARCHAR chat, text_completion and so on
question VARCHAR the user's last message
system VARCHAR system instructions
response VARCHAR the answer
messages VARCHAR JSON of the whole exchange
input_tokens BIGINT tokens in, cached ones included
output_tokens BIGINT tokens out, reasoning included
cost_usd DOUBLE cost as reported
duration_seconds DOUBLE wall time of the call
time_to_first_token_seconds DOUBLE until the first token
finish_reason VARCHAR why the answer ended
error_type VARCHAR class of the error, null when none
conversation_id VARCHAR the conversation
user_id VARCHAR the end user
prompt_name VARCHAR name of the prompt
prompt_version VARCHAR version of the prompt
attributes VARCHAR JSON of everything else; of a span, its row in spans has them
request_model VARCHAR the LLM that was asked for
cache_read_tokens BIGINT of the tokens in, those read from a cache
cache_write_tokens BIGINT of the tokens in, those written to a cache
reasoning_tokens BIGINT of the tokens out, those of reasoning
cost_source VARCHAR reported, or table: from the price table
tool_calls VARCHAR JSON of the tools the answer calls: name, arguments, id
agent VARCHAR the agent it was made for
workflow VARCHAR the workflow it was made in
service VARCHAR service.name of the sender
environment VARCHAR production, staging and so on
release VARCHAR version of the sending service
gateway VARCHAR the gateway it went through
route VARCHAR the gateway's route
retry INTEGER number of the attempt, from 0, where the sender says it
fallback BOOLEAN made because another one failed, where the sender says it
fingerprint VARCHAR hash of the prompt's constant parts, where it has no name
parent_id VARCHAR span it was made in
context_window BIGINT most tokens the LLM takes, from the price table; null where it is not known
"""
            + TRACE
            + KEY
        ),
        "event_time",
    ),
    Table(
        "contents",
        "Texts of a generation that came as log records, apart from its span.",
        columns(
            HEAD
            + """
record_id VARCHAR the generation
trace_id VARCHAR 32 hex digits
span_id VARCHAR 16 hex digits
event_time TIMESTAMPTZ time of the log record
question VARCHAR the user's last message
system VARCHAR system instructions
response VARCHAR the answer
messages VARCHAR JSON list of messages
tool_calls VARCHAR JSON of the tools the answer calls
finish_reason VARCHAR why the answer ended
"""
            + TRACE
            + KEY
        ),
        "event_time",
    ),
    Table(
        "contexts",
        "Passages a generation was given. One that comes after scoring begins a new input revision. Of those joined from "
        "retrievals only the ones of the latest revision count, and none where the sender gave passages of its own.",
        columns(
            HEAD
            + """
record_id VARCHAR the generation
revision INTEGER first input revision that contains it
position INTEGER order within the generation, as sent
document_id VARCHAR id of the document
text VARCHAR the passage
retrieval_score DOUBLE the retriever's score
event_time TIMESTAMPTZ when it was retrieved
retrieval_id VARCHAR the retrieval it was joined from; null where it was sent with the generation
"""
            + KEY
        ),
    ),
    Table(
        "spans",
        "Every span as received.",
        columns(
            HEAD
            + """
record_id VARCHAR trace and span id
event_time TIMESTAMPTZ when it ended
start_time TIMESTAMPTZ when it began
trace_id VARCHAR 32 hex digits
span_id VARCHAR 16 hex digits
parent_id VARCHAR the span it was made in, null for a root
name VARCHAR its name
span_kind VARCHAR internal, server, client, producer, consumer or unspecified
type VARCHAR llm, embedding, retriever, reranker, tool, agent, chain, guardrail, evaluator or other
duration_seconds DOUBLE wall time
status VARCHAR unset, ok or error
status_message VARCHAR what the error says
service VARCHAR service.name of the sender
environment VARCHAR production, staging and so on
release VARCHAR version of the sending service
scope VARCHAR the instrumentation, and its version after @
own BOOLEAN made by our own judge: kept, never counted or evaluated
attributes VARCHAR JSON of its attributes
events VARCHAR JSON of its events: name, time in Unix nanoseconds, attributes
links VARCHAR JSON of its links: trace_id, span_id, attributes
resource VARCHAR JSON of the sender's attributes
"""
            + TRACE
            + KEY
        ),
        "event_time",
    ),
    Table(
        "retrievals",
        "One query to a retriever, reranker or vector database each.",
        columns(
            HEAD
            + """
record_id VARCHAR trace and span id
event_time TIMESTAMPTZ when it ended
start_time TIMESTAMPTZ when it began
trace_id VARCHAR 32 hex digits
span_id VARCHAR 16 hex digits
parent_id VARCHAR the span it was made in
type VARCHAR retriever or reranker
system VARCHAR the database or ranker, such as qdrant
collection VARCHAR collection, index or namespace
query VARCHAR what was asked
top_k BIGINT how many were asked for
hits BIGINT how many came
duration_seconds DOUBLE wall time
error_type VARCHAR class of the error, null when none
documents VARCHAR JSON list of id, text, score, metadata
"""
            + TRACE
            + KEY
        ),
        "event_time",
    ),
    Table(
        "feedback",
        "What a human, a user or another tool says of a record or a trace. The highest revision counts.",
        columns(
            HEAD
            + """
record_id VARCHAR the record it is about, as in generations and predictions; null where it is about a whole trace
trace_id VARCHAR the trace it is about
span_id VARCHAR the span it is about
feedback_id VARCHAR the sender's id of it
name VARCHAR what is judged: helpfulness, thumbs, correctness and so on
value DOUBLE the score; true is 1, false is 0
label VARCHAR the score in words
comment VARCHAR free text
source VARCHAR who judges: human, user, tool, judge and so on
rater VARCHAR id of the rater
revision INTEGER 0, or higher for a correction
event_time TIMESTAMPTZ when it was given
attributes VARCHAR JSON of everything else
"""
            + KEY
        ),
        "event_time",
    ),
    Table(
        "deployments",
        "What was said to be deployed, by push or by a registry.",
        columns(
            HEAD
            + """
record_id VARCHAR the sender's id of it, else made of its content
event_time TIMESTAMPTZ when it was deployed
version VARCHAR version of the model
data_hash VARCHAR hash of the data set it was fitted on
code_commit VARCHAR commit of its code
prompt_hash VARCHAR hash of its prompt
approver VARCHAR who approved it
origin VARCHAR push, mlflow and so on
event VARCHAR deployed, registered (a new version), alias (moved to it) or stage (it was given)
alias VARCHAR the alias or stage
attributes VARCHAR JSON of everything else
"""
            + KEY
        ),
        "event_time",
    ),
)
