"""The promises over half an hour: mixed traffic, faults injected throughout, then everything acknowledged is looked for.

`python -m tests.faults.soak [--minutes N] [--seed N] [--write]`. The seed decides what is sent and which fault comes when;
how far the daemon is at that moment is up to the machine. The last fifth of the time is without faults that end the owner
process, so that the growth of its memory can be seen. Exit code 1 when anything was lost, doubled or ended badly.
"""

from __future__ import annotations

import argparse
import random
import resource
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from monitor import faultpoints
from monitor.demo.stop import Late, Stop
from tests.bench.__main__ import RESULTS
from tests.bench.harness import Row
from tests.bench.machine import describe
from tests.bench.results import replaced, section, table
from tests.faults import stored, traffic
from tests.faults.daemon import BARE, Daemon, daemon_on
from tests.faults.proxy import lossy
from tests.faults.spans import SpanPump
from tests.faults.supervisor import helper
from tests.faults.traffic import Pump, mixed

MIB = 2**20
PACE_SECONDS = 0.05
BETWEEN_SECONDS = (2.0, 12.0)  # from one fault to the next
FULL_SECONDS = (1.0, 6.0)
CALM_SHARE = 0.2
TELL_SECONDS = 10.0
SETTLED_SECONDS = 300.0
SLOW_CLIENTS = 50

HARMLESS = ("slow clients", "kill worker", "kill scorer", "kill intake")
"""Faults that the owner process outlives, and that leave its memory as it is."""
WEIGHTS = {
    "kill owner": 4, "point": 6, "stop and start": 2, "full disk": 3, "clock": 2, "kill scorer": 2, "kill worker": 1,
    "kill intake": 3, "slow clients": 2,
}  # fmt: skip
POINTS = sorted(p for p in faultpoints.POINTS if not p.startswith(("compact.", "quarantine.", "outbox.", "rule.")))

CONFIG = {
    "store": {"tail_seconds": "2s", "seal_seconds": "5s", "seal_rows": 2_000, "min_free_bytes": 0, "checkpoint_bytes": 4 * MIB,
              "compact_after_seconds": 1},
    "server": {"read_timeout_seconds": "5s"},
    "scoring": {"settle_seconds": 1},
    "checks": [
        {**BARE, "every": "1d"},
        {"name": "mean", "model": "houses", "detector": "tests.plugins:IsolatedMean", "every": "1d", "threshold": {"upper": 1e9}},
    ],
}  # fmt: skip


@dataclass
class Tally:
    faults: Counter[str] = field(default_factory=Counter)
    starts: int = 0
    wrong: list[str] = field(default_factory=list)
    resident: list[tuple[float, int]] = field(default_factory=list)  # of the calm stretch: seconds and bytes


class Soak:
    """The daemon and whatever goes wrong with it. One thread."""

    def __init__(self, daemon: Daemon, clock: Path, seed: int, stop: Stop) -> None:
        self.daemon, self._clock, self._stop = daemon, clock, stop
        self._chance = random.Random(seed)
        self.tally = Tally()
        self._dies = False  # at a point, as it was told to
        self._slow: list[socket.socket] = []
        self._faults: dict[str, Callable[[], None]] = {
            "kill owner": self._kill_owner,
            "point": self._die_at_a_point,
            "stop and start": self._stop_and_start,
            "full disk": self._fill_the_disk,
            "clock": self._turn_the_clock,
            "kill scorer": lambda: self._kill_helper("scorer"),
            "kill worker": lambda: self._kill_helper("worker"),
            "kill intake": lambda: self._kill_helper("intake-1"),
            "slow clients": self._be_slow,
        }

    def start(self, *arms: str) -> None:
        self.tally.starts += 1
        self.daemon.start(f"clock:{self._clock}", *arms)
        self._dies = bool(arms)

    def begin_calm(self) -> None:
        """From now on the owner process runs on."""
        if self._dies:
            self._kill_owner()
        self._clock.write_text("0")
        self.daemon.ready()

    def fault(self, calm: bool) -> str:
        name = self._chance.choice(HARMLESS) if calm else self._chance.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        self._faults[name]()
        self.tally.faults[name] += 1
        return name

    def look(self) -> None:
        """Start it again where it has ended, and complain where nobody wanted that."""
        if self.daemon.process.running:
            return
        code = self.daemon.process.stop()
        if not (self._dies and code == -9):
            self.tally.wrong.append(f"the daemon ended by itself with {code}")
        self.start()

    # --- the faults ---

    def _kill_owner(self) -> None:
        if self.daemon.process.running:
            self.daemon.process.kill()
        self.start()

    def _die_at_a_point(self) -> None:
        """Now, and then once more at a named point, whenever it gets there."""
        if self.daemon.process.running:
            self.daemon.process.kill()
        self.start(f"point:{self._chance.choice(POINTS)}:{self._chance.randint(1, 6)}")

    def _stop_and_start(self) -> None:
        code = self.daemon.process.stop()
        if code not in (0, -15, -9 if self._dies else 0):  # -15: it had no time yet to listen
            self.tally.wrong.append(f"after SIGTERM it ended with {code}")
        self.start()

    def _fill_the_disk(self) -> None:
        """No file may grow by more than a little, for a while: in the log, in a checkpoint or while sealing, whatever is next."""
        if not self.daemon.process.running:
            return
        sizes = [p.stat().st_size for p in self.daemon.store.glob("hot.duckdb*") if p.is_file()]
        room = self._chance.choice((0, 16_384, 262_144))
        limit = self._chance.choice((0, max(sizes, default=0))) + room
        try:
            hard = resource.prlimit(self.daemon.pid, resource.RLIMIT_FSIZE)[1]
            resource.prlimit(self.daemon.pid, resource.RLIMIT_FSIZE, (limit, hard))
            self._stop.wait(self._chance.uniform(*FULL_SECONDS))
            resource.prlimit(self.daemon.pid, resource.RLIMIT_FSIZE, (hard, hard))
        except ProcessLookupError:  # it died at its point meanwhile
            pass

    def _turn_the_clock(self) -> None:
        self._clock.write_text(self._chance.choice(("3600", "-3600", "0", "120", "-120")))

    def _kill_helper(self, name: str) -> None:
        if self.daemon.process.running and (found := helper(self.daemon.pid, name)) is not None:
            found.kill()

    def _be_slow(self) -> None:
        for one in self._slow:
            one.close()
        self._slow.clear()
        host, _, port = self.daemon.push.rpartition(":")
        try:
            for _ in range(SLOW_CLIENTS):
                one = socket.create_connection((host, int(port)), timeout=5)
                self._slow.append(one)
                one.sendall(b"POST /v1/predictions HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n[")
        except OSError:  # it is down just now
            pass

    def close(self) -> None:
        for one in self._slow:
            one.close()


