"""A proxy that loses answers: what a client sends reaches the daemon, and then the connection is gone."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from monitor.demo.stack import HOST

PIECE = 65_536


class LossyProxy:
    """Forwards bytes both ways on `address`. Each answer is, with the chance `loses`, swallowed with its connection."""

    def __init__(self, target: str, seed: int, loses: float) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._chance, self._loses = random.Random(seed), loses
        self._listener = socket.create_server((HOST, 0), backlog=256)
        self._listener.settimeout(0.2)
        self.address = f"{HOST}:{self._listener.getsockname()[1]}"
        self._stopping = False
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self.lost = 0

    def _accept(self) -> None:
        while not self._stopping:
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        client.settimeout(None)
        try:
            server = socket.create_connection(self._target, timeout=30)
        except OSError:  # the daemon is down: as if there were no proxy
            client.close()
            return
        with client, server:
            threading.Thread(target=_forward, args=(client, server), daemon=True).start()
            try:
                while piece := server.recv(PIECE):
                    if self._chance.random() < self._loses:
                        self.lost += 1
                        return  # committed, and nobody is told
                    client.sendall(piece)
            except OSError:
                return
            finally:
                for end in (client, server):
                    _shut(end)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._listener.close()
        self._thread.join()


def _forward(source: socket.socket, target: socket.socket) -> None:
    try:
        while piece := source.recv(PIECE):
            target.sendall(piece)
    except OSError:
        pass
    _shut(target)


def _shut(end: socket.socket) -> None:
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:  # it is already
        pass


@contextmanager
def lossy(target: str, seed: int, loses: float) -> Iterator[LossyProxy]:
    proxy = LossyProxy(target, seed, loses)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()
