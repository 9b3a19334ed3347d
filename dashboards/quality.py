"""Model quality and drift: each check's reading against its threshold, what it is made of, and what it rests on."""

from __future__ import annotations

from dashboards.frame import CHECK_VARIABLE, Row, dashboard
from dashboards.panel import CASES, RED_FROM_ONE, YES_NO, Column, Link, Panel, Table
from dashboards.promql import CHECK, increase, largest

WHO = "{{model}} {{check}} {{slice}}"
BY_SLICE = "model, check, slice"
ALL, PARTS = f'{CHECK}, slice="all"', f'{CHECK}, slice!="all"'
UPPER, LOWER = f'{CHECK}, bound="upper"', f'{CHECK}, bound="lower"'


def _quality(kind: str) -> str:
    return largest(f"modelwatch_quality_{kind}", CHECK, f"{BY_SLICE}, metric")


READINGS: Row = (
    "Is a model beyond its thresholds?",
    [
        Panel(
            "check-firing",
            "Firing",
            "1 while a check fires.",
            "bool_yes_no",
            [(largest("modelwatch_firing", CHECK, BY_SLICE), WHO)],
            "state-timeline",
            24,
            8,
            RED_FROM_ONE,
            YES_NO,
            [CASES],
        ),
        Panel(
            "reading",
            "Readings and thresholds",
            "The latest reading of each check over all its traffic, and its bounds. Choose one check to read it well.",
            "short",
            [
                (largest("modelwatch_reading", ALL, "model, check"), "{{model}} {{check}}"),
                (largest("modelwatch_threshold", ALL, "model, check, bound"), "{{model}} {{check}} {{bound}} bound"),
            ],
            links=[CASES],
        ),
        Panel(
            "reading-interval",
            "Intervals of readings",
            "Of a reading that has one, such as a share or an accuracy. What fires is the end of it, not the point.",
            "short",
            [
                (largest("modelwatch_reading_lower_bound", CHECK, BY_SLICE), f"{WHO} from"),
                (largest("modelwatch_reading_upper_bound", CHECK, BY_SLICE), f"{WHO} to"),
            ],
            links=[CASES],
        ),
        Panel(
            "over-threshold",
            "How far beyond its threshold",
            "Reading over its upper bound, or lower bound over reading: above 1 it is beyond. The ten largest.",
            "short",
            [
                (
                    f"topk(10, {largest('modelwatch_reading', CHECK, BY_SLICE)} / "
                    f"({largest('modelwatch_threshold', UPPER, BY_SLICE)} > 0))",
                    WHO,
                ),
                (
                    f"topk(10, {largest('modelwatch_threshold', LOWER, BY_SLICE)} / "
                    f"({largest('modelwatch_reading', CHECK, BY_SLICE)} > 0))",
                    f"{WHO} (lower)",
                ),
            ],
            links=[CASES],
        ),
        Panel(
            "verdicts",
            "Verdicts by outcome",
            "ok; not_enough_data: too few rows; not_evaluable: the rows lack something; failed: the detector raised.",
            "short",
            [(increase("modelwatch_verdicts_total", CHECK, "outcome"), "{{outcome}}")],
            stacked=True,
        ),
        Table(
            "incidents",
            "Incidents",
            "The page of an incident has its evidence: readings over time, ranked features, worst records, SQL.",
            "/v1/incidents?limit=200&model=${model:csv}",
            "incidents",
            [
                Column("model", "model"),
                Column("check", "check"),
                Column("slice", "slice"),
                Column("state", "state"),
                Column("severity", "severity"),
                Column("owner", "owner"),
                Column("opened", "opened", "timestamp", unit="dateTimeAsIso"),
                Column("resolved", "resolved", "timestamp", unit="dateTimeAsIso"),
                Column("value", "reading", "number", unit="short"),
                Column("lower", "lower bound", "number", unit="short"),
                Column("upper", "upper bound", "number", unit="short"),
                Column("incident_id", "incident", link=Link("Incident", "/incidents/${__value.raw}")),
            ],
        ),
        Table(
            "worst-records",
            "Worst records of open incidents",
            "Of checks of scores: the records that scored worst in the window that fired first. Each leads to its trace.",
            "/v1/records/worst?state=open&limit=20&model=${model:csv}",
            "records",
            [
                Column("model", "model"),
                Column("check", "check"),
                Column("slice", "slice"),
                Column("value", "score", "number", unit="short"),
                Column("record_id", "record"),
                Column("trace_id", "trace", link=Link("Trace", "/traces/${__value.raw}")),
                Column("incident_id", "incident", link=Link("Incident", "/incidents/${__value.raw}")),
            ],
        ),
    ],
)

