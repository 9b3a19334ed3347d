"""The tables of the store, as data: every column with its type and what it means.

A *kind* is an append-only log with a gap-free `seq` per (kind, model), sealed into segments. Predictions have a table for
each model, since their features are typed columns. State tables change in place and stay in the hot file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

VERSION = 2

Type = Literal["BIGINT", "INTEGER", "UBIGINT", "DOUBLE", "BOOLEAN", "VARCHAR", "TIMESTAMPTZ", "BLOB"]

ARROW: dict[str, pa.DataType] = {
    "BIGINT": pa.int64(),
    "INTEGER": pa.int32(),
    "UBIGINT": pa.uint64(),
    "DOUBLE": pa.float64(),
    "BOOLEAN": pa.bool_(),
    "VARCHAR": pa.string(),
    "TIMESTAMPTZ": pa.timestamp("us", tz="UTC"),
    "BLOB": pa.binary(),
}

FEATURE = "f_"  # before a feature's name in its table, so that a feature called `seq` harms nobody
FEATURE_TYPE: dict[str, Type] = {"number": "DOUBLE", "category": "VARCHAR"}


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    type: Type
    about: str

    @property
    def ddl(self) -> str:
        # Text stays uncompressed while hot: compressing it in every checkpoint stalls commits for seconds. Sealing compresses.
        return f"{quote(self.name)} {self.type}" + (" USING COMPRESSION uncompressed" if self.type == "VARCHAR" else "")


@dataclass(frozen=True, slots=True)
class Table:
    name: str
    about: str
    columns: tuple[Column, ...]
    time: str = "received_at"  # the column that windows and segment pruning go by

    @property
    def arrow(self) -> pa.Schema:
        return pa.schema([(c.name, ARROW[c.type]) for c in self.columns])


def quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _columns(text: str) -> tuple[Column, ...]:
    """One column a line: name, type, meaning."""
    rows = (line.split(None, 2) for line in text.splitlines() if line.strip())
    return tuple(Column(name, kind, about) for name, kind, about in rows)  # type: ignore[arg-type]


_HEAD = """
seq BIGINT position in the log of this kind and model, from 1 without gaps
model VARCHAR the monitored model
"""
_KEY = """
received_at TIMESTAMPTZ when the inbox took it
batch_id VARCHAR the batch it was acknowledged in
key_hash UBIGINT 64-bit hash of the record's key
content_hash UBIGINT 64-bit hash of its content, by which a duplicate is told from a conflict
"""
_TRACE = """
trace_hash UBIGINT 64-bit hash of the trace id, by which the rows of a trace are found
"""

KINDS: dict[str, Table] = {
    t.name: t
    for t in (
        Table(
            "predictions",
            "What a classical model answered; features are typed columns named f_<feature>.",
            _columns(
                _HEAD
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
                + _KEY
            ),
            "event_time",
        ),
        Table(
            "labels",
            "Ground truth, often late. The highest revision of a record counts.",
            _columns(
                _HEAD
                + """
