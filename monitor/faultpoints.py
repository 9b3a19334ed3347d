"""Named moments at which a test ends the process, or fails it, to see what is left behind.

`point("seal.renamed")` stands between two steps whose order is a promise. In the daemon as it is started nothing is armed and
nothing can be: no option, no environment variable reaches `arm`, only a test that runs the daemon inside a program of its own.
A point costs one comparison, and stands where something is done once per commit or segment, never per record.
"""

from __future__ import annotations

from collections.abc import Callable

POINTS: dict[str, str] = {
    "commit.before": "all rows of a group are in the transaction, nothing is committed",
    "commit.after": "the group is committed and synced, nobody has been answered",
    "settle.planned": "what becomes of the traces that are due is known, nothing of it is in the store",
    "settle.written": "calls, passages, work and the end of the traces are in the transaction",
    "score.answered": "the scorer has answered, nothing of it is in the store",
    "score.written": "scores and the end of their work are in the transaction",
    "rule.written": "matches, incidents and the place a rule has read to are in the transaction",
    "evaluations.sent": "the OTLP endpoint has a batch of scores, and the store does not know it yet",
    "outbox.sent": "a receiver has a message, and the outbox does not know it yet",
    "seal.written": "the segment's temporary file is written, not synced",
    "seal.synced": "it is synced",
    "seal.keys_renamed": "the file of its keys has its name",
    "seal.renamed": "the segment has its name",
    "seal.folder_synced": "so has its folder on disk; the manifest does not know it",
    "seal.manifest": "manifest row and deletion of the hot rows are in the transaction",
    "seal.committed": "the manifest names the segment",
    "quarantine.marked": "the manifest says that a segment is damaged, which still lies in its place",
    "compact.written": "the merged segment's temporary file is written, not synced",
    "compact.synced": "it is synced",
    "compact.indexed": "its index files have their names",
    "compact.renamed": "the merged segment has its name; the manifest does not know it",
    "compact.manifest": "its manifest row, and those it replaces in the history, are in the transaction",
    "compact.committed": "the manifest names it; the files it was made of are still there",
    "compact.removed": "they are deleted; the history does not say so yet",
    "audit.tail_written": "a tail file is written and has no name yet",
    "audit.written": "the new audit.duckdb is written beside the old one",
    "audit.synced": "it is synced, and the name still stands for the old one",
    "audit.replaced": "the name stands for the new one",
}
"""Every point there is, with what is true at it. A test reads the source to see that this is all of them."""

_armed: Callable[[str], None] | None = None


def point(name: str) -> None:
    if _armed is not None:
        _armed(name)


def arm(action: Callable[[str], None] | None) -> None:
    """Have `action` called with the name of each point that is passed, on the thread that passes it; None disarms."""
    global _armed
    _armed = action
