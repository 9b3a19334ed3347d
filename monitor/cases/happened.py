"""What changed before something broke: deployments, first sights in the traffic, another config, deployments in a freeze."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from monitor.reader import Reader

LOOKBACK = timedelta(days=7)
MOST = 20


def before(reader: Reader, model: str, until: datetime) -> list[dict[str, Any]]:
    """Change events of a model in the week that ends at `until`, itself included, the latest first; at most 20."""
    since = until - LOOKBACK
    found = []
    source = reader.source("changes", model, since=since)
    for row in reader.query(
        f"SELECT event_time, what, value, previous, record_id FROM {source} WHERE event_time >= ? AND event_time <= ? "
        f"ORDER BY event_time DESC, seq DESC LIMIT {MOST}",
        [since, until],
    ):
        at = row.pop("event_time")
        found.append((at, {"at": at.isoformat(), **{k: v for k, v in row.items() if v is not None}}))
    source = reader.source("deployments", model, since=since)
    for row in reader.query(
        f"SELECT event_time, event, version, alias, origin, approver, code_commit, record_id FROM {source} "
        f"WHERE event_time >= ? AND event_time <= ? ORDER BY event_time DESC, seq DESC LIMIT {MOST}",
        [since, until],
    ):
        at = row.pop("event_time")
        known = {k: v for k, v in row.items() if v is not None and k not in ("event", "version")}
        found.append((at, {"at": at.isoformat(), "what": row["event"] or "deployed", "value": row["version"], **known}))
    found.sort(key=lambda one: (one[0], one[1]["what"]), reverse=True)
    return [event for _, event in found[:MOST]]
