"""State: tables that change in place and stay in the hot file; and how a store of an earlier version is brought to this one."""

from __future__ import annotations

from monitor.schema import KINDS, create_table

VERSION = 2

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

CHECK_SLICES = """CREATE TABLE IF NOT EXISTS check_slices (check_name VARCHAR, field VARCHAR, "value" VARCHAR,
    place INTEGER, added_at TIMESTAMPTZ)"""

JUDGING = """CREATE TABLE IF NOT EXISTS judging (model VARCHAR, settings_hash VARCHAR, record_id VARCHAR, place VARCHAR,
    seq BIGINT, revision INTEGER, contexts_from BIGINT, event_time TIMESTAMPTZ, why VARCHAR, attempts INTEGER,
    queued_at TIMESTAMPTZ, due_at TIMESTAMPTZ)"""
JUDGE_SPENDING = """CREATE TABLE IF NOT EXISTS judge_spending (day VARCHAR, llm_model VARCHAR, calls BIGINT,
    input_tokens BIGINT, output_tokens BIGINT, cost_usd DOUBLE)"""

OUTBOX = """CREATE TABLE IF NOT EXISTS outbox (id BIGINT, sink VARCHAR, key VARCHAR, "group" VARCHAR, payload VARCHAR,
    attempts INTEGER, put_at TIMESTAMPTZ, next_at TIMESTAMPTZ, done_at TIMESTAMPTZ, dead_at TIMESTAMPTZ, reason VARCHAR)"""

STATE_DDL = f"""{MANIFEST_HISTORY};
{TRACES};
{SEEN};
{DROPS};
{PARTITIONS};
{HALVES};
{CHECK_SLICES};
{JUDGING};
{JUDGE_SPENDING};
{OUTBOX};
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
CREATE TABLE offsets (source VARCHAR, file VARCHAR, identity VARCHAR, position BIGINT, tail BIGINT,
    noted_at TIMESTAMPTZ);
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
the epoch of who may move it. `halves` is inference requests whose response has not come, and the other way round.
`check_slices` is the values of a field that have become slices of a check, in the order of `place`. `judging` waits for the
judge: `why` is sampled or escalated, `place` names model and record. `judge_spending` is what the judge took, by day.
`outbox` waits to be sent to somebody outside, in the order of `id`, or was (`done_at`), or was given up (`dead_at`)."""


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
            "ALTER TABLE offsets ADD COLUMN IF NOT EXISTS noted_at TIMESTAMPTZ",
            "ALTER TABLE check_slots ADD COLUMN IF NOT EXISTS not_before TIMESTAMPTZ",
            *_added(
                "generations", "request_model", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens", "cost_source",
                "tool_calls", "agent", "workflow", "service", "environment", "release", "gateway", "route", "retry", "fallback",
                "fingerprint", "parent_id", "trace_hash", "context_window",
            ),
            *_added("contexts", "retrieval_id"),
            *(create_table(kind) for kind in ("contents", "spans", "retrievals", "calls", "changes")),
            TRACES,
            SEEN,
            DROPS,
            PARTITIONS,
            HALVES,
            CHECK_SLICES,
            JUDGING,
            JUDGE_SPENDING,
            OUTBOX,
            *(create_table(kind) for kind in ("maskings", "rule_matches")),
            *(create_table(kind) for kind in ("thresholds", "cases", "maintenance")),
            *_added("incidents", "owner", "in_maintenance"),
            *_added("verdicts", "needed", "of_windows", "note"),
            *_added("readings", "reference"),
        ]
    ),
}  # fmt: skip
"""SQL that brings a store of version n-1 to n. A new store is created at VERSION outright. `IF NOT EXISTS` throughout: tables
are created as they are today, columns of later versions included."""
