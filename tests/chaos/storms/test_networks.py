"""Storms over the network between the server and everybody else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.chaos.counts import CLEAN
from support.chaos.faults import at_moments, pause
from support.chaos.fleet import Fleet, MakeFleet
from support.chaos.servers import QUEUE, MakeServer
from support.pgbouncer import pgbouncer
from support.proxy import Proxy

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]


@pytest.fixture
def network(make_server: MakeServer, make_fleet: MakeFleet) -> Iterator[tuple[Proxy, Fleet]]:
    """A proxy before the server, and a fleet that knows only the proxy."""
    server = make_server()
    with Proxy(server.port) as proxy:
        url = proxy.url(QUEUE)
        with make_fleet(server, worker_url=url, producer_url=url) as fleet:
            yield proxy, fleet


def test_the_network_is_cut(network: tuple[Proxy, Fleet]) -> None:
    """Nobody reaches the server for longer than a lease, twice."""
    proxy, fleet = network
    for _ in at_moments(seed=1, count=2, least=1, most=2):
        proxy.refuse()
        pause(4)
        proxy.accept()
        fleet.wait_for_progress(20)
    assert fleet.finish() == CLEAN


def test_connections_are_reset_again_and_again(network: tuple[Proxy, Fleet]) -> None:
    """Every connection ends with an RST twice a second, sixteen times."""
    proxy, fleet = network
    for _ in at_moments(seed=2, count=16, least=0.5, most=0.5):
        proxy.reset()
    assert fleet.finish() == CLEAN


def test_the_network_is_slow(network: tuple[Proxy, Fleet]) -> None:
    """Everything takes a third of a second longer, each way."""
    proxy, fleet = network
    proxy.slow_down(0.3)
    pause(8)
    proxy.slow_down(0)
    assert fleet.finish() == CLEAN


def test_answers_are_lost(network: tuple[Proxy, Fleet]) -> None:
    """The server hears everything, and nobody hears the server, until the connections break."""
    proxy, fleet = network
    for _ in at_moments(seed=3, count=3, least=1, most=2):
        proxy.lose_answers()
        pause(2)
        proxy.reset()
        fleet.wait_for_progress(20)
    assert fleet.finish() == CLEAN


def test_connections_are_half_open(network: tuple[Proxy, Fleet]) -> None:
    """Connections fall silent and never break: everybody has to find out alone, and does."""
    proxy, fleet = network
    # Handlers wait for the same silent connections.
    fleet.set_queue(job_timeout_seconds=20)
    proxy.swallow()
    # Statements are given up after 30 seconds.
    fleet.wait_until_ready(60)
    fleet.wait_for_progress(50, 60)
    assert fleet.finish() == CLEAN


def test_pgbouncer_is_killed(
    make_server: MakeServer, make_fleet: MakeFleet, tmp_path: Path
) -> None:
    """The pooler in front of the server is killed and started again, three times."""
    server = make_server()
    # The server asks for no password; PgBouncer insists on one.
    server_url = server.url().replace("postgres@", "postgres:any@")
    with pgbouncer(tmp_path, server_url, pool_size=20) as pooler:
        url = pooler.url(server.url())
        environment = {"MESHHOOK_POOLED": "true", "PRODUCER_POOLED": "1"}
        with make_fleet(server, worker_url=url, producer_url=url, environment=environment) as fleet:
            for _ in at_moments(seed=4, count=3, least=1, most=2):
                pooler.stop()
                pause(1)
                pooler.start()
                fleet.wait_for_progress(20)
            assert fleet.finish() == CLEAN
