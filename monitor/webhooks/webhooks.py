"""The webhooks of the config: each has an outbox, which follows the incidents, and a thread that empties it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import httpx
import orjson

import monitor
from monitor import external, retryafter
from monitor.clock import Clock
from monitor.config import Config
from monitor.feed import Feed
from monitor.metrics import Metrics
from monitor.outbox import Courier, Later, Message, Outbox, Retrying
from monitor.slices import ALL
from monitor.store import Store
from monitor.webhooks import message
from monitor.webhooks.config import Webhook, key_of

SINK = "webhook:"
READ_BYTES = 64 * 1024  # of an answer, which nobody looks at
MOST_WAIT_SECONDS = 3600.0


class Sender:
    """Sends one message. Belongs to its courier's thread."""

    def __init__(self, webhook: Webhook, clock: Clock) -> None:
        """
        Raises:
            OSError, ssl.SSLError: the certificates cannot be read.
        """
        self._webhook = webhook
        self._clock = clock
        self._key = key_of(webhook.secret.get_secret_value())
        verify: Any = True
        if webhook.ca_file is not None:
            import ssl

            verify = ssl.create_default_context(cafile=webhook.ca_file)
        agent = {"User-Agent": f"modelwatch/{monitor.__version__}", "Content-Type": "application/cloudevents+json"}
        self._client = httpx.Client(
            headers=agent, verify=verify, timeout=webhook.timeout_seconds, trust_env=False, follow_redirects=False
        )

    def __call__(self, sent: Message) -> None:
        """
        Raises:
            Later: it was not answered with 2xx.
        """
        body = orjson.dumps(sent.payload)
        headers = message.headers(sent.key, self._clock.now(), body, self._key)
        until = self._clock.monotonic() + self._webhook.timeout_seconds
        try:
            with self._client.stream("POST", self._webhook.url, content=body, headers=headers) as response:
                status, told = response.status_code, response.headers.get("Retry-After")
                size = 0
                for piece in response.iter_raw():  # so that the connection can be used again
                    size += len(piece)
                    if size > READ_BYTES or self._clock.monotonic() > until:
                        break
        except httpx.TimeoutException as exc:
            raise Later("timeout", f"no answer within {self._webhook.timeout_seconds} s") from exc
        except httpx.ConnectError as exc:
            raise Later("tls" if "CERTIFICATE" in str(exc).upper() else "unreachable", str(exc)) from exc
        except httpx.HTTPError as exc:
            raise Later("broken", f"{type(exc).__name__}: {exc}") from exc
        if not 200 <= status < 300:
            reason = str(status) if status == 429 else f"{status // 100}xx"
            raise Later(reason, f"answered with {status}; only 2xx is taken", retryafter.seconds(told, self._clock.now()))

    def close(self) -> None:
        self._client.close()


class Webhooks:
    """All of them. `configure` may be called by any thread."""

    def __init__(self, store: Store, *, clock: Clock, metrics: Metrics) -> None:
        self._store = store
        self._clock = clock
        self._metrics = metrics
        self._changing = threading.Lock()
        self._running: dict[str, tuple[Webhook, str, Courier, Sender]] = {}
        self._begun = False

    def configure(self, config: Config) -> None:
        """Take a new config: before the first, and whenever it is another. What waits for a webhook that is gone stays.

        Raises:
            StoreError, duckdb.Error: the store is away.
            OSError: certificates cannot be read.
        """
        base = external.base(config)
        with self._changing:
            wanted = {one.name: one for one in config.webhooks}
            same = {
                name for name, (webhook, before, _, _) in self._running.items() if (wanted.get(name), base) == (webhook, before)
            }
            # First what may fail, so that the ones that run go on then.
            senders = {name: Sender(one, self._clock) for name, one in wanted.items() if name not in same}
            for name, (_, _, courier, sender) in list(self._running.items()):
                if name not in same:
                    del self._running[name]
                    self._end(courier, sender)
                if name not in wanted:
                    self._metrics.forget(sink=SINK + name)
            for name, sender in senders.items():
                courier = self._make(wanted[name], base, sender)
                self._running[name] = wanted[name], base, courier, sender
                if self._begun:
                    courier.start()

    def start(self) -> None:
        with self._changing:
            self._begun = True
            for _, _, courier, _ in self._running.values():
                courier.start()

    def stop(self) -> None:
        with self._changing:
            for _, _, courier, _ in self._running.values():
                courier.cease()
            for _, _, courier, sender in self._running.values():
                self._end(courier, sender)
            self._running.clear()

    def step(self) -> int:
        """For tests, in place of the threads."""
        return sum(courier.step() for _, _, courier, _ in self._running.values())

    def _make(self, webhook: Webhook, base: str, sender: Sender) -> Courier:
        box = Outbox(SINK + webhook.name, self._store, clock=self._clock, metrics=self._metrics)
        feed = Feed(box, ["incidents"], told_by(webhook, base, self._clock))
        feed.begin()
        retrying = Retrying(most_seconds=MOST_WAIT_SECONDS, give_up_seconds=webhook.give_up_seconds)
        return Courier(box, sender, fill=feed.step, retrying=retrying)

    @staticmethod
    def _end(courier: Courier, sender: Sender) -> None:
        courier.stop()
        sender.close()


def told_by(webhook: Webhook, base: str, clock: Clock) -> Callable[[str, Mapping[str, Any]], Iterable[Message]]:
    """Of rows of `incidents`, those that begin one that the webhook asks for."""

    def make(kind: str, row: Mapping[str, Any]) -> Iterable[Message]:
        if row["revision"] != 1 or (row["slice"] != ALL and not webhook.slices):
            return
        if (clock.now() - row["received_at"]).total_seconds() > webhook.give_up_seconds:
            return  # from while the config did not have it: nobody begins to retrain for last month's
        for given, value in ((webhook.models, "model"), (webhook.checks, "check_name"), (webhook.severity, "severity")):
            if given and row[value] not in given:
                return
        body = message.of_incident(row, base)
        yield Message(body["id"], body)

    return make