def run(folder: Path, minutes: float, seed: int) -> tuple[list[Row], list[str]]:
    """Figures, and what was wrong."""
    stop, chance, clock = Stop(), random.Random(seed), folder / "clock"
    clock.write_text("0")
    with ExitStack() as stack:
        daemon = stack.enter_context(daemon_on(folder / "daemon", stop, **CONFIG))
        proxy = stack.enter_context(lossy(daemon.push, seed, loses=0.05))
        soak = Soak(daemon, clock, seed, stop)
        stack.callback(soak.close)
        pumps = [
            Pump(proxy.address if n == 0 else daemon.push, mixed(seed + n, first=n * 2 * 10**6), stop, PACE_SECONDS)
            for n in range(3)
        ]
        exporters = [SpanPump(daemon.otlp, seed, 1, stop, PACE_SECONDS)]
        stack.callback(stop.set)
        soak.start()
        daemon.ready()
        began = time.monotonic()
        for sender in everybody(pumps, exporters):
            sender.start()
        _shoot(soak, pumps, exporters, chance, began, minutes * 60, stop)
        for sender in everybody(pumps, exporters):
            sender.finish()
        lasted = time.monotonic() - began
        wrong = soak.tally.wrong
        try:
            traces = sum(exporter.traces() for exporter in exporters)
            stop.wait_for("all calls and scores", lambda: not stored.unsettled(daemon.store, traces), SETTLED_SECONDS)
        except Late as exc:
            wrong.append(str(exc))
        quarantined = daemon.sample("modelwatch_store_quarantined_segments")
        if quarantined:
            wrong.append(f"{quarantined:g} segments in quarantine")
        ended = daemon.process.stop()
        if ended != 0:
            wrong.append(f"at the end it stopped with {ended}")
        rows = _figures(soak, pumps, exporters, proxy.lost, lasted)
        wrong += compared(daemon.store, pumps, exporters)
    return rows, wrong


def everybody(pumps: Sequence[Pump], exporters: Sequence[SpanPump]) -> list[Pump | SpanPump]:
    return [*pumps, *exporters]


def _shoot(
    soak: Soak,
    pumps: Sequence[Pump],
    exporters: Sequence[SpanPump],
    chance: random.Random,
    began: float,
    seconds: float,
    stop: Stop,
) -> None:
    calm, next_fault, next_word = False, 5.0, TELL_SECONDS
    last = "none yet"
    while (at := time.monotonic() - began) < seconds:
        soak.look()
        for sender in everybody(pumps, exporters):
            if sender.failure is not None:
                raise sender.failure
        if not calm and at > seconds * (1 - CALM_SHARE):
            calm = True
            soak.begin_calm()
            next_fault = time.monotonic() - began + 5
        if at > next_fault:
            last = soak.fault(calm)
            next_fault = time.monotonic() - began + chance.uniform(*BETWEEN_SECONDS)
        if at > next_word:
            next_word = at + TELL_SECONDS
            if soak.daemon.process.running:
                held = soak.daemon.resident()
                if calm:
                    soak.tally.resident.append((at, held))
            sent = sum(sum(map(len, p.acknowledged.values())) for p in pumps)
            spans = 2 * sum(n for e in exporters for _, n in e.acknowledged)
            print(
                f"{at:6.0f} s of {seconds:.0f}: {sent} records and {spans} spans acknowledged, "
                f"{soak.tally.faults.total()} faults "
                f"(last: {last}), {soak.tally.starts} starts, {held // MIB} MiB{', calm' if calm else ''}",
                file=sys.stderr, flush=True,
            )  # fmt: skip
        stop.wait(0.1)
    soak.look()


