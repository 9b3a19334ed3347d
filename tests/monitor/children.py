"""What tests run inside helper processes, named as "tests.monitor.children:NAME"."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any


def clerk(setup: Any) -> Callable[[Any], Any]:
    """Does as it is told."""

    def answer(request: Any) -> Any:
        match request:
            case "die":
                os._exit(3)
            case "hang":
                time.sleep(600)
            case "raise":
                raise LookupError("nothing of that name")
            case "lambda":
                return threading.Lock()  # which cannot be sent
            case "setup":
                return setup
            case "who":
                return os.getpid(), os.nice(0)
        return request

    return answer


def stillborn(setup: Any) -> Callable[[Any], Any]:
    os._exit(4)
