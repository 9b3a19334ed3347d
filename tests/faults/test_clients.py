"""Clients as they are: too many, too slow, too large, gone before the answer; and a daemon that stops under their hands."""

from __future__ import annotations

import gzip
import http.client
import itertools
import json
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from monitor.demo.stop import Stop
from tests.faults import traffic
from tests.faults.daemon import Daemon, daemon_on
from tests.faults.proxy import lossy
from tests.faults.stored import assert_stored_once, count, ids, rows
from tests.faults.traffic import mixed, prediction, pumps

pytestmark = pytest.mark.faults

MIB = 2**20


def post(address: str, path: str, body: bytes, **headers: str) -> tuple[int, dict[str, str]]:
    connection = http.client.HTTPConnection(address, timeout=60)
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json", **headers})
        response = connection.getresponse()
        response.read()
        return response.status, dict(response.getheaders())
    finally:
        connection.close()


class Memory:
    """The most that the owner process ever held while `with` lasted, over what it held before."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._before = self._peak = daemon.resident()
        self._done = threading.Event()

    def __enter__(self) -> Memory:
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(0.01):
            self._peak = max(self._peak, self._daemon.resident())

    @property
    def growth(self) -> int:
        return self._peak - self._before


def test_answers_that_are_lost_lead_to_nothing_twice(tmp_path: Path) -> None:
    stop = Stop()
    with daemon_on(tmp_path, stop) as daemon:
        daemon.run()
        with (
            lossy(daemon.push, seed=3, loses=0.4) as proxy,
            pumps(proxy.address, [mixed(1, each=5), mixed(2, first=10**6, each=5)], stop) as clients,
        ):
            stop.wait_for("lost answers", lambda: proxy.lost >= 20, 60)
            for client in clients:
                client.finish()
            sent = traffic.acknowledged(clients)
            assert sum(client.answers["duplicates"] for client in clients) > 0
        daemon.stop()
        assert ids(daemon.store) == sent
        assert_stored_once(daemon.store)


def test_sigterm_under_load_refuses_what_is_new_and_keeps_all_it_acknowledged(tmp_path: Path) -> None:
    stop, answers, gone = Stop(), Counter[tuple[int, str | None]](), threading.Event()
    with daemon_on(tmp_path, stop) as daemon:
        daemon.run()

        def hammer(first: int) -> set[str]:
            """One connection kept open, as exporters do; ends when the daemon is gone."""
            stored, connection = set[str](), http.client.HTTPConnection(daemon.push, timeout=30)
            for start in itertools.count(first, 50):
                body = json.dumps([prediction(i) for i in range(start, start + 50)]).encode()
                try:
                    connection.request("POST", "/v1/predictions?model=houses", body, {"Content-Type": "application/json"})
                    response = connection.getresponse()
                    response.read()
                except (OSError, http.client.HTTPException):
                    if not daemon.process.running or gone.is_set():
                        return stored
                    connection.close()
                    continue
                answers[response.status, response.getheader("Retry-After")] += 1
                if response.status == 200:
                    stored |= {f"p{i}" for i in range(start, start + 50)}
            raise AssertionError

        with ThreadPoolExecutor(8) as pool:
            hammers = [pool.submit(hammer, n * 10**7) for n in range(8)]
            stop.wait_for("a busy daemon", lambda: answers[200, None] > 40, 60)
            began = time.monotonic()
            daemon.stop()
            took = time.monotonic() - began
            gone.set()
            acknowledged = set[str]().union(*(h.result(30) for h in hammers))
        assert took < 20, "the deadline of the command line"
        assert set(answers) <= {(200, None), (503, "1"), (503, "2")}, answers
        assert acknowledged <= ids(daemon.store)["predictions"]
        assert_stored_once(daemon.store)


@pytest.mark.slow
def test_five_hundred_clients_at_once_are_all_served_and_memory_stays(tmp_path: Path) -> None:
    stop, clients, answers = Stop(), 500, Counter[int]()
    with daemon_on(tmp_path, stop) as daemon:
        daemon.run()
        everybody = threading.Barrier(clients)

        def client(n: int) -> None:
            body = json.dumps([prediction(n * 100 + i, "x" * 1000) for i in range(20)]).encode()
            everybody.wait(60)
            while True:
                try:
                    status, headers = post(daemon.push, "/v1/predictions?model=houses", body)
                except (OSError, http.client.HTTPException):
                    status, headers = 0, {}
                answers[status] += 1
                if status == 200:
                    return
                assert status == 0 or (status in (429, 503) and int(headers["retry-after"]) in (1, 2)), (status, headers)
                stop.wait(0.1)

        with Memory(daemon) as memory, ThreadPoolExecutor(clients) as pool:
            for future in [pool.submit(client, n) for n in range(clients)]:
                future.result(120)
        daemon.stop()
        print("answers:", dict(answers), "growth:", memory.growth // MIB, "MiB")
        assert count(daemon.store, "predictions") == clients * 20
        assert_stored_once(daemon.store)
        assert memory.growth < 300 * MIB


def test_clients_that_never_finish_are_dropped_and_hold_up_nobody(tmp_path: Path) -> None:
    stop = Stop()
    with daemon_on(tmp_path, stop, server={"read_timeout_seconds": "2s"}) as daemon:
        daemon.run()
        host, _, port = daemon.push.rpartition(":")
        begun = (
            b"POST /v1/predictions HTTP/1.1\r\nHost: x\r\nX-Slow: ",  # never a whole head
            b"POST /v1/predictions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n[",
        )
        slow = [socket.create_connection((host, int(port)), timeout=30) for _ in range(200)]
        for n, one in enumerate(slow):
            one.sendall(begun[n % 2])
        body = json.dumps([prediction(1)]).encode()
        began = time.monotonic()
        assert post(daemon.push, "/v1/predictions?model=houses", body)[0] == 200
        assert time.monotonic() - began < 5, "behind two hundred that do nothing"
        for one in slow:
            assert dropped(one), "still open after the time to read"
            one.close()
        daemon.stop()
        assert rows(daemon.store, "SELECT record_id FROM predictions") == [("p1",)]
        assert count(daemon.store, "deadletters") == 0


def dropped(one: socket.socket) -> bool:
    """Answered or not, the connection ends within the socket's own time."""
    try:
        while one.recv(4096):
            pass
    except ConnectionError:
        pass
    except TimeoutError:
        return False
    return True


