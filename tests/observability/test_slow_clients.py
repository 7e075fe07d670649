"""The port for metrics and health among clients that are slow, many, or speak something else."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from meshhook import MonitoringServer
from meshhook.observability.health import Check
from support.scraping import ask
from support.waiting import eventually

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: pod\r\n\r\n"
METRICS = b"GET /metrics HTTP/1.1\r\nHost: pod\r\n\r\n"


class Source:
    """A source of health that is well."""

    def liveness(self) -> Iterable[Check]:
        """Nothing is at fault."""
        return [Check("loop")]

    readiness = liveness


class Large(Collector):
    """Some megabytes of metrics, which wait for a gate."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.is_collecting = threading.Event()

    def describe(self) -> Iterable[Any]:
        """Say nothing, so that nothing is collected when it is registered."""
        return []

    def collect(self) -> Iterable[Any]:
        """Wait for the gate, and return one family."""
        self.is_collecting.set()
        self.gate.wait()
        family = GaugeMetricFamily("size", "x", labels=["text"])
        for number in range(20_000):
            family.add_metric([f"{number:0200}"], number)
        return [family]


@pytest.fixture
def large() -> Iterator[Large]:
    """The collector, whose gate is open at the end."""
    large = Large()
    yield large
    large.gate.set()


@pytest.fixture
def server(large: Large) -> Iterator[MonitoringServer]:
    """A running server with large metrics."""
    registry = CollectorRegistry()
    registry.register(large)
    with MonitoringServer(address="127.0.0.1", registry=registry, health=[Source()]) as server:
        yield server


@pytest.fixture
def clients() -> Iterator[ExitStack]:
    """What closes the clients at the end."""
    with ExitStack() as stack:
        yield stack


def connect(server: MonitoringServer, clients: ExitStack, source: str = "127.0.0.1") -> Any:
    """Connect from an address of this machine."""
    found = socket.create_connection(
        ("127.0.0.1", server.port), timeout=30, source_address=(source, 0)
    )
    return clients.enter_context(found)


def answer_of(client: socket.socket) -> bytes:
    """Read until the server has closed."""
    parts = []
    while part := client.recv(65_536):
        parts.append(part)
    return b"".join(parts)


def is_cut(client: socket.socket) -> bool:
    """Whether the server has closed a connection that it has not answered."""
    try:
        client.settimeout(0)
        return client.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True
    finally:
        client.settimeout(30)


# --- Many and slow ---------------------------------------------------------------------------


@pytest.mark.parametrize("said", [b"", b"GET /healthz HTTP/1.1\r\nX-Slow: "])
def test_probes_are_answered_whatever_number_of_clients_is_slow(server, clients, said):
    """Every probe is answered among 300 clients that send nothing, or no end of their headers."""
    for _ in range(300):
        connect(server, clients).sendall(said)
    for _ in range(30):
        assert ask(server.port, "/healthz").status == 200


def test_probes_are_answered_while_slow_clients_do_not_read_the_metrics(
    server, clients, monkeypatch
):
    """Neither a probe nor another scrape waits for scrapers that never read their megabytes."""
    # All of these megabytes may take a slow machine longer than an answer may take.
    monkeypatch.setattr("meshhook.observability.http_listener.ANSWER_SECONDS", 100.0)
    for _ in range(64):
        client = connect(server, clients)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(METRICS)
    assert ask(server.port, "/healthz").status == 200
    assert ask(server.port, "/readyz").status == 200
    assert ask(server.port, "/metrics").text.endswith("19999.0\n")


def test_probes_are_answered_while_a_collector_hangs(server, clients, large):
    """The metrics have a thread of their own; health does not wait for it."""
    large.gate.clear()
    for _ in range(64):
        connect(server, clients).sendall(METRICS)
    assert large.is_collecting.wait(30)
    assert ask(server.port, "/healthz").status == 200


def test_a_crowd_cuts_its_own_connections_and_not_those_of_others(server, clients, monkeypatch):
    """A client that is slow for a reason keeps its place while another address opens hundreds."""
    # Hundreds of connections may take a slow machine longer than a request may take.
    monkeypatch.setattr("meshhook.observability.http_listener.REQUEST_SECONDS", 100.0)
    other = connect(server, clients, "127.0.0.3")
    other.sendall(HEALTH[:10])
    crowd = [connect(server, clients, "127.0.0.2") for _ in range(300)]
    assert ask(server.port, "/healthz").status == 200
    assert is_cut(crowd[0])
    assert not is_cut(other)
    other.sendall(HEALTH[10:])
    assert answer_of(other).startswith(b"HTTP/1.1 200 ")


def test_scrapes_without_end_from_one_address_leave_those_of_another(
    server, clients, large, monkeypatch
):
    """A scrape that waits for its turn is not pushed out by another address."""
    # On a slow machine it may take longer than an answer may take.
    monkeypatch.setattr("meshhook.observability.http_listener.ANSWER_SECONDS", 100.0)
    large.gate.clear()
    connect(server, clients, "127.0.0.2").sendall(METRICS)
    assert large.is_collecting.wait(30)
    prometheus = connect(server, clients, "127.0.0.3")
    prometheus.sendall(METRICS)
    assert ask(server.port, "/healthz").status == 200  # so the scrape has been read
    for _ in range(64):
        connect(server, clients, "127.0.0.2").sendall(METRICS)
    assert ask(server.port, "/healthz").status == 200
    large.gate.set()
    assert answer_of(prometheus).endswith(b"19999.0\n")


