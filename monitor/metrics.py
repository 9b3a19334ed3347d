"""What the daemon says of itself: every counter, gauge and histogram it counts with, named in one place.

Readings and verdicts are exported by `monitor.board`. Label values come from small closed sets or from the config; beyond
`max_series` label sets a counter or histogram counts under `__other__`, a gauge is left out, and both are counted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

from monitor.family import OTHER as OTHER
from monitor.family import Family, Known
from monitor.family import Spec as Spec

LATENCY = tuple(0.01 * 2**n for n in range(14))  # OpenTelemetry's ladder: 0.01 .. 81.92 s
LAG = (1.0, 10.0, 60.0, 600.0, 3600.0, 21600.0, 86400.0, 604800.0)
SCORES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.95, 0.99, 1.0)
PER_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)  # as OpenTelemetry's conventions have it
CONTEXT = (0.01, 0.05, 0.1, 0.25, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0)
MOST_EDGES = 50  # of the histogram of scores beside its own: each is a series for every model and detector
EXEMPLAR_CHARACTERS = 128
_PLAIN = re.compile(r"[A-Za-z0-9_.:/+=-]+")


class Metrics:
    """All self-metrics on one registry. Attributes are grouped as in the catalogue."""

    def __init__(self, registry: CollectorRegistry, *, max_series: int = 1000, score_edges: Iterable[float] = ()) -> None:
        """`score_edges`: thresholds that scores are held to; each is a bucket's edge."""
        self.registry = registry
        self.specs: dict[str, Spec] = {}
        self.families: list[Family] = []
        self._limit = max_series
        self._known: Known | None = None
        self._overflow = self._plain(
            Counter, "modelwatch_exporter_overflow_total", "Label sets beyond the limit of their metric", ("metric",)
        )
        # self
        self.build_info = self._gauge("modelwatch_build_info", "Versions, always 1", ("version", "python", "duckdb"))
        self.reload_ok = self._gauge("modelwatch_config_last_reload_successful", "1 if the last reload was taken")
        self.reload_time = self._gauge(
            "modelwatch_config_last_reload_success_timestamp_seconds", "When the config was last taken"
        )
        self.clock = self._gauge("modelwatch_clock_timestamp_seconds", "Time by the daemon's clock")
        self.ready = self._gauge("modelwatch_ready", "1 when records are taken")
        self.child_up = self._gauge("modelwatch_child_up", "1 while the helper process lives", ("child",))
        self.child_restarts = self._counter("modelwatch_child_restarts_total", "Restarts of a helper process", ("child",))
        # ingest
        self.requests = self._counter("modelwatch_ingest_requests_total", "Requests and blocks answered", ("transport", "code"))
        self.records = self._counter("modelwatch_ingest_records_total", "Records stored durably", ("model", "kind"))
        self.rejected = self._counter(
            "modelwatch_ingest_records_rejected_total", "Records set aside in the dead letter", ("kind", "reason")
        )
        self.duplicates = self._counter(
            "modelwatch_ingest_records_duplicate_total", "Records that were stored already", ("model", "kind")
        )
        self.discarded = self._counter(
            "modelwatch_ingest_requests_discarded_total", "OTLP metrics exports, answered and thrown away", ("transport",)
        )
        self.request_duration = self._histogram(
            "modelwatch_ingest_request_duration_seconds", "Time to the durable answer", ("transport",), LATENCY
        )
        self.event_lag = self._histogram("modelwatch_ingest_event_lag_seconds", "Time received less event time", ("kind",), LAG)
        self.ahead = self._counter(
            "modelwatch_ingest_batches_ahead_total", "Batches whose first record is over 5 min ahead of us", ("model", "kind")
        )
        self.in_flight = self._gauge("modelwatch_ingest_requests_in_flight", "Requests being answered", ("transport",))
        self.last_record = self._gauge(
            "modelwatch_ingest_last_success_timestamp_seconds", "When a record was last stored", ("model", "kind")
        )
        self.masked = self._counter("modelwatch_masked_values_total", "Values masked, hashed or dropped on the way in", ("kind",))
        self.source_up = self._gauge("modelwatch_source_up", "1 while what a source reads from is there", ("source",))
        self.kafka_lag = self._gauge("modelwatch_kafka_lag_records", "Messages not stored yet", ("source", "topic"))
        self.deadletters = self._gauge("modelwatch_deadletter_records", "Records in the dead letter", ("reason",))
        self.resolved = self._counter(
            "modelwatch_deadletter_resolved_total", "Records replayed from the dead letter or dropped", ("action", "reason")
        )
        # store
        self.commits = self._counter("modelwatch_store_commits_total", "Group commits")
        self.commit_failures = self._counter("modelwatch_store_commit_failures_total", "Failed commits", ("reason",))
        self.commit_duration = self._histogram("modelwatch_store_commit_duration_seconds", "Time of a commit", (), LATENCY)
        self.reopens = self._counter("modelwatch_store_reopens_total", "Reopened after a fatal error")
        self.store_size = self._gauge("modelwatch_store_size_bytes", "Size of the hot file")
        self.disk_free = self._gauge("modelwatch_store_disk_free_bytes", "Free space where the store lies")
        self.degraded = self._gauge("modelwatch_store_degraded", "1 while nothing can be stored")
        self.quarantined = self._gauge("modelwatch_store_quarantined_segments", "Sealed segments that are damaged and set aside")
        self.index_rebuilds = self._counter(
            "modelwatch_store_index_rebuilds_total", "Index files that were damaged or gone and made anew", ("kind",)
        )
        self.seals = self._counter("modelwatch_seal_segments_total", "Segments sealed", ("kind",))
        self.seal_duration = self._histogram("modelwatch_seal_duration_seconds", "Time to seal a segment", (), LATENCY)
        self.seal_failures = self._counter("modelwatch_seal_failures_total", "Failed rounds of sealing")
        self.seal_last_success = self._gauge("modelwatch_seal_last_success_timestamp_seconds", "Last segment sealed")
        self.compactions = self._counter(
            "modelwatch_compact_segments_total", "Segments merged from smaller ones", ("kind", "level")
        )
        self.compact_duration = self._histogram(
            "modelwatch_compact_duration_seconds", "Time to merge segments into one", (), LATENCY
        )
        self.compact_failures = self._counter("modelwatch_compact_failures_total", "Failed rounds of compaction")
        self.compact_last_success = self._gauge(
            "modelwatch_compact_last_success_timestamp_seconds", "Last segment merged from smaller ones"
        )
        self.audit_failures = self._counter("modelwatch_audit_failures_total", "Failed refreshes of audit.duckdb")
        self.audit_last_success = self._gauge(
            "modelwatch_audit_last_success_timestamp_seconds", "When audit.duckdb was last brought up to date"
        )
        # queues
        self.queue_records = self._gauge("modelwatch_queue_records", "Records waiting", ("queue",))
        self.queue_capacity = self._gauge("modelwatch_queue_capacity_records", "Most that may wait", ("queue",))
        self.queue_oldest = self._gauge(
            "modelwatch_queue_oldest_record_timestamp_seconds", "When the oldest waiting record came", ("queue",)
        )
        # scheduler
        self.runs = self._counter("modelwatch_scheduler_runs_total", "Runs of a check", ("check",))
        self.run_failures = self._counter("modelwatch_scheduler_run_failures_total", "Runs that failed", ("check", "reason"))
        self.runs_missed = self._counter(
            "modelwatch_scheduler_runs_missed_total", "Wakings skipped by the scheduler", ("check", "reason")
        )
        self.run_duration = self._histogram("modelwatch_scheduler_run_duration_seconds", "Time of a run", (), LATENCY)
        self.run_last_success = self._gauge(
            "modelwatch_scheduler_last_success_timestamp_seconds", "Last run that succeeded", ("model", "check")
        )
        self.run_interval = self._gauge(
            "modelwatch_scheduler_interval_seconds", "How often the check is woken", ("model", "check")
        )
        # detectors
        self.evaluations = self._counter("modelwatch_detector_evaluations_total", "Records scored", ("model", "detector"))
        self.failures = self._counter(
            "modelwatch_detector_failures_total", "Records a detector failed on", ("model", "detector", "reason")
        )
        self.not_evaluable = self._counter(
            "modelwatch_detector_not_evaluable_total", "Records it does not apply to", ("model", "detector", "reason")
        )
        self.flagged = self._counter("modelwatch_detector_flagged_total", "Records flagged", ("model", "detector"))
        self.stages = self._counter(
            "modelwatch_detector_stage_total", "Scores by the stage of the cascade that gave them", ("model", "detector", "stage")
        )
        self.device_fallback = self._gauge(
            "modelwatch_device_fallback_active", "1 once the encoder left its device for the CPU for lack of memory"
        )
        self.out_of_memory = self._gauge(
            "modelwatch_device_out_of_memory_batches", "Batches the device had no memory for since the scorer started"
        )
        self._edges = _edges(score_edges)
        self.score = self._scores()
        self.scoring_duration = self._histogram(
            "modelwatch_detector_batch_duration_seconds", "Time of a scoring batch", (), LATENCY
        )
        self.verdicts = self._counter(
            "modelwatch_verdicts_total", "Verdicts by outcome of their reading", ("model", "check", "outcome")
        )

        # the judge
        self.judge_selected = self._counter(
            "modelwatch_judge_selected_total", "Records chosen to be judged", ("model", "metric", "why")
        )
        self.judge_calls = self._counter("modelwatch_judge_calls_total", "Calls to the judge", ("llm_model", "code"))
        self.judge_input = self._counter("modelwatch_judge_input_tokens_total", "Tokens the judge was sent", ("llm_model",))
        self.judge_output = self._counter("modelwatch_judge_output_tokens_total", "Tokens the judge answered", ("llm_model",))
        self.judge_cost = self._counter("modelwatch_judge_cost_usd_total", "What the judge cost", ("llm_model",))
        self.judge_put_off = self._counter("modelwatch_judge_put_off_total", "Scores that are tried again later", ("reason",))
        self.judge_duration = self._histogram("modelwatch_judge_score_duration_seconds", "Time of a score", (), LATENCY)
        self.judge_up = self._gauge("modelwatch_judge_up", "1 while the judge answers", ("llm_model",))
        self.judge_budget = self._gauge("modelwatch_judge_budget_left_ratio", "Share of the day's budget that is left", ("kind",))

        # rules on single records
        self.rule_matches = self._counter(
            "modelwatch_rule_matches_total", "Records that matched a rule on single records", ("model", "check", "outcome")
        )

        # what is told to others: the sinks of `monitor.outbox`
        self.outbox_sent = self._counter("modelwatch_outbox_sent_total", "Messages that were taken", ("sink",))
        self.outbox_failures = self._counter(
            "modelwatch_outbox_failures_total", "Attempts that were not taken", ("sink", "reason")
        )
        self.evaluations_dropped = self._counter(
            "modelwatch_evaluations_dropped_total", "Scores that were not sent to the OTLP endpoint", ("reason",)
        )
        self.outbox_messages = self._gauge("modelwatch_outbox_messages", "Messages that wait or are dead", ("sink", "state"))
        self.outbox_oldest = self._gauge(
            "modelwatch_outbox_oldest_message_timestamp_seconds", "When the oldest waiting message was put", ("sink",)
        )
        self.grafana_success = self._gauge(
            "modelwatch_grafana_sync_last_success_timestamp_seconds", "When Grafana was last found or brought in step"
        )
        self.grafana_failures = self._counter(
            "modelwatch_grafana_sync_failures_total", "Things in Grafana that were not brought in step", ("reason",)
        )
        self.grafana_kept = self._gauge("modelwatch_grafana_kept", "Things in Grafana that are left as they are", ("reason",))

        # LLM traffic, as traces settle
        llm = ("model", "provider", "llm_model")
        self.llm_requests = self._counter("modelwatch_llm_requests_total", "Requests to an LLM, however often tried", llm)
        self.llm_errors = self._counter("modelwatch_llm_errors_total", "Requests whose last attempt failed", (*llm, "class"))
        self.llm_retries = self._counter("modelwatch_llm_retries_total", "Attempts after the first", llm)
        self.llm_input = self._counter("modelwatch_llm_input_tokens_total", "Tokens in, cached ones included", llm)
        self.llm_output = self._counter("modelwatch_llm_output_tokens_total", "Tokens out, reasoning included", llm)
        self.llm_cache_read = self._counter("modelwatch_llm_cache_read_tokens_total", "Tokens in that came from a cache", llm)
        self.llm_cache_write = self._counter("modelwatch_llm_cache_write_tokens_total", "Tokens in that went to a cache", llm)
        self.llm_reasoning = self._counter("modelwatch_llm_reasoning_tokens_total", "Tokens out that were reasoning", llm)
        self.llm_cost = self._counter("modelwatch_llm_cost_usd_total", "Cost, reported or from the price table", llm)
        self.llm_unpriced = self._counter("modelwatch_llm_unpriced_total", "Calls with tokens and without a cost", llm)
        self.llm_duration = self._histogram("modelwatch_llm_duration_seconds", "Time of a call to an LLM", llm, LATENCY)
        self.llm_first_token = self._histogram(
            "modelwatch_llm_time_to_first_token_seconds", "Time to the first token of an answer", llm, LATENCY
        )
        self.llm_per_token = self._histogram(
            "modelwatch_llm_time_per_output_token_seconds", "Time for each token of an answer after the first", llm, PER_TOKEN
        )
        self.llm_context = self._histogram(
            "modelwatch_llm_context_window_ratio", "Tokens in, of the most that the LLM takes", llm, CONTEXT
        )
        self.changes = self._counter("modelwatch_changes_total", "New versions, LLMs, prompts seen in traffic", ("model", "what"))
        self.traces_settled = self._counter("modelwatch_traces_settled_total", "Traces settled, the late ones again", ("model",))
        self.traces_failed = self._counter("modelwatch_traces_failed_total", "Traces that could not be settled", ("model",))
        self.logs_ignored = self._counter("modelwatch_ingest_logs_ignored_total", "Log records taken that hold nothing to keep")

    def forget(self, **labels: str) -> None:
        for family in self.families:
            family.forget(**labels)

    def only(self, known: Known) -> None:
        """Series of what is not known go, and do not come back."""
        self._known = known
        for family in self.families:
            family.only(known)

    def hold_scores_to(self, score_edges: Iterable[float]) -> None:
        """Where thresholds are others than before, the histogram of scores begins anew: buckets cannot be told apart later."""
        if (edges := _edges(score_edges)) != self._edges:
            self._edges = edges
            self.families.remove(self.score)
            self.registry.unregister(self.score.metric)
            self.score = self._scores()

    def beyond(self, metric: str, count: int = 1) -> None:
        """So many series of a metric were left out of a page."""
        self._overflow.labels(metric).inc(count)

    def _scores(self) -> Any:
        return self._histogram("modelwatch_detector_score_ratio", "Scores", ("model", "detector"), self._edges)

    def _counter(self, name: str, about: str, labels: Sequence[str] = ()) -> Any:
        return self._family(Counter, name, about, tuple(labels))

    def _gauge(self, name: str, about: str, labels: Sequence[str] = ()) -> Any:
        return self._family(Gauge, name, about, tuple(labels))

    def _histogram(self, name: str, about: str, labels: Sequence[str], buckets: Sequence[float]) -> Any:
        return self._family(Histogram, name, about, tuple(labels), buckets=buckets)

    def _family(self, kind: type[MetricWrapperBase], name: str, about: str, labels: tuple[str, ...], **more: Any) -> Any:
        metric = self._plain(kind, name, about, labels, **more)
        if not labels:
            return metric
        family = Family(metric, self.specs[name], self._limit, self._overflow)
        if self._known is not None:
            family.only(self._known)
        self.families.append(family)
        return family

    def _plain(self, kind: type[MetricWrapperBase], name: str, about: str, labels: tuple[str, ...], **more: Any) -> Any:
        self.specs[name] = Spec(name, kind.__name__.lower(), about, labels)
        return kind(name, about, labels, registry=self.registry, **more)


def _edges(thresholds: Iterable[float]) -> tuple[float, ...]:
    found = sorted({*thresholds} - {*SCORES})
    return tuple(sorted({*SCORES, *(edge for edge in found[:MOST_EDGES] if math.isfinite(edge))}))


def exemplar(keys: Mapping[str, str | None]) -> dict[str, str] | None:
    """Labels fit for an exemplar, or None. prometheus-client raises on a long one after it has counted half of it, and not every
    reader of the format takes quotes in one; an id that has any leads nowhere."""
    labels = {name: value for name, value in keys.items() if value}
    size = sum(len(n) + len(v) for n, v in labels.items())
    return labels if labels and size <= EXEMPLAR_CHARACTERS and all(map(_PLAIN.fullmatch, labels.values())) else None