record_id VARCHAR id of the prediction it belongs to
revision INTEGER 0, or higher for a correction
event_time TIMESTAMPTZ when the truth became known
label DOUBLE the true number, or 0/1
label_text VARCHAR the true class where it is text
"""
                + _KEY
            ),
        ),
        Table(
            "generations",
            "One model call each, in canonical form.",
            _columns(
                _HEAD
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
"""
                + _TRACE
                + _KEY
            ),
            "event_time",
        ),
        Table(
            "contents",
            "Texts of a generation that came as log records, apart from its span.",
            _columns(
                _HEAD
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
                + _TRACE
                + _KEY
            ),
            "event_time",
        ),
        Table(
            "contexts",
            "Passages a generation was given. One that comes after scoring begins a new input revision. Of those joined from "
            "retrievals only the ones of the latest revision count, and none where the sender gave passages of its own.",
            _columns(
                _HEAD
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
                + _KEY
            ),
        ),
        Table(
            "spans",
            "Every span as received.",
            _columns(
                _HEAD
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
                + _TRACE
                + _KEY
            ),
            "event_time",
        ),
        Table(
            "retrievals",
            "One query to a retriever, reranker or vector database each.",
            _columns(
                _HEAD
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
                + _TRACE
                + _KEY
            ),
            "event_time",
        ),
        Table(
            "calls",
            "What each generation counts for, decided when its trace settles. The highest revision of a record counts: tokens "
            "and cost are sums over its counted rows, requests are its distinct request_id.",
            _columns(
                _HEAD
                + """
record_id VARCHAR the generation
revision INTEGER 1, or higher when the trace was settled again with another result
event_time TIMESTAMPTZ event time of the generation
trace_id VARCHAR trace of the generation
counted BOOLEAN it is a call of its own, and does not repeat one made inside it
request_id VARCHAR record id that stands for the request: its outermost span
attempt INTEGER number of the call within its request, from 0
fallback BOOLEAN made after a call of this request to another LLM had failed
failed BOOLEAN it ended in an error
llm_model VARCHAR the LLM that answered, else the one asked for
input_tokens BIGINT tokens in, cached ones included
output_tokens BIGINT tokens out, reasoning included
cache_read_tokens BIGINT of the tokens in, those read from a cache
cache_write_tokens BIGINT of the tokens in, those written to a cache
reasoning_tokens BIGINT of the tokens out, those of reasoning
cost_usd DOUBLE cost
cost_source VARCHAR reported, or table: from the price table
duration_seconds DOUBLE wall time of the call
time_to_first_token_seconds DOUBLE until the first token
input_revision INTEGER input revision in force, from 1; null where it is not scored
passages INTEGER passages joined from retrievals of its trace
contents INTEGER log records with texts of it
received_at TIMESTAMPTZ when it was decided
"""
                + _TRACE
            ),
            "event_time",
        ),
        Table(
            "changes",
            "Something new in the traffic of a model: its first record with another version, LLM, prompt or fingerprint.",
            _columns(
                _HEAD
                + """
event_time TIMESTAMPTZ event time of the first record with it
what VARCHAR model_version, llm_model, prompt or fingerprint
value VARCHAR what is new; of a prompt, name and version with @ between
previous VARCHAR what was new before it; of a prompt, its version before where there is one
record_id VARCHAR the first record with it
received_at TIMESTAMPTZ when that came
"""
            ),
            "event_time",
        ),
        Table(
            "scores",
            "One outcome per record, input revision, detector, version and settings.",
            _columns(
                _HEAD
                + """
record_id VARCHAR the scored record
revision INTEGER its input revision
event_time TIMESTAMPTZ event time of the record
trace_id VARCHAR trace of the record
detector VARCHAR name of the detector
detector_version VARCHAR its version
settings_hash VARCHAR hash over detector, version and settings
outcome VARCHAR ok, not_enough_data, not_evaluable or failed
reason VARCHAR why there is no value
value DOUBLE the score, null unless ok
flagged BOOLEAN beyond the detector's own flag
stage VARCHAR which stage of the detector gave it
device VARCHAR what it was computed on
detail VARCHAR JSON of further facts
received_at TIMESTAMPTZ when it was computed
"""
            ),
            "event_time",
        ),
        Table(
            "claims",
            "The evidence behind a score: a piece of the answer and its support.",
            _columns(
                _HEAD
                + """
record_id VARCHAR the generation
revision INTEGER its input revision
detector VARCHAR name of the detector
settings_hash VARCHAR as in scores
claim_index INTEGER order within the answer, from 0
start_offset INTEGER first character of the claim in the answer
end_offset INTEGER one past its last character
support DOUBLE 0..1, 1 is supported
context_seq BIGINT seq of the best passage in contexts
event_time TIMESTAMPTZ event time of the record
received_at TIMESTAMPTZ when it was computed
"""
            ),
            "event_time",
        ),
        Table(
            "feedback",
            "What a human, a user or another tool says of a record or a trace. The highest revision counts.",
            _columns(
                _HEAD
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
                + _KEY
            ),
            "event_time",
        ),
        Table(
            "deployments",
            "What was said to be deployed, by push or by a registry.",
            _columns(
                _HEAD
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
                + _KEY
            ),
            "event_time",
        ),
        Table(
            "readings",
            "A detector's word on a window. A late record restates it under the next revision.",
            _columns(
                _HEAD
                + """
check_name VARCHAR the check
slice VARCHAR the slice, all for the whole traffic
slot TIMESTAMPTZ due time; the window's end
revision INTEGER 1, or higher when restated
window_start TIMESTAMPTZ first instant of the window
window_end TIMESTAMPTZ first instant after it
detector VARCHAR name of the detector
detector_version VARCHAR its version
settings_hash VARCHAR hash over detector, version and settings
outcome VARCHAR ok, not_enough_data, not_evaluable or failed
reason VARCHAR why there is no value
statistic VARCHAR what the value is
value DOUBLE what the threshold judges, null unless ok
lower DOUBLE lower end of its interval
upper DOUBLE upper end of its interval
n_current BIGINT rows in the window
n_reference BIGINT rows in the reference
metrics VARCHAR JSON of further numbers by name
parts VARCHAR JSON of features or slices, largest contribution first
duration_seconds DOUBLE time it took
received_at TIMESTAMPTZ when it was computed
"""
            ),
            "slot",
        ),
        Table(
            "verdicts",
            "A reading judged by the check's threshold. The highest revision of a slot counts.",
            _columns(
                _HEAD
                + """
check_name VARCHAR the check
slice VARCHAR the slice
slot TIMESTAMPTZ due time
revision INTEGER 1, or higher when restated
outcome VARCHAR outcome of the reading
beyond BOOLEAN beyond the threshold; null unless ok
firing BOOLEAN the check fires from this slot on
judged DOUBLE the number that was compared: the value, or its bound
lower DOUBLE lower threshold in force
upper DOUBLE upper threshold in force
severity VARCHAR severity in force
received_at TIMESTAMPTZ when it was judged
"""
            ),
            "slot",
        ),
        Table(
            "incidents",
            "From first firing to resolved. The highest revision of an incident counts.",
            _columns(
                _HEAD
                + """
incident_id VARCHAR stable over replays: from check, slice and first slot
revision INTEGER 1, or higher when it changed
check_name VARCHAR the check
slice VARCHAR the slice
state VARCHAR open, resolved or withdrawn
severity VARCHAR severity in force
opened_slot TIMESTAMPTZ first firing slot
last_slot TIMESTAMPTZ last firing slot
resolved_slot TIMESTAMPTZ slot that resolved it
peak DOUBLE the worst judged value
evidence VARCHAR JSON: statistic, threshold, parts, worst records, SQL to reproduce
received_at TIMESTAMPTZ when this revision was written
"""
            ),
        ),
        Table(
            "deadletters",
            "What could not be stored or evaluated, with its reason.",
            _columns(
                _HEAD
                + """
source VARCHAR where it came from
kind VARCHAR what it was sent as
reason VARCHAR from a closed list
message VARCHAR what is wrong and what to do
record_id VARCHAR its id where it has one
record_index INTEGER place in its batch
monitored_model VARCHAR the monitored model it names, else the one its batch named
payload VARCHAR the record as it came
payload_encoding VARCHAR json is the record as JSON; text and base64 are what could not be read, as it came
payload_bytes BIGINT its full size; the payload is cut at 1 MiB
batch_id VARCHAR its batch
received_at TIMESTAMPTZ when it came
"""
            ),
        ),
        Table(
            "resolutions",
            "What became of a dead letter: replayed or dropped. One without a row here is open.",
            _columns(
                _HEAD
                + """
deadletter_seq BIGINT the dead letter
reason VARCHAR why it was one
action VARCHAR replayed or dropped
result VARCHAR what a replay came to: stored, known (stored already) or queued (to be scored again)
comment VARCHAR why it was dropped
asked_by VARCHAR who asked for it, as they said
address VARCHAR where they asked from
"""
                + _KEY
            ),
        ),
        Table(
            "batches",
            "The ledger: what was acknowledged, in the same transaction as its rows.",
            _columns(
                _HEAD
                + """
batch_id VARCHAR the client's Idempotency-Key, else ours
source VARCHAR where it came from
kind VARCHAR what it was sent as
records INTEGER records in it
accepted INTEGER stored
duplicates INTEGER stored already
rejected INTEGER in the dead letter
body_hash VARCHAR SHA-256 of the body where the client named the batch
answer VARCHAR JSON of the answer where the client named the batch
received_at TIMESTAMPTZ when it came
key_hash UBIGINT hash of the batch id where the client named the batch
content_hash UBIGINT hash of body_hash where the client named the batch
"""
            ),
        ),
    )
}

