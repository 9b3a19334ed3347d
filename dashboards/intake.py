"""The row on what comes in."""

from __future__ import annotations

from dashboards.frame import Row
from dashboards.panel import RED_FROM_ONE, Panel
from dashboards.promql import MODEL, TARGET, increase, quantiles, rate

INTAKE: Row = (
    "Is everything taken in?",
    [
        Panel(
            "requests",
            "Requests answered",
            "By the code that was answered. 429 and 503 are sent again by whoever sent them.",
            "reqps",
            [(rate("modelwatch_ingest_requests_total", TARGET, "transport, code"), "{{transport}} {{code}}")],
            stacked=True,
        ),
        Panel(
            "ingest-duration",
            "Time to the durable answer",
            "From the request to the answer after the commit.",
            "s",
            quantiles("modelwatch_ingest_request_duration_seconds", TARGET, "transport", "{{transport}}", (0.5, 0.99)),
        ),
        Panel(
            "in-flight",
            "Requests in hand",
            "Being answered now.",
            "short",
            [(f"sum by (transport) (modelwatch_ingest_requests_in_flight{{{TARGET}}})", "{{transport}}")],
            width=8,
        ),
        Panel(
            "records",
            "Records stored",
            "Durable, by kind.",
            "cps",
            [(rate("modelwatch_ingest_records_total", MODEL, "kind"), "{{kind}}")],
            width=8,
            stacked=True,
        ),
        Panel(
            "records-not-stored",
            "Records set aside, and met twice",
            "Set aside: in the dead letter, by reason. Met twice: stored already, so nothing was lost or doubled.",
            "cps",
            [
                (rate("modelwatch_ingest_records_rejected_total", TARGET, "kind, reason"), "{{kind}} {{reason}}"),
                (rate("modelwatch_ingest_records_duplicate_total", MODEL, "kind"), "{{kind}} again"),
            ],
            width=8,
        ),
        Panel(
            "event-lag",
            "How late records come",
            "Time received less event time. What comes later than a check's lateness restates its windows.",
            "s",
            quantiles("modelwatch_ingest_event_lag_seconds", TARGET, "kind", "{{kind}}", (0.5, 0.95)),
            width=8,
        ),
        Panel(
            "ignored",
            "Taken and not kept, or not as it came",
            "OTLP metrics, log records that say nothing of a model, values that were masked, batches from a clock ahead of ours.",
            "cps",
            [
                (rate("modelwatch_ingest_requests_discarded_total", TARGET, "transport"), "{{transport}} metrics exports"),
                (rate("modelwatch_ingest_logs_ignored_total", TARGET), "log records"),
                (rate("modelwatch_masked_values_total", TARGET, "kind"), "masked: {{kind}}"),
                (rate("modelwatch_ingest_batches_ahead_total", MODEL, "kind"), "clock ahead: {{kind}}"),
            ],
            width=8,
        ),
        Panel(
            "sources",
            "Sources away",
            "Files, folders, topics or registries that are read, and are not there.",
            "short",
            [(f"1 - min by (source) (modelwatch_source_up{{{TARGET}}})", "{{source}}")],
            width=8,
            thresholds=RED_FROM_ONE,
        ),
        Panel(
            "kafka-lag",
            "Messages not stored yet",
            "Of Kafka topics, by the partitions that are ours.",
            "short",
            [(f"sum by (source, topic) (modelwatch_kafka_lag_records{{{TARGET}}})", "{{source}} {{topic}}")],
        ),
        Panel(
            "dead-letter-work",
            "Dead letter",
            "Records in it by reason, and those replayed or dropped.",
            "short",
            [
                (f"sum by (reason) (modelwatch_deadletter_records{{{TARGET}}})", "{{reason}}"),
                (increase("modelwatch_deadletter_resolved_total", TARGET, "action, reason"), "{{action}}: {{reason}}"),
            ],
        ),
    ],
)