WHERE: Row = (
    "Which features and slices?",
    [
        Panel(
            "features",
            "Features with the largest part in it",
            "The largest parts of each reading: features of a drift check, metrics or groups of others.",
            "short",
            [
                (
                    f"topk(10, {largest('modelwatch_feature_reading', CHECK, 'model, check, slice, feature')})",
                    "{{model}} {{check}} {{slice}} {{feature}}",
                )
            ],
            links=[CASES],
        ),
        Panel(
            "slices",
            "Readings of slices",
            "Of the parts of the traffic that a check reads apart.",
            "short",
            [(f"topk(10, {largest('modelwatch_reading', PARTS, BY_SLICE)})", WHO)],
            links=[CASES],
        ),
        Panel(
            "slices-firing",
            "Slices",
            "How many slices of a check have been read, and how many of them fire.",
            "short",
            [
                (largest("modelwatch_slices", CHECK, "model, check"), "{{model}} {{check}}"),
                (f"sum by (model, check) (modelwatch_firing{{{CHECK}}})", "{{model}} {{check}} firing"),
            ],
            links=[CASES],
        ),
    ],
)

QUALITY_ROW: Row = (
    "How good are the predictions?",
    [
        Panel(
            "quality",
            "Quality, estimated and realised",
            "Realised from labels, however late; estimated before they come. 1 is best. Where they part, concepts drift.",
            "percentunit",
            [
                (_quality("ratio"), f"{WHO} {{{{metric}}}}"),
                (_quality("estimated_ratio"), f"{WHO} {{{{metric}}}}, estimated"),
            ],
            links=[CASES],
        ),
        Panel(
            "error",
            "Error, estimated and realised",
            "Realised from labels, however late; estimated before they come. 0 is best. Where they part, concepts drift.",
            "short",
            [
                (_quality("error"), f"{WHO} {{{{metric}}}}"),
                (_quality("estimated_error"), f"{WHO} {{{{metric}}}}, estimated"),
            ],
            links=[CASES],
        ),
        Panel(
            "label-coverage",
            "Label coverage",
            "Share of the rows of a window whose labels have come. What is realised rests on these alone.",
            "percentunit",
            [(largest("modelwatch_quality_label_coverage_ratio", CHECK, BY_SLICE), WHO)],
            links=[CASES],
        ),
    ],
)

RESTS_ON: Row = (
    "What do the readings rest on?",
    [
        Panel(
            "false-alarms",
            "False alarms, achieved and nominal",
            "Share of slots that fire by chance: as set, and as seen on the baseline's own windows with its interval.",
            "percentunit",
            [(largest("modelwatch_false_alarm_ratio", CHECK, "model, check, slice, kind"), f"{WHO} {{{{kind}}}}")],
        ),
        Panel(
            "threshold-missing",
            "Checks that cannot fire",
            "not_enough_data: the reference is too short; budget_unreachable: so few alarms cannot be promised from it.",
            "short",
            [(largest("modelwatch_threshold_missing", CHECK, "model, check, slice, reason"), f"{WHO} {{{{reason}}}}")],
        ),
        Panel(
            "window-records",
            "Rows in the windows",
            "Rows that were compared. Below min_records a window is not read.",
            "short",
            [(largest("modelwatch_window_records", CHECK, "model, check, slice, side"), f"{WHO} {{{{side}}}}")],
        ),
        Panel(
            "window-end-age",
            "Age of the windows",
            "Time since the end of the window that was read last; it grows when a model is quiet.",
            "s",
            [(f"time() - {largest('modelwatch_window_end_timestamp_seconds', CHECK, BY_SLICE)}", WHO)],
        ),
    ],
)

QUALITY = dashboard(
    "modelwatch-quality",
    "Readings against thresholds, what they are made of, and what they rest on.",
    [READINGS, WHERE, QUALITY_ROW, RESTS_ON],
    [CHECK_VARIABLE],
)
