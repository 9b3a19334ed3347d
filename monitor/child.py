"""Helper processes: started before any DuckDB or torch thread, asked over a pipe, restarted with backoff when they die.

`python -m monitor.child FD FD NAME` is the other end: it builds what it was told to and answers one request at a time. NAME
is for whoever reads the list of processes.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import socket
import struct
import subprocess
import sys
import threading
import traceback
from multiprocessing.connection import Connection
from typing import Any

from monitor import log
from monitor.clock import Clock
from monitor.errors import ChildAway, ChildFailed
from monitor.metrics import Metrics

BACKOFF_SECONDS = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
HEALTHY_SECONDS = 60.0  # after this long a death counts as the first again
WATCH_SECONDS = 0.2


class Remote(Exception):
    """The helper lives, and what it was asked raised. The text is the remote traceback."""


class OutOfMemory(Remote):
    """What it was asked needs more memory than there is. It lives, and has let go of what it had of it."""


class Child:
    """One helper. `target` is "module:callable": called once with `setup` in the helper, it gives the function that answers
    requests. One thread at a time may `call`; others wait."""

    def __init__(self, name: str, target: str, setup: Any, *, nice: int, clock: Clock, metrics: Metrics) -> None:
        self.name = name
        self._spec = (name, target, setup, nice)
        self._clock = clock
        self._metrics = metrics
        self._asking = threading.Lock()
        self._changing = threading.RLock()
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._alive: socket.socket | None = None
        self._deaths = 0
        self._limited = 0.0
        self._started_at = 0.0
        metrics.child_restarts.labels(name).inc(0)
        self._start()
        self._watcher = threading.Thread(target=self._watch, name=f"watch-{name}", daemon=True)
        self._watcher.start()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def busy(self) -> bool:
        """Whether it is being asked."""
        return self._asking.locked()

    def call(self, request: Any, timeout_seconds: float) -> Any:
        """The helper's answer.

        Raises:
            ChildAway: it is being restarted, and has not seen the request.
            ChildFailed: it died, or did not answer in time and was killed.
            Remote: it answered that the request raised; `OutOfMemory`, for want of memory.
        """
        with self._asking:
            connection = self._connection
            if connection is None:
                raise ChildAway(f"{self.name}: being restarted")
            try:
                self._limit(connection, timeout_seconds)
                connection.send(request)
                ok, value = connection.recv()
            except (OSError, EOFError) as exc:
                # The watcher may be a moment late: whoever asks next must not be blamed for this death.
                self._connection = None
                connection.close()
                late = isinstance(exc, BlockingIOError)
                if late:
                    self._kill()
                what = f"no answer within {timeout_seconds} s" if late else "died while it was asked"
                raise ChildFailed(f"{self.name}: {what}") from exc
        if not ok:
            raise OutOfMemory(f"{self.name}: not enough memory") if value is None else Remote(value)
        return value

    def stop(self) -> None:
        self._stopping.set()
        self._kill()
        self._watcher.join()

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        alive, their_alive = socket.socketpair()
        with theirs, their_alive:
            fds = (theirs.fileno(), their_alive.fileno())
            command = [sys.executable, "-m", "monitor.child", *map(str, fds), self.name]
            self._process = subprocess.Popen(command, pass_fds=fds)
        self._alive = alive
        connection = Connection(ours.detach())
        with contextlib.suppress(OSError):  # dead already: the watcher will see
            connection.send(self._spec)
        self._connection = connection
        self._limited = 0.0
        self._started_at = self._clock.monotonic()
        self._metrics.child_up.labels(self.name).set(1)

    def _kill(self) -> None:
        with self._changing:
            if self._process is not None:
                self._process.kill()

    def _limit(self, connection: Connection, seconds: float) -> None:
        """On each step of sending and receiving, as one that was stopped does not even read what it is asked. By the kernel: a
        thread for each call would cost more than the call."""
        if seconds != self._limited:
            with socket.socket(fileno=os.dup(connection.fileno())) as end:
                limit = struct.pack("ll", int(seconds), int(seconds % 1 * 1_000_000))
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
                end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
            self._limited = seconds

    def _watch(self) -> None:
        while True:
            assert self._process is not None
            code = self._process.wait()
            self._metrics.child_up.labels(self.name).set(0)
            with self._asking, self._changing:
                # Whoever was asking has seen the pipe close by now, and whoever asks next must not use it.
                for end in (self._connection, self._alive):
                    if end is not None:
                        end.close()
                self._connection = self._alive = None
            if self._stopping.is_set():
                return
            if self._clock.monotonic() - self._started_at > HEALTHY_SECONDS:
                self._deaths = 0
            pause = BACKOFF_SECONDS[min(self._deaths, len(BACKOFF_SECONDS) - 1)]
            self._deaths += 1
            log.warning("helper process died; restarting it", child=self.name, exit_code=code, in_seconds=pause)
            if self._stopping.wait(pause):
                return
            self._metrics.child_restarts.labels(self.name).inc()
            with self._changing:
                self._start()


def serve(connection: Connection) -> None:
    """The helper's loop: ends when the owner goes."""
    _, target, setup, nice = connection.recv()
    os.nice(nice)
    module, _, attribute = target.partition(":")
    answer = getattr(importlib.import_module(module), attribute)(setup)
    while True:
        try:
            data = connection.recv_bytes()
        except EOFError:
            return
        try:
            connection.send((True, answer(pickle.loads(data))))  # nothing is sent of an answer that cannot be pickled
        except BrokenPipeError:
            return
        except MemoryError:
            connection.send((False, None))
        except (Exception, SystemExit):  # the owner decides what a failure means
            connection.send((False, traceback.format_exc()))


def _exit_with_owner(alive: socket.socket) -> None:
    # Nothing is ever sent here: reading returns when the owner is gone, kill -9 included.
    with contextlib.suppress(OSError):
        alive.recv(1)
    os._exit(0)


if __name__ == "__main__":
    import signal

    # Ctrl-C and a service manager's SIGTERM go to the whole group: the owner decides when we stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    log.configure()
    threading.Thread(target=_exit_with_owner, args=(socket.socket(fileno=int(sys.argv[2])),), daemon=True).start()
    with contextlib.suppress(BrokenPipeError):
        serve(Connection(int(sys.argv[1])))
