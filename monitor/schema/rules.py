"""The kinds that rules on single records need: what was masked in which record, and which records matched which rule."""

from __future__ import annotations

from monitor.schema.tables import HEAD, Table, columns

RULES: tuple[Table, ...] = (
    Table(
        "maskings",
        "Which kinds of personal data or secrets were masked in a record, on its way in: never what stood there.",
        columns(
            HEAD
            + """
record_id VARCHAR the record
kind VARCHAR the log it is in: generations, contents (texts of a generation that came as a log record), predictions
event_time TIMESTAMPTZ event time of the record
trace_id VARCHAR trace of the record
masked VARCHAR JSON: how many values of each kind, such as key or card
received_at TIMESTAMPTZ when the inbox took it
"""
        ),
        "event_time",
    ),
    Table(
        "rule_matches",
        "Records that matched a rule on single records. Of a rule and record the last row counts.",
        columns(
            HEAD
            + """
rule VARCHAR the rule
record_id VARCHAR the record
revision INTEGER input revision of the score; 1 of what was masked
event_time TIMESTAMPTZ event time of the record
trace_id VARCHAR trace of the record
incident_id VARCHAR the incident it belongs to
matched BOOLEAN false where a later score takes it back
limited BOOLEAN it would have been an incident of its own, had the rule not opened as many as it may in an hour
value DOUBLE the score, or how many values were masked
keys VARCHAR JSON list of hashes by which equal ones are told: of its trace, conversation, texts and so on
detail VARCHAR JSON of what is flagged: kinds masked, and offsets in the texts as stored
arrived_at TIMESTAMPTZ when the score or the record was stored
received_at TIMESTAMPTZ when the rule saw it
"""
        ),
        "event_time",
    ),
)
