"""The row on the store."""

from __future__ import annotations

from dashboards.frame import Row
from dashboards.panel import Panel
from dashboards.promql import HERE, TARGET, age, by_instance, increase, quantiles, rate

STORE: Row = (
    "Is it stored safely?",
    [
        Panel(
            "disk",
            "Disk",
            "Free space where the store lies, and the size of its hot file. Below store.min_free_bytes nothing is taken in.",
            "bytes",
            [
                (by_instance("modelwatch_store_disk_free_bytes", "min"), f"{HERE} free"),
                (by_instance("modelwatch_store_size_bytes"), f"{HERE} hot file"),
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
