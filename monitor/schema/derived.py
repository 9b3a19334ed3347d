"""The kinds that the daemon fills: what became of what came in, and what it says of it."""

from __future__ import annotations

from monitor.schema.tables import HEAD, KEY, TRACE, Table, columns

DERIVED: tuple[Table, ...] = (
    Table(
        "calls",
        "What each generation counts for, decided when its trace settles. The highest revision of a record counts: tokens "
        "and cost are sums over its counted rows, requests are its distinct request_id.",
        columns(
            HEAD
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
            + TRACE
        ),
        "event_time",
    ),
    Table(
        "changes",
        "Something new of a model: its first record with another version, LLM, prompt or fingerprint; another config.",
        columns(
            HEAD
            + """
event_time TIMESTAMPTZ event time of the first record with it
what VARCHAR model_version, llm_model, prompt, fingerprint; config: what the file says of it; freeze: deployed during one
value VARCHAR what is new; of a prompt, name and version with @ between; of config a hash; of freeze what was deployed
previous VARCHAR what was new before it; of a prompt, its version before where there is one; of freeze its name
record_id VARCHAR the first record with it
received_at TIMESTAMPTZ when that came
"""
        ),
        "event_time",
    ),
    Table(
        "scores",
        "One outcome per record, input revision, detector, version and settings.",
        columns(
            HEAD
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
flagged BOOLEAN beyond the detector's own flag; null where there is no value, or one that may not alert
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
        columns(
            HEAD
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
        "readings",
        "A detector's word on a window. A late record restates it under the next revision.",
        columns(
            HEAD
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
reference VARCHAR what it was compared with: a name and, of what is frozen, its hash; null without a reference
"""
        ),
        "slot",
    ),
    Table(
        "verdicts",
        "A reading judged by the check's threshold. The highest revision of a slot counts.",
        columns(
            HEAD
            + """
check_name VARCHAR the check
slice VARCHAR the slice
slot TIMESTAMPTZ due time
revision INTEGER 1, or higher when restated
outcome VARCHAR outcome of the reading
beyond BOOLEAN beyond the threshold; null unless ok
firing BOOLEAN the check fires from this slot on
judged DOUBLE the number that was compared: the value, its bound, or the p-value of a calibrated check
lower DOUBLE lower threshold in force; of a calibrated check the level its p-value must not reach
upper DOUBLE upper threshold in force
severity VARCHAR severity in force
received_at TIMESTAMPTZ when it was judged
needed INTEGER windows beyond the threshold it takes to fire
of_windows INTEGER of so many
note VARCHAR why there is no threshold, or not the one that was asked for; null otherwise
"""
        ),
        "slot",
    ),
    Table(
        "thresholds",
        "What a check learned of its baseline. The latest row of a check, slice and definition counts.",
        columns(
            HEAD
            + """
check_name VARCHAR the check
slice VARCHAR the slice
definition VARCHAR hash over what is learned from: detector, settings, window, reference, baseline, kind of threshold
threshold_kind VARCHAR quantile, std or calibrated
reason VARCHAR why they are too few; null where they are enough, and frozen
baseline_start TIMESTAMPTZ first instant of the baseline
baseline_end TIMESTAMPTZ first instant after it
windows INTEGER windows with a reading
numbers VARCHAR JSON list of what was read of them, in the order of time
p_numbers VARCHAR JSON list of their p-values, where the detector gives any
numbers_hash VARCHAR hash of both
floor DOUBLE the least p-value there could be, where there are p-values
lower DOUBLE lower threshold that follows
upper DOUBLE upper threshold that follows
achieved DOUBLE share of the windows that would have fired
achieved_lower DOUBLE lower end of its 95 % interval
achieved_upper DOUBLE upper end of it
received_at TIMESTAMPTZ when it was learned
"""
        ),
    ),
    Table(
        "incidents",
        "From first firing to resolved. The highest revision of an incident counts.",
        columns(
            HEAD
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
owner VARCHAR who is asked, as of then
in_maintenance VARCHAR the maintenance window that its first firing slot lies in; null outside of any
"""
        ),
    ),
    Table(
        "cases",
        "Incidents of one model that overlap in time. The highest revision of a case counts.",
        columns(
            HEAD
            + """
case_id VARCHAR stable over replays: from model and first firing slot
revision INTEGER 1, or higher when it changed
state VARCHAR open, resolved, or withdrawn: its incidents are gone or belong to another case now
severity VARCHAR the worst of its incidents
owners VARCHAR JSON list of the owners of its incidents, those of the worst first
opened_slot TIMESTAMPTZ first firing slot of the first incident
resolved_slot TIMESTAMPTZ slot that resolved the last one; null while one is open
incidents VARCHAR JSON list of incident ids, in the order of their onset
incident_count INTEGER how many
causes VARCHAR JSON: checks, features and slices, each ranked, the likeliest first
changes VARCHAR JSON list of what changed before it, the latest first
in_maintenance VARCHAR the maintenance window that its first firing slot lies in; null outside of any
basis VARCHAR hash over what it was made of
paged_at TIMESTAMPTZ when its page went out; null while none has
page_severity VARCHAR severity that the page names
page_owner VARCHAR owner that the page names
received_at TIMESTAMPTZ when this revision was written
"""
        ),
    ),
    Table(
        "maintenance",
        "Maintenance windows and deploy freezes, from the config and by command. The highest revision of a window counts.",
        columns(
            HEAD
            + """
window_id VARCHAR the window
revision INTEGER 1, or higher when it changed
name VARCHAR its name
window_kind VARCHAR maintenance or freeze
models VARCHAR JSON list of the monitored models, empty for all
start_time TIMESTAMPTZ first instant; null where it is weekly
end_time TIMESTAMPTZ first instant after it
weekly VARCHAR JSON of days, at, lasts and timezone; null where it is once
reason VARCHAR why
origin VARCHAR config or command
ended_at TIMESTAMPTZ from when on it is not in force, whatever its span; null while it is set
asked_by VARCHAR who asked for it, as they said; null from the config
address VARCHAR where they asked from
received_at TIMESTAMPTZ when this revision was written
"""
        ),
    ),
    Table(
        "deadletters",
        "What could not be stored or evaluated, with its reason.",
        columns(
            HEAD
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
        columns(
            HEAD
            + """
deadletter_seq BIGINT the dead letter
reason VARCHAR why it was one
action VARCHAR replayed or dropped
result VARCHAR what a replay came to: taken (stored now, or it was already) or queued (to be scored again); else null
comment VARCHAR why it was dropped
asked_by VARCHAR who asked for it, as they said
address VARCHAR where they asked from
"""
            + KEY
        ),
    ),
    Table(
        "batches",
        "The ledger: what was acknowledged, in the same transaction as its rows.",
        columns(
            HEAD
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
