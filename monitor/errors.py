"""Every error this package raises on purpose. A class exists when some caller acts on it.

ModelwatchError
├── ConfigError        the file cannot be used; carries every problem at once
├── StoreError
│   ├── StoreLocked    another process owns the store; carries its pid where known
│   ├── StoreTooNew    the file was written by a later version
│   └── StoreUnavailable   nothing was stored for now; trying again later can help
├── InboxFull          the queue is at its limit; trying again soon will help
├── BodyRejected       a whole body cannot be taken; carries the HTTP status
├── ChildFailed        a helper process died or did not answer in time; it is being restarted
│   └── ChildAway      it had died before it was asked: no fault of what it would have worked on
└── Undone             raised inside a transaction by who wants nothing of it to stand: a dry run, or somebody was first
"""

from __future__ import annotations

from collections.abc import Sequence


class ModelwatchError(Exception):
    """Root of the tree above."""


class ConfigError(ModelwatchError):
    """The config cannot be used. `problems` are lines of the form `file: path.to.key: what is wrong (value); what to do`."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class StoreError(ModelwatchError):
    """The store cannot be used as asked."""


class StoreLocked(StoreError):
    """Another process owns the store."""

    def __init__(self, path: str, pid: int | None) -> None:
        holder = f"process {pid}" if pid else "another process"
        super().__init__(f"{path}: in use by {holder}; stop it, or point store.path somewhere else")
        self.pid = pid


class StoreTooNew(StoreError):
    """The store was written by a later version of modelwatch."""


class StoreUnavailable(StoreError):
    """Nothing was stored for now: low disk, or the store is being reopened. Trying again can help."""


class InboxFull(ModelwatchError):
    """The queue before the store is at its limit. Nothing of this batch was taken; send it again soon."""

    retry_after_seconds = 1


class BodyRejected(ModelwatchError):
    """A whole request body cannot be taken. Sending the same bytes again cannot help."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class ChildFailed(ModelwatchError):
    """A helper process died, or did not answer in time. What it was working on must be sent again."""


class ChildAway(ChildFailed):
    """A helper process is being restarted and was not asked. Whoever can wait should."""


class Undone(ModelwatchError):
    """Raised by a job of the store that is not to stand. It is rolled back, and that is no failure."""