def test_a_body_that_swells_is_cut_off_before_it_fills_the_memory(tmp_path: Path) -> None:
    stop = Stop()
    bomb = gzip.compress(bytes(200 * MIB))
    assert len(bomb) < 250_000
    headers = {"Content-Type": "application/x-protobuf", "Content-Encoding": "gzip"}
    with daemon_on(tmp_path, stop) as daemon:
        daemon.run()
        with Memory(daemon) as memory, ThreadPoolExecutor(30) as pool:
            statuses = Counter(pool.map(lambda _: post(daemon.otlp, "/v1/traces", bomb, **headers)[0], range(60)))
        print("answers:", dict(statuses), "growth:", memory.growth // MIB, "MiB")
        assert set(statuses) <= {413, 429, 503}
        assert statuses[413] > 0
        assert memory.growth < 300 * MIB, "sixty times 200 MiB were sent"
        assert post(daemon.push, "/v1/predictions?model=houses", json.dumps([prediction(1)]).encode())[0] == 200
        daemon.stop()


@pytest.mark.slow
def test_a_clock_that_is_set_forward_and_back_by_an_hour_loses_nothing(tmp_path: Path) -> None:
    stop = Stop()
    clock = tmp_path / "clock"
    clock.write_text("0")
    with daemon_on(tmp_path, stop) as daemon:
        daemon.run(f"clock:{clock}")
        with pumps(daemon.push, [mixed(1, each=5)], stop) as clients:
            for seconds in ("3600", "-3600", "0"):
                seen = clients[0].batches
                stop.wait_for("some records", lambda s=seen: clients[0].batches > s + 20, 60)  # type: ignore[misc]
                seals = daemon.sample("modelwatch_seal_segments_total", kind="predictions") or 0
                clock.write_text(seconds)
                stop.wait_for(
                    "sealing to go on",
                    lambda n=seals: (daemon.sample("modelwatch_seal_segments_total", kind="predictions") or 0) > n,  # type: ignore[misc]
                    60,
                )
            clients[0].finish()
            daemon.stop()
            assert ids(daemon.store) == traffic.acknowledged(clients)
            assert_stored_once(daemon.store)
