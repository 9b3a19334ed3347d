"""The daemon itself: intake, store, queues, checks, detectors, helper processes, outputs, and what it costs to run."""

from __future__ import annotations

from dashboards.frame import Row, dashboard
from dashboards.intake import INTAKE
from dashboards.panel import GREEN, RED_FROM_ONE, Panel
from dashboards.promql import HERE, MODEL, NONE, TARGET, increase, ours
from dashboards.storing import STORE
from dashboards.work import DETECTORS, GPU, OUTPUTS, QUEUES

CLOCK = f"modelwatch_clock_timestamp_seconds{{{TARGET}}}"

OURS = f"and on (job, instance) modelwatch_build_info{{{TARGET}}}"

STATE: Row = (
    "Is it well?",
    [
        Panel(
            "ready",
            "Not ready",
            "It answers 503: it starts, stops, or cannot write its store.",
            "short",
            [(f"count(modelwatch_ready{{{TARGET}}} == 0) or {NONE}", "not ready")],
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
            [(f"count(modelwatch_child_up{{{TARGET}}} == 0) or {NONE}", "down")],
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
            [(f"count(modelwatch_config_last_reload_successful{{{TARGET}}} == 0) or {NONE}", "refused")],
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
            [(f"sum(modelwatch_deadletter_records{{{TARGET}}})", "records")],
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
            [(f"max by (instance) (rate(process_cpu_seconds_total{{{TARGET}}}[$__rate_interval]) {OURS})", HERE)],
        ),
        Panel(
            "memory",
            "Memory",
            "Resident, of the daemon's own process.",
            "bytes",
            [(f"max by (instance) ({ours('process_resident_memory_bytes')})", HERE)],
        ),
        Panel(
            "files",
            "Open files, of those allowed",
            "At 1 no connection is taken any more.",
            "percentunit",
            [(f"max by (instance) ({ours('process_open_fds')}) / max by (instance) ({ours('process_max_fds')})", HERE)],
        ),
        Panel(
            "scrape",
            "Scrapes",
            "Time of a scrape of its metrics, as Prometheus measures it.",
            "s",
            [(f"max by (instance) ({ours('scrape_duration_seconds')})", HERE)],
        ),
        Panel(
            "clock",
            "Clock",
            "How far its clock was ahead of Prometheus's when it was scraped. Windows and due times go by it.",
            "s",
            [(f"max by (instance) ({CLOCK} - timestamp({CLOCK}))", HERE)],
        ),
        Panel(
            "series",
            "Series",
            "In a scrape, and label sets beyond the limit of their metric: those are counted together, or left out.",
            "short",
            [
                (f"max by (instance) ({ours('scrape_samples_scraped')})", HERE),
                (increase("modelwatch_exporter_overflow_total", TARGET, "metric"), "{{metric}} beyond its limit"),
                (f"sum(modelwatch_features_not_shown{{{MODEL}}})", "features without a series"),
            ],
        ),
    ],
)

DAEMON = dashboard(
    "modelwatch-daemon",
    "Intake, store, queues, checks, detectors, helper processes and outputs of the daemon itself.",
    [STATE, INTAKE, STORE, QUEUES, DETECTORS, GPU, OUTPUTS, PROCESS],
    [],
)
