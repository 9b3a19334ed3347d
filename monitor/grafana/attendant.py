"""The daemon's part in Grafana: one thread keeps things in step, another one sends annotations. Neither is waited for."""

from __future__ import annotations

from monitor.clock import Clock
from monitor.config import Config
from monitor.grafana import wanted
from monitor.grafana.annotations import SINK, Filling, sender
from monitor.grafana.client import Grafana
from monitor.grafana.keeper import Keeper
from monitor.metrics import Metrics
from monitor.outbox import Courier, Outbox
from monitor.store import Store


class Attendant:
    """Made before anything that writes is started: a Grafana that is new to the store hears of nothing older but what is open."""

    def __init__(self, config: Config, store: Store, *, clock: Clock, metrics: Metrics) -> None:
        """
        Raises:
            StoreError, duckdb.Error: the store is away.
        """
        assert config.grafana is not None
        one = config.grafana
        self._stopping = False
        self._clients = [Grafana(one, clock)]
        self.keeper: Keeper | None = None
        if one.sync:
            self.keeper = Keeper(self._clients[0], lambda: wanted.of(config), every=one.every, clock=clock, metrics=metrics)
        self.courier: Courier | None = None
        if one.annotations:
            self._clients.append(Grafana(one, clock))
            box = Outbox(SINK, store, clock=clock, metrics=metrics)
            filling = Filling(box, config)
            filling.feed.begin()
            send = sender(self._clients[1], lambda: self._stopping)
            self.courier = Courier(box, send, fill=filling.step)

    def start(self) -> None:
        if self.keeper is not None:
            self.keeper.start()
        if self.courier is not None:
            self.courier.start()

    def stop(self) -> None:
        self._stopping = True
        if self.courier is not None:
            self.courier.stop()
        if self.keeper is not None:
            self.keeper.stop()
        for client in self._clients:
            client.close()