MANIFEST_HISTORY = """CREATE TABLE IF NOT EXISTS manifest_history (kind VARCHAR, model VARCHAR, file VARCHAR,
    first_seq BIGINT, last_seq BIGINT, "rows" BIGINT, bytes BIGINT, min_time TIMESTAMPTZ, max_time TIMESTAMPTZ,
    max_received TIMESTAMPTZ, sealed_at TIMESTAMPTZ, sha256 VARCHAR, level VARCHAR, replaced_by VARCHAR,
    replaced_at TIMESTAMPTZ, deleted_at TIMESTAMPTZ)"""

TRACES = """CREATE TABLE IF NOT EXISTS traces (model VARCHAR, trace_hash UBIGINT, entry BIGINT, due_at TIMESTAMPTZ,
    event_time TIMESTAMPTZ)"""
SEEN = "CREATE TABLE IF NOT EXISTS seen (model VARCHAR, what VARCHAR, value VARCHAR, first_at TIMESTAMPTZ)"

DROPS = "CREATE TABLE IF NOT EXISTS drops (source VARCHAR, file VARCHAR, identity VARCHAR, taken BIGINT, state VARCHAR)"
PARTITIONS = """CREATE TABLE IF NOT EXISTS partitions (consumer VARCHAR, topic VARCHAR, "partition" INTEGER, epoch BIGINT,
    next_offset BIGINT)"""
HALVES = """CREATE TABLE IF NOT EXISTS halves (event VARCHAR, half VARCHAR, model VARCHAR, payload VARCHAR,
    received_at TIMESTAMPTZ)"""

