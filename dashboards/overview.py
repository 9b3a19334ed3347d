"""Fleet overview: is what we see fresh, what is wrong, since when, where?"""

from __future__ import annotations

from dashboards.frame import CHECK_VARIABLE, Row, dashboard
from dashboards.panel import CASES, GREEN, RED_FROM_ONE, YES_NO, Column, Link, Panel, Table
from dashboards.promql import CHECK, MODEL, NONE, TARGET, age, largest, ours, rate

ALERTS = 'alertname=~"Modelwatch.+", alertname!="ModelwatchWatchdog", alertstate="firing", model=~"$model|"'

FRESH: Row = (
    "Is what we see fresh?",
    [
        Panel(
            "daemons-down",
            "Daemons that cannot be scraped",
            "While one is down its checks say nothing new, and what fired before is shown for 30 minutes.",
            "short",
            [(f"count({ours('up')} == 0) or 0 * count({ours('up')})", "down")],
            "stat",
            4,
            5,
            RED_FROM_ONE,
        ),
        Panel(
            "daemons-not-ready",
            "Daemons that take nothing",
            "They start, stop, or have a store that cannot be written: senders are told to come again.",
            "short",
            [(f"count(modelwatch_ready{{{TARGET}}} == 0) or {NONE}", "not ready")],
            "stat",
            4,
            5,
            RED_FROM_ONE,
        ),
        Panel(
            "oldest-run",
            "Oldest check run",
            "Time since the check that was run longest ago. Above 5 minutes ModelwatchCheckStale fires.",
            "s",
            [(age("modelwatch_scheduler_last_success_timestamp_seconds", CHECK), "age")],
            "stat",
            4,
            5,
            (*GREEN, ("orange", 60.0), ("red", 300.0)),
        ),
        Panel(
            "oldest-record",
            "Model that is quiet the longest",
            "Time since a record of any kind of the quietest model was stored.",
            "s",
            [(f"max(time() - max by (model) (modelwatch_ingest_last_success_timestamp_seconds{{{MODEL}}}))", "age")],
            "stat",
            4,
            5,
            (*GREEN, ("orange", 3600.0)),
        ),
        Panel(
            "oldest-waiting",
            "Oldest answer that waits to be scored",
            "Its windows wait with it.",
            "s",
            [(age("modelwatch_queue_oldest_record_timestamp_seconds", f'{TARGET}, queue="scoring"'), "age")],
            "stat",
            4,
            5,
            (*GREEN, ("orange", 60.0), ("red", 600.0)),
        ),
        Panel(
            "checks-that-cannot-fire",
            "Checks that cannot fire",
            "They have no threshold they could reach. A check that cannot fire looks like one that has no reason to.",
            "short",
            [(f"count(max by (model, check) (modelwatch_threshold_missing{{{CHECK}}}) == 1) or {NONE}", "cannot fire")],
            "stat",
            4,
            5,
            (*GREEN, ("orange", 1.0)),
        ),
    ],
)

