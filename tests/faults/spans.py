"""An exporter without end: model calls as OTLP spans, each export sent until it is acknowledged."""

from __future__ import annotations

import http.client
import itertools
import random
import threading
from collections import Counter
from collections.abc import Iterator

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from monitor.demo.stop import Stop, Stopped

START_NS = 1_772_409_600 * 10**9  # 2 March 2026
AGAIN_SECONDS = 0.2
MODEL = "bot"


def export(first: int, traces: int) -> ExportTraceServiceRequest:
    """Traces of two spans each, an agent and the model call within it."""
    request = ExportTraceServiceRequest()
    spans = request.resource_spans.add()
    spans.resource.attributes.append(_text("service.name", MODEL))
    scope = spans.scope_spans.add()
    for n in range(first, first + traces):
        agent = _span(n, 1, "invoke_agent", {"gen_ai.operation.name": "invoke_agent"})
        call = _span(n, 2, "chat small", {"gen_ai.operation.name": "chat", "gen_ai.request.model": "small"})
        call.parent_span_id = agent.span_id
        scope.spans.extend((call, agent))
    return request


def _span(trace: int, number: int, name: str, attributes: dict[str, str]) -> Span:
    return Span(
        trace_id=trace.to_bytes(16, "big"),
        span_id=(trace * 4 + number).to_bytes(8, "big"),
        name=name,
        start_time_unix_nano=START_NS + trace * 10**9,
        end_time_unix_nano=START_NS + trace * 10**9 + 5 * 10**8,
        attributes=[_text(key, value) for key, value in attributes.items()],
    )


def _text(key: str, value: str) -> KeyValue:
    return KeyValue(key=key, value=AnyValue(string_value=value))


class SpanPump:
    """One exporter on a thread of its own, `pace_seconds` between its exports."""

    def __init__(self, address: str, seed: int, first: int, stop: Stop, pace_seconds: float = 0.0) -> None:
        self._address, self._stop, self._pace = address, stop, pace_seconds
        self._numbers = self._exports(seed, first)
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.acknowledged: list[tuple[int, int]] = []  # first trace and how many
        self.answers: Counter[str] = Counter()
        self.resent = 0
        self.failure: BaseException | None = None

    @staticmethod
    def _exports(seed: int, first: int) -> Iterator[tuple[int, int]]:
        chance = random.Random(seed)
        for _ in itertools.count():
            traces = chance.randint(1, 10)
            yield first, traces
            first += traces

    def start(self) -> None:
        self._thread.start()

    def finish(self) -> None:
        """Once the export in hand is acknowledged."""
        self._enough.set()
        self._thread.join()
        if self.failure is not None:
            raise self.failure

    def traces(self) -> int:
        """How many are acknowledged, with one model call each."""
        return sum(traces for _, traces in self.acknowledged)

    def records(self) -> Iterator[str]:
        """Record ids of all acknowledged spans."""
        for first, traces in self.acknowledged:
            for n in range(first, first + traces):
                yield from (f"{n:032x}-{n * 4 + number:016x}" for number in (1, 2))

    def _run(self) -> None:
        connection = http.client.HTTPConnection(self._address, timeout=30)
        try:
            for first, traces in self._numbers:
                if self._enough.is_set():
                    return
                self._send(connection, export(first, traces).SerializeToString())
                self.acknowledged.append((first, traces))
                self._stop.wait(self._pace)
        except Stopped:
            pass
        except BaseException as exc:  # told to whoever waits for us
            self.failure = exc
        finally:
            connection.close()

    def _send(self, connection: http.client.HTTPConnection, body: bytes) -> None:
        while True:
            try:
                connection.request("POST", "/v1/traces", body, {"Content-Type": "application/x-protobuf"})
                response = connection.getresponse()
                answer = response.read()
            except (OSError, http.client.HTTPException):
                connection.close()
            else:
                if response.status == 200:
                    taken = ExportTraceServiceResponse.FromString(answer)
                    if taken.partial_success.rejected_spans:
                        raise AssertionError(f"spans rejected: {taken.partial_success.error_message}")
                    return
                if response.status not in (429, 503):
                    raise AssertionError(f"traces: {response.status} {answer[:500]!r}")
            self.resent += 1
            self._stop.wait(AGAIN_SECONDS)