def test_clients_take_no_threads(server, clients):
    """However many are connected, the server has the threads that it began with."""
    before = threading.active_count()
    for _ in range(64):
        connect(server, clients).sendall(HEALTH[:10])
    assert ask(server.port, "/healthz").status == 200
    assert threading.active_count() <= before


def test_a_storm_of_connections(server):
    """Thousands that connect and leave do no harm to what is asked in between."""
    for _ in range(20):
        for _ in range(100):
            socket.create_connection(("127.0.0.1", server.port)).close()
        assert ask(server.port, "/healthz").status == 200


async def test_a_request_has_its_time_from_the_connection_on(server, clients, monkeypatch):
    """A client that sends a byte now and then is cut all the same."""
    monkeypatch.setattr("meshhook.observability.http_listener.REQUEST_SECONDS", 0.3)
    client = connect(server, clients)

    def is_cut_after_one_more_byte() -> bool:
        try:
            client.sendall(b"G")
        except OSError:
            return True
        return is_cut(client)

    await eventually(is_cut_after_one_more_byte)
    monkeypatch.undo()
    assert ask(server.port, "/healthz").status == 200


async def test_an_answer_has_its_time_from_the_request_on(server, clients):
    """A client that does not read on is cut at the deadline, and does not get all of it."""
    client = clients.enter_context(socket.socket())
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(30)
    client.connect(("127.0.0.1", server.port))
    client.sendall(METRICS)
    assert client.recv(1) == b"H"
    (connection,) = server._listener._connections
    assert connection.deadline <= time.monotonic() + 10
    connection.deadline = time.monotonic()
    server._listener._wake()
    await eventually(lambda: not connection.is_open)
    with pytest.raises(ConnectionResetError):  # what was not sent is thrown away
        answer_of(client)


# --- Files -----------------------------------------------------------------------------------


def test_probes_are_answered_while_the_process_has_no_file_descriptor_left(server, clients):
    """One is kept in reserve; connections that hold the others make room."""
    waiting = [clients.enter_context(socket.socket()) for _ in range(5)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 400), hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                files.append(os.open(os.devnull, os.O_RDONLY))
        for client in waiting:
            client.settimeout(30)
            client.connect(("127.0.0.1", server.port))
            client.sendall(HEALTH)
            assert answer_of(client).startswith(b"HTTP/1.1 200 ")
    finally:
        for each in files:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert ask(server.port, "/metrics").status == 200


# --- Something else than a request -----------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),  # TLS; no line ends
        (b"\x00" * 100, 400),
        (b"\r\n\r\n", 400),
        (b"HELLO\r\n\r\n", 400),
        (b"GET /healthz\r\n\r\n", 400),
        (b"GET http://[ HTTP/1.1\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET /" + b"a" * 100_000, 431),
        (b"GET /healthz HTTP/1.1\r\n" + b"X: y\r\n" * 20_000, 431),
    ],
)
def test_what_is_no_request_is_refused_at_once(server, clients, said, status):
    """The answer does not wait for more, or for a deadline."""
    client = connect(server, clients)
    with contextlib.suppress(OSError):  # it has said enough
        client.sendall(said)
    assert answer_of(client).startswith(b"HTTP/1.1 %d " % status)
    assert ask(server.port, "/healthz").status == 200


def test_a_second_request_on_a_connection_is_not_read(server, clients):
    """A pipeline gets one answer, which says that the connection ends."""
    client = connect(server, clients)
    client.sendall(HEALTH + METRICS * 50)
    answer = answer_of(client)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"Connection: close\r\n" in answer


def test_a_client_that_says_that_it_is_done_gets_its_answer(server, clients):
    """Half of the connection may be closed before the answer has come."""
    client = connect(server, clients)
    client.sendall(HEALTH)
    client.shutdown(socket.SHUT_WR)
    assert answer_of(client).startswith(b"HTTP/1.1 200 ")
    silent = connect(server, clients)
    silent.shutdown(socket.SHUT_WR)
    assert answer_of(silent) == b""


# --- The end ---------------------------------------------------------------------------------


def test_stopping_leaves_nothing(clients):
    """Port, threads and connections are gone when `stop` returns, however slow the clients are."""
    before = set(threading.enumerate())
    server = MonitoringServer(address="127.0.0.1", registry=CollectorRegistry())
    server.start()
    port = server.port
    slow = [connect(server, clients) for _ in range(20)]
    assert ask(port, "/healthz").status == 200
    server.stop()
    assert set(threading.enumerate()) <= before
    assert all(is_cut(client) for client in slow)
    with MonitoringServer(port, address="127.0.0.1", registry=CollectorRegistry()) as again:
        assert ask(again.port, "/healthz").status == 200
