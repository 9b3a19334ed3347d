"""A daemon under fire: traffic from clients that send again, kills at moments a seed chooses, a restart after each."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from monitor.demo.data import Batch
from monitor.demo.replay import Client
from monitor.demo.stack import HOST, Ports, Process, daemon, ready
from monitor.demo.stop import Stop, Stopped

LOOK_SECONDS = 0.02
FIND_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Kill:
    """When so much is done, and so many seconds after that."""

    progress: float
    seconds: float
    victim: str


def kills(count: int, victims: Sequence[str], seed: int, *, up_to_seconds: float = 0.5) -> list[Kill]:
    """At random moments; each victim as often as the others."""
    chance = random.Random(seed)
    moments = sorted(chance.random() for _ in range(count))
    order = [victims[i % len(victims)] for i in range(count)]
    chance.shuffle(order)
    return [Kill(moment, chance.uniform(0, up_to_seconds), victim) for moment, victim in zip(moments, order, strict=True)]


class Sender:
    """Sends one stream, each batch until it is acknowledged; with `pace`, never further along than that one."""

    def __init__(self, address: str, batches: Sequence[Batch], stop: Stop, pace: Sender | None = None) -> None:
        self._batches, self._pace, self._stop = batches, pace, stop
        self.client = Client(address, stop)
        self.progress = 0.0
        self.rejected = 0
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            for number, batch in enumerate(self._batches, 1):
                while self._pace is not None and self._pace.progress < number / len(self._batches):
                    self._stop.wait(LOOK_SECONDS)
                self.rejected += self.client.post(batch)["rejected"]
                self.progress = number / len(self._batches)
        except Stopped:
            pass
        finally:
            self.client.close()


@contextmanager
def under_fire(
    config: Path,
    ports: Ports,
    streams: Sequence[Sequence[Batch]],
    kills: Sequence[Kill],
    progress: Callable[[], float] | None = None,
) -> Iterator[None]:
    """All of the traffic is acknowledged and all kills are done when the block begins; the daemon runs until it ends.

    `progress`: what the kills go by; default: how much of the first stream is acknowledged, which the others keep pace with.
    """
    stop = Stop()
    process = daemon(config)
    push = f"{HOST}:{ports.push}"
    senders = [first := Sender(push, streams[0], stop), *(Sender(push, batches, stop, pace=first) for batches in streams[1:])]
    try:
        process.start()
        ready(process, f"{HOST}:{ports.metrics}", stop)
        for sender in senders:
            sender.thread.start()
        for kill in kills:
            while (progress() if progress else first.progress) < kill.progress:
                process.check()
                stop.wait(LOOK_SECONDS)
            stop.wait(kill.seconds)
            strike(process, kill.victim, stop)
        for sender in senders:
            while sender.thread.is_alive():
                process.check()
                sender.thread.join(LOOK_SECONDS)
        assert [s.progress for s in senders] == [1.0] * len(senders), "a client gave up"
        assert not any(s.rejected for s in senders)
        ready(process, f"{HOST}:{ports.metrics}", stop)  # the last kill may have been the owner's
        yield
        code = process.stop()
        assert code == 0, f"the daemon ended with {code}: {process.log.read_text()[-2000:]}"
    finally:
        stop.set()
        process.stop()
        for sender in senders:
            if sender.thread.ident is not None:
                sender.thread.join()


def strike(process: Process, victim: str, stop: Stop) -> None:
    """kill -9. The owner is started again, as a service manager would; it starts its helpers again itself."""
    if victim == "owner":
        process.kill()
        process.start()
    else:
        # After another kill it may take a moment until there is one.
        stop.wait_for(f"a {victim} to kill", lambda: helper(process.pid, victim), FIND_SECONDS).kill()


def helper(owner: int, name: str) -> psutil.Process | None:
    try:
        return next((child for child in psutil.Process(owner).children() if child.cmdline()[-1:] == [name]), None)
    except psutil.Error:  # gone while we looked
        return None
