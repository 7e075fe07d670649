"""The port for metrics and health: what it answers, and that nobody holds it up."""

from __future__ import annotations

import gzip
import socket
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from meshhook import MonitoringServer
from meshhook.errors import InvalidSettingError, PortUnavailableError
from meshhook.observability.health import Check
from meshhook.observability.histograms import Histogram
from meshhook.observability.metrics import METRICS
from support.scraping import ask

OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"


class Patient:
    """A source of health that says what a test tells it to."""

    def __init__(self) -> None:
        self.fault: str | None = None

    def liveness(self) -> Iterable[Check]:
        """Two loops, one of which may be at fault."""
        return [Check("settler"), Check("claimer", self.fault)]

    def readiness(self) -> Iterable[Check]:
        """The database, which may be at fault."""
        return [Check("database", self.fault)]


@pytest.fixture
def registry() -> CollectorRegistry:
    """A registry with a counter and a histogram that has an exemplar."""
    registry = CollectorRegistry()
    Counter("orders_total", "Orders.", registry=registry).inc(3)
    wait = METRICS["meshhook_worker_message_wait_seconds"]
    series = Histogram(wait, registry).labels("jobs")
    series.observe(0.3)
    series.note_exemplar(0.3, {"trace_id": "a" * 32})
    return registry


@pytest.fixture
def patient() -> Patient:
    """A source of health."""
    return Patient()


@pytest.fixture
def server(registry: CollectorRegistry, patient: Patient) -> Iterator[MonitoringServer]:
    """A running server."""
    with MonitoringServer(address="127.0.0.1", registry=registry, health=[patient]) as server:
        yield server


def test_metrics_as_prometheus_text(server: MonitoringServer) -> None:
    """Without an Accept header the answer is Prometheus text that its parser reads."""
    answer = ask(server.port, "/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    assert families["orders"].samples[0].value == 3


def test_metrics_as_openmetrics_with_exemplars(server: MonitoringServer) -> None:
    """A scraper that takes OpenMetrics gets it, with the trace ids of the histograms."""
    answer = ask(server.port, "/metrics", Accept=OPENMETRICS)
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert f'# {{trace_id="{"a" * 32}"}}' in answer.text
    assert answer.text.endswith("# EOF\n")


def test_metrics_are_compressed_where_the_scraper_takes_it(server: MonitoringServer) -> None:
    """Gzip is used if it is accepted."""
    answer = ask(server.port, "/metrics", Accept_Encoding="gzip")
    assert answer.headers["content-encoding"] == "gzip"
    assert b"orders_total 3.0" in gzip.decompress(answer.body)


def test_health_is_200_while_all_is_well(server: MonitoringServer) -> None:
    """Both paths list what was looked at."""
    assert ask(server.port, "/healthz").text == "settler: ok\nclaimer: ok\n"
    assert ask(server.port, "/readyz").text == "database: ok\n"


def test_health_is_503_and_says_what_is_wrong(server: MonitoringServer, patient: Patient) -> None:
    """The fault stands first, with its name."""
    patient.fault = "has not turned for 70 s"
    answer = ask(server.port, "/healthz")
    assert answer.status == 503
    assert answer.text.startswith("claimer: has not turned for 70 s\n")
    assert ask(server.port, "/readyz").status == 503


def test_health_that_cannot_be_told_is_not_well(
    server: MonitoringServer, patient: Patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source that raises counts as a fault."""
    monkeypatch.delattr(Patient, "liveness")
    assert ask(server.port, "/healthz").status == 503


def test_a_head_request_has_no_body(server: MonitoringServer) -> None:
    """HEAD is answered as GET is, without the text."""
    for path in ("/metrics", "/healthz", "/readyz"):
        answer = ask(server.port, path, method="HEAD")
        assert (answer.status, answer.body) == (200, b"")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods_are_refused(server: MonitoringServer, method: str) -> None:
    """Only GET and HEAD are allowed, and the answer says so."""
    answer = ask(server.port, "/metrics", method=method)
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


def test_other_paths_are_not_found(server: MonitoringServer) -> None:
    """The answer names the paths that there are."""
    answer = ask(server.port, "/")
    assert answer.status == 404
    assert "/metrics" in answer.text


def test_a_collector_that_fails_is_an_error_of_the_server(
    server: MonitoringServer, registry: CollectorRegistry
) -> None:
    """A scrape that cannot be answered is a 500, and the next one is tried again."""

    class Broken(Collector):
        broken = False

        def collect(self) -> Iterable[Any]:
            if self.broken:
                raise ZeroDivisionError
            return []

    registry.register(Broken())
    Broken.broken = True
    assert ask(server.port, "/metrics").status == 500
    Broken.broken = False
    assert ask(server.port, "/metrics").status == 200


def test_a_port_that_is_taken(server: MonitoringServer) -> None:
    """The error names the port and the way out."""
    other = MonitoringServer(server.port, address="127.0.0.1")
    with pytest.raises(PortUnavailableError, match=f"{server.port} on 127.0.0.1.*--metrics-port"):
        other.start()


@pytest.mark.parametrize("port", [-1, 65_536, "9464", True])
def test_a_port_out_of_range(port: Any) -> None:
    """The error gives the range and the value."""
    with pytest.raises(InvalidSettingError, match=r"0 to 65535, got"):
        MonitoringServer(port)


def test_starting_and_stopping_twice(registry: CollectorRegistry) -> None:
    """Both are idempotent, and a stopped server can be started again."""
    server = MonitoringServer(address="127.0.0.1", registry=registry)
    server.start()
    port = server.port
    server.start()
    assert server.port == port
    server.stop()
    server.stop()
    with pytest.raises(OSError, match="refused"):
        ask(port, "/metrics")
    with server:
        assert ask(server.port, "/metrics").status == 200


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_both_families_of_addresses() -> None:
    """The address :: takes IPv6 and IPv4."""
    with MonitoringServer(address="::") as server:
        assert ask(server.port, "/healthz", host="::1").status == 200
        assert ask(server.port, "/healthz", host="127.0.0.1").status == 200
