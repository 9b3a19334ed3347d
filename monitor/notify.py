"""Tells the service manager how far the daemon is: sd_notify(3), for `Type=notify` of systemd. Without one nothing happens."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

READY = "READY=1"
STOPPING = "STOPPING=1"


def reloading() -> str:
    """What is said before a config is read again; `READY` follows."""
    return f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}"


def notify(state: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Say it. False where nobody listens, or nobody does any more: a daemon does not die of that."""
    address = environment.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        try:
            sender.connect("\0" + address[1:] if address.startswith("@") else address)
            sender.sendall(state.encode())
        except OSError:
            return False
    return True