WRONG: Row = (
    "What is wrong, since when, where?",
    [
        Panel(
            "cases-open",
            "Models with an open case",
            "A case is all incidents of one model that overlap in time: one page, however many checks fire.",
            "short",
            [(f"count(max by (model) (modelwatch_case_open{{{MODEL}}}) == 1) or {NONE}", "cases")],
            "stat",
            4,
            5,
            RED_FROM_ONE,
            links=[Link("Cases", "/cases")],
        ),
        Panel(
            "checks-firing",
            "Checks firing",
            "Checks that fire now. Their incidents say which features, records and versions.",
            "short",
            [(f"sum(max by (model, check) (modelwatch_firing{{{CHECK}}})) or {NONE}", "firing")],
            "stat",
            4,
            5,
            RED_FROM_ONE,
            links=[Link("Cases", "/cases")],
        ),
        Panel(
            "alerts-since",
            "Alerts, and since when",
            "Alerts of all rules that fire, oldest first.",
            "dateTimeFromNow",
            [
                (
                    "sort(min by (alertname, model, check, severity) "
                    f"(ALERTS_FOR_STATE and ignoring (alertstate) ALERTS{{{ALERTS}}}) * 1000)",
                    "since",
                )
            ],
            "table",
            16,
            5,
        ),
        Table(
            "open-cases",
            "Open cases",
            "The page of a case has its ranked causes, the changes before it and its incidents.",
            "/v1/cases?state=open&limit=100&model=${model:csv}",
            "cases",
            [
                Column("model", "model", link=Link("Cases of this model", "/cases?limit=100&model=${__value.raw}")),
                Column("opened", "since", "timestamp", unit="dateTimeFromNow"),
                Column("severity", "severity"),
                Column("incident_count", "incidents", "number"),
                Column("top_check", "look first at"),
                Column("top_feature", "feature"),
                Column("top_slice", "slice"),
                Column("case_id", "case", link=Link("Case", "/cases/${__value.raw}")),
            ],
        ),
        Panel(
            "firing",
            "Firing",
            "1 while a check fires. While its daemon is away, its last word of the last 30 minutes.",
            "bool_yes_no",
            [
                (
                    f"max by (model, check, slice) (last_over_time(modelwatch_firing{{{CHECK}}}[30m]))",
                    "{{model}} {{check}} {{slice}}",
                )
            ],
            "state-timeline",
            24,
            10,
            RED_FROM_ONE,
            YES_NO,
            [CASES],
        ),
        Panel(
            "incidents-by-model",
            "Open incidents",
            "By model. Each is one check on one slice, from the first verdict that fired to the last.",
            "short",
            [(f"sum by (model) (max by (model, check) (modelwatch_incidents_open{{{CHECK}}}))", "{{model}}")],
            stacked=True,
            links=[CASES],
        ),
        Panel(
            "maintenance",
            "Maintenance and freezes",
            "Windows in force, cases whose page maintenance holds back, and deployments during a freeze.",
            "short",
            [
                (largest("modelwatch_maintenance_active", MODEL, "model, kind"), "{{model}} {{kind}}"),
                (largest("modelwatch_case_held", MODEL, "model"), "{{model}} held back"),
                (largest("modelwatch_freeze_violations", MODEL, "model"), "{{model}} deployed during a freeze"),
            ],
            links=[CASES],
        ),
        Panel(
            "changes",
            "Changes seen in traffic",
            "New versions, LLMs, prompts, and deployments that were told. What changed is often why something fires.",
            "short",
            [(f"sum by (model, what) (increase(modelwatch_changes_total{{{MODEL}}}[$__rate_interval]))", "{{model}} {{what}}")],
            links=[CASES],
        ),
    ],
)

MODELS: Row = (
    "Which models are watched, and what comes from them?",
    [
        Panel(
            "fleet",
            "Models",
            "Per model: checks that fire, open incidents, records a second, and the age of its last record in seconds.",
            "short",
            [
                (f"sum by (model) (max by (model, check) (modelwatch_firing{{{CHECK}}}))", "firing"),
                (f"sum by (model) (max by (model, check) (modelwatch_incidents_open{{{CHECK}}}))", "incidents"),
                (rate("modelwatch_ingest_records_total", MODEL, "model"), "records a second"),
                (f"time() - max by (model) (modelwatch_ingest_last_success_timestamp_seconds{{{MODEL}}})", "last record, s"),
            ],
            "table",
            24,
            8,
        ),
        Panel(
            "records-stored",
            "Records stored",
            "Durable records by model and kind.",
            "cps",
            [(rate("modelwatch_ingest_records_total", MODEL, "model, kind"), "{{model}} {{kind}}")],
        ),
        Panel(
            "window-age",
            "Age of the windows",
            "Time since the end of the window that was read last; it grows when a model is quiet.",
            "s",
            [
                (
                    f"time() - {largest('modelwatch_window_end_timestamp_seconds', CHECK, 'model, check')}",
                    "{{model}} {{check}}",
                )
            ],
        ),
    ],
)

OVERVIEW = dashboard(
    "modelwatch-overview",
    "What is wrong, since when, where, and is what we see fresh?",
    [FRESH, WRONG, MODELS],
    [CHECK_VARIABLE],
)
