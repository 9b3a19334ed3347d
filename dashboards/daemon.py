"""The daemon itself: intake, store, queues, checks, detectors, helper processes, outputs, and what it costs to run."""

from __future__ import annotations

from dashboards.frame import Row, dashboard
from dashboards.panel import GREEN, RED_FROM_ONE, Panel
from dashboards.promql import MODEL, TARGET, age, increase, largest, quantiles, rate

HERE = "{{instance}}"


def _by_instance(metric: str, reduce: str = "max") -> str:
    return f"{reduce} by (instance) ({metric}{{{TARGET}}})"


STATE: Row = (
    "Is it well?",
    [
        Panel(
            "ready",
            "Not ready",
            "It answers 503: it starts, stops, or cannot write its store.",
            "short",
            [(f"count(modelwatch_ready{{{TARGET}}} == 0) or vector(0)", "not ready")],
            "stat",
            4,
            5,
            RED_FROM_ONE,
        ),
        Panel(
            "store-degraded",
            "Stores that take nothing",
            "The disk is full to its watermark, or the store is being opened again.",
            "short",
            [(f"sum(modelwatch_store_degraded{{{TARGET}}})", "degraded")],
            "stat",
            4,
            5,
            RED_FROM_ONE,
        ),
        Panel(
            "helpers-down",
            "Helper processes down",
            "What they had in hand is done again once they are back.",
            "short",
            [(f"count(modelwatch_child_up{{{TARGET}}} == 0) or vector(0)", "down")],
            "stat",
            4,
            5,
            RED_FROM_ONE,
        ),
        Panel(
            "reload-failed",
            "Configs refused",
            "The last reload was not taken; the old config goes on.",
            "short",
            [(f"count(modelwatch_config_last_reload_successful{{{TARGET}}} == 0) or vector(0)", "refused")],
            "stat",
            4,
            5,
            RED_FROM_ONE,
        ),
        Panel(
            "dead-letters",
            "Records in the dead letter",
            "By reason in `modelwatch deadletter list`. They can be replayed.",
            "short",
            [(f"sum(modelwatch_deadletter_records{{{TARGET}}}) or vector(0)", "records")],
            "stat",
            4,
            5,
            (*GREEN, ("orange", 1.0)),
        ),
        Panel(
            "quarantined",
            "Damaged segments",
            "Sealed files that are not what was sealed, and were set aside.",
            "short",
            [(f"sum(modelwatch_store_quarantined_segments{{{TARGET}}})", "segments")],
            "stat",
            4,
            5,
            RED_FROM_ONE,
        ),
        Panel(
            "versions",
            "Versions",
            "What runs where, since which config.",
            "dateTimeFromNow",
            [
                (
                    "max by (instance, version, python, duckdb) (modelwatch_build_info"
                    f"{{{TARGET}}}) * on (instance) group_left () max by (instance) "
                    f"(modelwatch_config_last_reload_success_timestamp_seconds{{{TARGET}}}) * 1000",
                    "config since",
                )
            ],
            "table",
            24,
            5,
        ),
    ],
)

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
            "Taken and not kept",
            "OTLP metrics, log records that say nothing of a model, and values masked on the way in.",
            "cps",
            [
                (rate("modelwatch_ingest_requests_discarded_total", TARGET, "transport"), "{{transport}} metrics exports"),
                (rate("modelwatch_ingest_logs_ignored_total", TARGET), "log records"),
                (rate("modelwatch_masked_values_total", TARGET, "kind"), "masked: {{kind}}"),
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

STORE: Row = (
    "Is it stored safely?",
    [
        Panel(
            "disk",
            "Disk",
            "Free space where the store lies, and the size of its hot file. Below store.min_free_bytes nothing is taken in.",
            "bytes",
            [
                (_by_instance("modelwatch_store_disk_free_bytes", "min"), f"{HERE} free"),
                (_by_instance("modelwatch_store_size_bytes"), f"{HERE} hot file"),
            ],
        ),
        Panel(
            "commit-duration",
            "Time of a commit",
            "One fsync each; the answers wait for it.",
            "s",
            quantiles("modelwatch_store_commit_duration_seconds", TARGET, of=(0.5, 0.99)),
        ),
        Panel(
            "commits",
            "Commits",
            "Group commits, those that failed by reason, and openings after a fatal error.",
            "cps",
            [
                (rate("modelwatch_store_commits_total", TARGET, "instance"), HERE),
                (rate("modelwatch_store_commit_failures_total", TARGET, "reason"), "failed: {{reason}}"),
                (rate("modelwatch_store_reopens_total", TARGET, "instance"), f"{HERE} opened again"),
            ],
        ),
        Panel(
            "sealing-age",
            "Time since rows were sealed, merged and shown to auditors",
            "Rows not sealed yet are not protected against change. Auditors see nothing younger than the last view.",
            "s",
            [
                (age("modelwatch_seal_last_success_timestamp_seconds", f"{TARGET}") + " < 1e9", "sealed"),
                (age("modelwatch_compact_last_success_timestamp_seconds", f"{TARGET}") + " < 1e9", "merged"),
                (age("modelwatch_audit_last_success_timestamp_seconds", f"{TARGET}") + " < 1e9", "audit view"),
            ],
        ),
        Panel(
            "segments",
            "Segments sealed and merged",
            "Sealed: rows moved from the hot file into a file that never changes. Merged: small files made one.",
            "short",
            [
                (increase("modelwatch_seal_segments_total", TARGET, "kind"), "{{kind}} sealed"),
                (increase("modelwatch_compact_segments_total", TARGET, "kind, level"), "{{kind}} merged to {{level}}"),
            ],
        ),
        Panel(
            "sealing-duration",
            "Time to seal and to merge",
            "The 95th percentile of a segment.",
            "s",
            [
                (expr, f"{name} {legend}")
                for name in ("seal", "compact")
                for expr, legend in quantiles(f"modelwatch_{name}_duration_seconds", TARGET, of=(0.95,))
            ],
        ),
        Panel(
            "sealing-failures",
            "Failed rounds",
            "Of sealing, merging and the auditors' views, and index files that had to be made anew.",
            "short",
            [
                (increase("modelwatch_seal_failures_total", TARGET), "sealing"),
                (increase("modelwatch_compact_failures_total", TARGET), "merging"),
                (increase("modelwatch_audit_failures_total", TARGET), "audit views"),
                (increase("modelwatch_store_index_rebuilds_total", TARGET, "kind"), "index of {{kind}}"),
            ],
        ),
    ],
)

QUEUES: Row = (
    "Does it keep up?",
    [
        Panel(
            "queue-records",
            "Waiting",
            "Records that wait, by queue.",
            "short",
            [(f"sum by (queue) (modelwatch_queue_records{{{TARGET}}})", "{{queue}}")],
            width=8,
        ),
        Panel(
            "queue-share",
            "Queues, how full",
            "Of a queue with a limit. At 1 senders are told to come again.",
            "percentunit",
            [
                (
                    f"max by (instance, queue) (modelwatch_queue_records{{{TARGET}}}) / "
                    f"max by (instance, queue) (modelwatch_queue_capacity_records{{{TARGET}}} > 0)",
                    f"{HERE} {{{{queue}}}}",
                )
            ],
            width=8,
        ),
        Panel(
            "queue-age",
            "Oldest that waits",
            "Time since it came, by queue.",
            "s",
            [(age("modelwatch_queue_oldest_record_timestamp_seconds", TARGET, "queue"), "{{queue}}")],
            width=8,
        ),
        Panel(
            "runs",
            "Runs of checks",
            "Runs, those that failed, and wakings that were skipped because a run was still on.",
            "short",
            [
                (increase("modelwatch_scheduler_runs_total", TARGET), "runs"),
                (increase("modelwatch_scheduler_run_failures_total", TARGET, "check, reason"), "{{check}} failed: {{reason}}"),
                (increase("modelwatch_scheduler_runs_missed_total", TARGET, "check, reason"), "{{check}} skipped: {{reason}}"),
            ],
        ),
        Panel(
            "run-duration",
            "Time of a run",
            "Of one check: all slots that were due.",
            "s",
            quantiles("modelwatch_scheduler_run_duration_seconds", TARGET),
        ),
        Panel(
            "run-age",
            "Last run, in intervals",
            "Time since a check was last run, over how often it should be. Above 2 it is late.",
            "short",
            [
                (
                    f"(time() - {largest('modelwatch_scheduler_last_success_timestamp_seconds', MODEL, 'model, check')}) / "
                    f"{largest('modelwatch_scheduler_interval_seconds', MODEL, 'model, check')}",
                    "{{model}} {{check}}",
                )
            ],
        ),
    ],
)

DETECTORS: Row = (
    "Do the detectors work?",
    [
        Panel(
            "scored",
            "Answers scored",
            "By detector.",
            "cps",
            [(rate("modelwatch_detector_evaluations_total", MODEL, "model, detector"), "{{model}} {{detector}}")],
            stacked=True,
        ),
        Panel(
            "scoring-failures",
            "Answers a detector failed on",
            "By reason. They are in the dead letter.",
            "cps",
            [(rate("modelwatch_detector_failures_total", MODEL, "model, detector, reason"), "{{model}} {{detector}} {{reason}}")],
        ),
        Panel(
            "stages",
            "Stages of the cascade",
            "Which stage gave the score: the cheap one, or the one that reads closer where the cheap one is unsure.",
            "cps",
            [(rate("modelwatch_detector_stage_total", MODEL, "detector, stage"), "{{detector}} {{stage}}")],
            stacked=True,
        ),
        Panel(
            "batch-duration",
            "Time of a scoring batch",
            "In the scorer, by whatever device it has.",
            "s",
            quantiles("modelwatch_detector_batch_duration_seconds", TARGET),
        ),
        Panel(
            "device",
            "Device",
            "1 once the encoder left its device for the CPU, and batches the device had no memory for.",
            "short",
            [
                (_by_instance("modelwatch_device_fallback_active"), f"{HERE} on the CPU instead"),
                (_by_instance("modelwatch_device_out_of_memory_batches"), f"{HERE} batches without memory"),
            ],
        ),
    ],
)

OUTPUTS: Row = (
    "Does everybody hear what it has to say?",
    [
        Panel(
            "outbox",
            "Messages that wait, or are dead",
            "For Grafana, webhooks and whoever else is told. Dead ones were refused for good, or tried as often as allowed.",
            "short",
            [(f"sum by (sink, state) (modelwatch_outbox_messages{{{TARGET}}})", "{{sink}} {{state}}")],
            width=8,
        ),
        Panel(
            "outbox-age",
            "Oldest message that waits",
            "Time since it was put; 0 where none waits.",
            "s",
            [(age("modelwatch_outbox_oldest_message_timestamp_seconds", TARGET, "sink"), "{{sink}}")],
            width=8,
        ),
        Panel(
            "outbox-sent",
            "Messages taken, and attempts that were not",
            "By whom, and why not. An attempt that fails is made again.",
            "short",
            [
                (increase("modelwatch_outbox_sent_total", TARGET, "sink"), "{{sink}}"),
                (increase("modelwatch_outbox_failures_total", TARGET, "sink, reason"), "{{sink}} failed: {{reason}}"),
            ],
            width=8,
        ),
    ],
)

PROCESS: Row = (
    "What does it cost to run?",
    [
        Panel(
            "helpers",
            "Helper processes restarted",
            "Work they had is done again.",
            "short",
            [(increase("modelwatch_child_restarts_total", TARGET, "child"), "{{child}}")],
        ),
        Panel(
            "cpu",
            "CPU",
            "Cores used by the daemon's own process; its helpers are apart.",
            "short",
            [(rate("process_cpu_seconds_total", TARGET, "instance"), HERE)],
        ),
        Panel(
            "memory",
            "Memory",
            "Resident, of the daemon's own process.",
            "bytes",
            [(_by_instance("process_resident_memory_bytes"), HERE)],
        ),
        Panel(
            "files",
            "Open files, of those allowed",
            "At 1 no connection is taken any more.",
            "percentunit",
            [(f"{_by_instance('process_open_fds')} / {_by_instance('process_max_fds')}", HERE)],
        ),
        Panel(
            "scrape",
            "Scrapes",
            "Time of a scrape of its metrics, as Prometheus measures it.",
            "s",
            [(_by_instance("scrape_duration_seconds"), HERE)],
        ),
        Panel(
            "series",
            "Series",
            "In a scrape, and label sets beyond the limit of their metric: those are counted together, or left out.",
            "short",
            [
                (_by_instance("scrape_samples_scraped"), HERE),
                (increase("modelwatch_exporter_overflow_total", TARGET, "metric"), "{{metric}} beyond its limit"),
            ],
        ),
    ],
)

DAEMON = dashboard(
    "modelwatch-daemon",
    "Intake, store, queues, checks, detectors, helper processes and outputs of the daemon itself.",
    [STATE, INTAKE, STORE, QUEUES, DETECTORS, OUTPUTS, PROCESS],
    [],
)
