"""The page that Prometheus reads, and the lifecycle endpoints beside it."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from monitor.config import Metrics as Listener
from monitor.config import Tls
from monitor.exposition import Exposition
from monitor.metrics import Metrics


class Answers:
    """What the daemon says of itself."""

    not_ready: str | None = None
    broken: str | None = None
    reload_problem: str | None = None


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
def serve(metrics: Metrics, answers: Answers) -> Iterator[Callable[..., str]]:
    """Starts one and gives its address."""
    started: list[Exposition] = []

    def make(tls: Tls | None = None, listen: str = "127.0.0.1:0") -> str:
        listener = Listener(listen=listen, tls=tls)
        one = Exposition(
            listener,
            metrics.registry,
            ready=lambda: answers.not_ready,
            reload=lambda: answers.reload_problem,
            broken=lambda: answers.broken,
        )
        one.start()
        started.append(one)
        return one.address

    yield make
    for one in started:
        one.stop()


@pytest.fixture
def client(serve: Callable[..., str]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://{serve()}", timeout=10) as client:
        yield client


PROMETHEUS_3 = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"


def test_a_scrape_has_the_content_type_of_what_it_holds(client: httpx.Client, metrics: Metrics) -> None:
    metrics.score.labels("bot", "d").observe(0.4, {"trace_id": "t" * 32})
    plain = client.get("/metrics", headers={"Accept": "text/plain"})
    assert plain.headers["Content-Type"].startswith("text/plain; version=")
    assert "trace_id" not in plain.text
    names = {family.name for family in parse_text(plain.text)}
    assert "modelwatch_store_commits" in names
    modern = client.get("/metrics", headers={"Accept": PROMETHEUS_3})
    assert modern.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    samples = [s for family in parse_openmetrics(modern.text) for s in family.samples]  # type: ignore[no-untyped-call]
    exemplars = [s.exemplar.labels for s in samples if s.exemplar is not None]
    assert exemplars == [{"trace_id": "t" * 32}]


def test_counters_without_labels_begin_at_zero_and_have_no_creation_times(client: httpx.Client) -> None:
    text = client.get("/metrics").text
    assert "modelwatch_store_commits_total 0.0" in text


def test_health_and_readiness_are_two_things(client: httpx.Client, answers: Answers) -> None:
    assert (client.get("/-/healthy").status_code, client.get("/-/ready").text) == (200, "ready\n")
    answers.not_ready = "12 bytes free"
    response = client.get("/-/ready")
    assert (response.status_code, response.text) == (503, "12 bytes free\n")
    assert client.get("/-/healthy").status_code == 200
    answers.broken = "the writer died: ValueError"
    response = client.get("/-/healthy")
    assert (response.status_code, response.text) == (503, "the writer died: ValueError\n"), "a service manager restarts it then"


def test_a_reload_is_a_post_and_says_what_is_wrong(client: httpx.Client, answers: Answers) -> None:
    assert client.get("/-/reload").status_code == 404
    assert client.post("/-/reload", content=b"ignored").status_code == 200
    assert client.get("/-/healthy").status_code == 200, "the connection is still good after a body nobody wanted"
    answers.reload_problem = "monitor.yaml: modles: no such key"
    response = client.post("/-/reload")
    assert (response.status_code, response.text) == (500, "monitor.yaml: modles: no such key\n")


def test_an_unknown_path_says_what_there_is(client: httpx.Client) -> None:
    assert "/metrics" in client.get("/").text
    assert client.get("/").status_code == client.post("/metrics").status_code == 404


def test_a_client_that_says_nothing_keeps_nobody_waiting(serve: Callable[..., str]) -> None:
    address = serve()
    host, port = address.split(":")
    with socket.create_connection((host, int(port))), socket.create_connection((host, int(port))) as half:
        half.sendall(b"GET /met")
        assert httpx.get(f"http://{address}/metrics", timeout=5).status_code == 200


def test_an_address_that_is_taken_is_an_error(serve: Callable[..., str]) -> None:
    address = serve()
    with pytest.raises(OSError, match="in use"):
        serve(listen=address)


def test_a_loopback_of_version_6_is_served_too(serve: Callable[..., str]) -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    address = serve(listen="[::1]:0")
    assert httpx.get(f"http://{address}/-/healthy", timeout=5).status_code == 200


def test_with_a_certificate_it_speaks_tls_and_a_stalled_handshake_keeps_nobody_waiting(
    serve: Callable[..., str], tls: Tls
) -> None:
    address = serve(tls)
    host, port = address.split(":")
    trust = ssl.create_default_context(cafile=str(tls.cert_file))
    with socket.create_connection((host, int(port))):  # and never a word of the handshake
        assert httpx.get(f"https://{address}/metrics", verify=trust, timeout=5).status_code == 200
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://{address}/metrics", timeout=5)
