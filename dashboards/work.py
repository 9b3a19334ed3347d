"""The rows on what the daemon does with what came in: queues, runs of checks, detectors, and whom it tells."""

from __future__ import annotations

from dashboards.frame import Row
from dashboards.panel import Panel
from dashboards.promql import HERE, MODEL, TARGET, age, by_instance, increase, largest, quantiles, rate

GPU_HERE = f"{HERE} GPU {{{{gpu}}}}"

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
            "record-rules",
            "Records that matched a rule",
            "Rules on single records: opened an incident, joined one, or were one too many for the hour.",
            "short",
            [(increase("modelwatch_rule_matches_total", MODEL, "model, check, outcome"), "{{model}} {{check}} {{outcome}}")],
        ),
        Panel(
            "device",
            "Device",
            "1 once the encoder left its device for the CPU, and batches the device had no memory for.",
            "short",
            [
                (by_instance("modelwatch_device_fallback_active"), f"{HERE} on the CPU instead"),
                (by_instance("modelwatch_device_out_of_memory_batches"), f"{HERE} batches without memory"),
            ],
        ),
    ],
)

GPU: Row = (
    "Is there room on the GPU?",
    [
        Panel(
            "gpu-memory",
            "Memory of the GPUs",
            "In use by whomever, by the daemon and its helpers, and all there is. Empty where the daemon has no GPU.",
            "bytes",
            [
                (f"max by (instance, gpu) (modelwatch_gpu_memory_used_bytes{{{TARGET}}})", f"{GPU_HERE} in use"),
                (f"max by (instance, gpu) (modelwatch_gpu_process_memory_bytes{{{TARGET}}})", f"{GPU_HERE} ours"),
                (f"max by (instance, gpu) (modelwatch_gpu_memory_total_bytes{{{TARGET}}})", f"{GPU_HERE} there is"),
            ],
        ),
        Panel(
            "gpu-utilisation",
            "Utilisation of the GPUs",
            "Share of the time in which a kernel ran, of whomever.",
            "percentunit",
            [(f"max by (instance, gpu) (modelwatch_gpu_utilisation_ratio{{{TARGET}}})", GPU_HERE)],
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
        Panel(
            "grafana-sync",
            "Grafana out of step",
            "Folder, data source and dashboards: what could not be brought in step, and what differs and is left as it is.",
            "short",
            [
                (increase("modelwatch_grafana_sync_failures_total", TARGET, "reason"), "failed: {{reason}}"),
                (f"sum by (reason) (modelwatch_grafana_kept{{{TARGET}}})", "kept: {{reason}}"),
            ],
            width=8,
        ),
        Panel(
            "grafana-sync-age",
            "Time since Grafana was in step",
            "Only where the config has grafana.",
            "s",
            [(f"time() - max by (instance) (modelwatch_grafana_sync_last_success_timestamp_seconds{{{TARGET}}} > 0)", HERE)],
            width=8,
        ),
        Panel(
            "evaluations-dropped",
            "Scores not sent as events",
            "To the OTLP endpoint of the config, by reason. They are in the store.",
            "short",
            [(increase("modelwatch_evaluations_dropped_total", TARGET, "reason"), "{{reason}}")],
            width=8,
        ),
    ],
)
