"""What is stored of what was masked: which kinds in which record, in the transaction that stores the record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson

from monitor.transaction import Transaction

KINDS = frozenset({"generations", "contents", "predictions"})
"""Of the others nobody asks."""


def note(
    transaction: Transaction,
    kind: str,
    model: str,
    columns: Mapping[str, Sequence[Any]],
    index: Sequence[int],
    marks: Mapping[int, Mapping[str, int]],
    received_at: datetime,
) -> None:
    """Rows that are new, `index` the place of each in its batch, which is that in `marks`."""
    places = [place for place, at in enumerate(index) if at in marks]
    if not places:
        return
    transaction.append(
        "maskings",
        model,
        {
            **{name: [columns[name][place] for place in places] for name in ("record_id", "event_time", "trace_id")},
            "kind": kind,
            "masked": [orjson.dumps(marks[index[place]], option=orjson.OPT_SORT_KEYS).decode() for place in places],
            "received_at": received_at,
        },
    )