STATE_DDL = f"""{MANIFEST_HISTORY};
{TRACES};
{SEEN};
{DROPS};
{PARTITIONS};
{HALVES};
CREATE TABLE migrations (version INTEGER, applied_at TIMESTAMPTZ);
CREATE TABLE manifest (kind VARCHAR, model VARCHAR, file VARCHAR, first_seq BIGINT, last_seq BIGINT, "rows" BIGINT,
    bytes BIGINT, min_time TIMESTAMPTZ, max_time TIMESTAMPTZ, max_received TIMESTAMPTZ, sealed_at TIMESTAMPTZ,
    sha256 VARCHAR, level VARCHAR, quarantined VARCHAR);
CREATE TABLE features (model VARCHAR, feature VARCHAR, kind VARCHAR, added_at TIMESTAMPTZ);
CREATE TABLE watermarks (model VARCHAR, watermark TIMESTAMPTZ);
CREATE TABLE work (model VARCHAR, record_id VARCHAR, seq BIGINT, revision INTEGER, input BIGINT, attempts INTEGER,
    contexts_from BIGINT, due_at TIMESTAMPTZ, event_time TIMESTAMPTZ);
CREATE TABLE check_cursors (check_name VARCHAR, kind VARCHAR, seq BIGINT);
CREATE TABLE check_slots (check_name VARCHAR, slot TIMESTAMPTZ, touched_at TIMESTAMPTZ, not_before TIMESTAMPTZ);
CREATE TABLE offsets (source VARCHAR, file VARCHAR, identity VARCHAR, position BIGINT, tail BIGINT);
"""
"""State. `work` waits to be scored: `input` counts changes of its contexts, `contexts_from` is the seq of the first of them;
without `due_at` it is passages whose generation has not come or whose trace has not settled. `traces` waits to be settled:
`entry` counts up, so that what comes while a trace is being settled stays; `event_time` is that of its earliest generation in
that entry. `seen` is what is no longer new in a model's
traffic. `check_slots` waits to be read, not before `not_before` where
only its reference has changed. `manifest` names the segments there are; a row moves to `manifest_history` when compaction
replaces its segment, whose file stays until `deleted_at`. `level` is minute, hour or day; `quarantined` says what is wrong
with a segment that nobody reads for that. `drops` is the files of folders: rows
taken of each, and whether it is being read, finished or failed. `partitions` is where a Kafka consumer group stands, and
the epoch of who may move it. `halves` is inference requests whose response has not come, and the other way round."""


def table_name(kind: str, model: str) -> str:
    """The hot table of a kind, quoted."""
    return quote(f"predictions:{model}") if kind == "predictions" else kind


def create_table(kind: str, model: str = "") -> str:
    columns = ", ".join(c.ddl for c in KINDS[kind].columns)
    return f"CREATE TABLE IF NOT EXISTS {table_name(kind, model)} ({columns})"


def _added(kind: str, *columns: str) -> list[str]:
    known = {c.name: c.ddl for c in KINDS[kind].columns}
    return [f"ALTER TABLE {kind} ADD COLUMN IF NOT EXISTS {known[name]}" for name in columns]


MIGRATIONS: dict[int, str] = {
    2: ";\n".join(
        [
            *(create_table(kind) for kind in ("resolutions", "feedback", "deployments")),
            "ALTER TABLE deadletters ADD COLUMN IF NOT EXISTS monitored_model VARCHAR",
            "ALTER TABLE deadletters ADD COLUMN IF NOT EXISTS payload_encoding VARCHAR",
            "ALTER TABLE manifest ADD COLUMN IF NOT EXISTS sha256 VARCHAR",
            "ALTER TABLE manifest ADD COLUMN IF NOT EXISTS level VARCHAR DEFAULT 'minute'",
            "ALTER TABLE manifest ADD COLUMN IF NOT EXISTS quarantined VARCHAR",
            MANIFEST_HISTORY,
            "ALTER TABLE offsets ADD COLUMN IF NOT EXISTS tail BIGINT",
            "ALTER TABLE check_slots ADD COLUMN IF NOT EXISTS not_before TIMESTAMPTZ",
            *_added(
                "generations", "request_model", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens", "cost_source",
                "tool_calls", "agent", "workflow", "service", "environment", "release", "gateway", "route", "retry", "fallback",
                "fingerprint", "parent_id", "trace_hash",
            ),
            *_added("contexts", "retrieval_id"),
            *(create_table(kind) for kind in ("contents", "spans", "retrievals", "calls", "changes")),
            TRACES,
            SEEN,
            DROPS,
            PARTITIONS,
            HALVES,
        ]
    ),
}  # fmt: skip
"""SQL that brings a store of version n-1 to n. A new store is created at VERSION outright. `IF NOT EXISTS` throughout: tables
are created as they are today, columns of later versions included."""