def compared(store: Path, pumps: Sequence[Pump], exporters: Sequence[SpanPump]) -> list[str]:
    """What of all that was acknowledged is not there, there twice, or there although nobody sent it."""
    wrong = []
    sent, found = traffic.acknowledged(pumps), stored.ids(store)
    sent["spans"] = {record for exporter in exporters for record in exporter.records()}
    found["spans"] = {row[0] for row in stored.rows(store, "SELECT record_id FROM spans")}
    found["generations"] -= {record for record in found["spans"] if record in found["generations"]}
    for kind, wanted in sent.items():
        if lost := wanted - found[kind]:
            wrong.append(f"{len(lost)} of {len(wanted)} {kind} are lost, such as {sorted(lost)[:3]}")
        if unknown := found[kind] - wanted:
            wrong.append(f"{len(unknown)} {kind} are there that nobody was told of, such as {sorted(unknown)[:3]}")
    for check in (stored.assert_stored_once, stored.assert_scored_once):
        try:
            check(store)
        except AssertionError as exc:
            wrong.append(str(exc))
    wrong += stored.unsettled(store, sum(exporter.traces() for exporter in exporters))[:5]
    if letters := stored.rows(store, "SELECT reason, count(*) FROM deadletters GROUP BY reason"):
        wrong.append(f"dead letters: {letters}")
    return wrong


def _figures(soak: Soak, pumps: Sequence[Pump], exporters: Sequence[SpanPump], lost: int, lasted: float) -> list[Row]:
    tally, store = soak.tally, soak.daemon.store
    sent = {kind: len(names) for kind, names in traffic.acknowledged(pumps).items()}
    sent["spans"] = sum(1 for exporter in exporters for _ in exporter.records())
    rows = [Row("lasted", lasted / 60, "min")]
    rows += [Row(f"{kind} acknowledged", number, "") for kind, number in sent.items()]
    again = sum(p.client.resent for p in pumps) + sum(e.resent for e in exporters)
    known = sum(p.answers["duplicates"] for p in pumps)
    rows.append(
        Row("requests sent again", again, "", f"{lost} answers swallowed by the proxy; {known} records answered as known")
    )
    rows.append(Row("faults", tally.faults.total(), "", ", ".join(f"{n} {name}" for name, n in tally.faults.most_common())))
    rows.append(Row("starts of the owner", tally.starts, ""))
    if tally.resident:
        # What it takes once, caches and pools, it takes in the first third.
        (first_at, first), (last_at, last) = tally.resident[len(tally.resident) // 3], tally.resident[-1]
        note = f"over the last {(last_at - first_at) / 60:.1f} minutes, without a restart"
        rows.append(Row("memory of the owner, calm", first / MIB, "MiB"))
        rows.append(Row("- growth", (last - first) / MIB, "MiB", note))
    files = [p for p in store.rglob("*") if p.is_file()]
    rows.append(Row("store", sum(p.stat().st_size for p in files) / MIB, "MiB", f"{len(files)} files"))
    return rows


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="kept, with the store and the daemon's log; default: a temporary one")
    parser.add_argument("--write", action="store_true", help=f"put the report into {RESULTS.name}")
    asked = parser.parse_args(argv)
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    machine = describe(folder)
    print(f"soak: {asked.minutes:g} minutes, seed {asked.seed}, in {folder}", file=sys.stderr, flush=True)
    rows, wrong = run(folder, asked.minutes, asked.seed)
    rows.append(Row("lost, doubled or ended badly", len(wrong), "", "; ".join(wrong)[:2000]))
    print(table(rows))
    if asked.write:
        text = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else ""
        title = "Mixed traffic with faults throughout; then everything acknowledged is looked for in the store."
        command = f"python -m tests.faults.soak --minutes {asked.minutes:g} --seed {asked.seed}"
        new = section("soak", title, rows, command=command, machine=machine, circumstances=f"{datetime.now(UTC):%Y-%m-%d}")
        RESULTS.write_text(replaced(text, "soak", new), encoding="utf-8")
    print("\n".join(wrong) if wrong else "nothing acknowledged was lost, nothing is there twice")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
