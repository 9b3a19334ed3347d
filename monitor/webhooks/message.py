"""What a webhook says, and how it is signed: a CloudEvent in JSON, with the headers of Standard Webhooks.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md: `webhook-signature` is `v1,` and the
base64 of HMAC-SHA256 over `{webhook-id}.{webhook-timestamp}.{body}`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import orjson

from monitor import external

TYPE = "modelwatch.incident.opened"


def of_incident(row: Mapping[str, Any], base: str) -> dict[str, Any]:
    """The body, of a row of `incidents`; what it links to begins with `base`. Small: the records come by `export-dataset`."""
    evidence = orjson.loads(row["evidence"])
    incident_id = row["incident_id"]
    return {
        "specversion": "1.0",
        "id": f"{incident_id}-opened",
        "source": base,
        "type": TYPE,
        "subject": incident_id,
        "time": row["received_at"].isoformat(),
        "datacontenttype": "application/json",
        "data": {
            "incident_id": incident_id,
            "model": row["model"],
            "check": row["check_name"],
            "slice": row["slice"],
            "severity": row["severity"],
            "owner": row.get("owner"),
            "state": row["state"],
            "in_maintenance": row.get("in_maintenance"),
            "opened": row["opened_slot"].isoformat(),
            "statistic": evidence.get("statistic"),
            "value": evidence.get("value"),
            "threshold": evidence.get("threshold"),
            "records": evidence.get("n_current"),
            "window": evidence.get("window"),
            "sql": evidence.get("sql"),
            "url": base + external.incident_path(incident_id),
            "export": f"modelwatch export-dataset {incident_id}",
        },
    }


def headers(message_id: str, at: datetime, body: bytes, key: bytes) -> dict[str, str]:
    """
    >>> from datetime import UTC
    >>> at = datetime.fromtimestamp(1614265330, UTC)
    >>> key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    >>> headers("msg_p5jXN8AQM9LWM0D4loKWxJek", at, b'{"test": 2432232314}', key)["webhook-signature"]
    'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE='
    """
    timestamp = str(int(at.timestamp()))
    signed = b".".join((message_id.encode(), timestamp.encode(), body))
    signature = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return {"webhook-id": message_id, "webhook-timestamp": timestamp, "webhook-signature": f"v1,{signature}"}
