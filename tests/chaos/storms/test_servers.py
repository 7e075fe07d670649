"""Storms over the server: it crashes, is full, refuses, or takes too long."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from support.chaos.counts import CLEAN
from support.chaos.faults import (
    at_moments,
    full_of_sessions,
    pause,
    setting,
    small_disk,
    stopped,
    terminate_backends,
)
from support.chaos.fleet import MakeFleet
from support.chaos.servers import MakeServer, ServerTemplate, fetch

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]


def test_the_server_crashes_three_times(make_server: MakeServer, make_fleet: MakeFleet) -> None:
    """PostgreSQL is stopped at once and started again, three times."""
    server = make_server()
    with make_fleet(server) as fleet:
        for _ in at_moments(seed=1, count=3, least=1, most=3):
            server.restart("immediate")
            fleet.wait_for_progress(20)
        assert fleet.finish() == CLEAN


def test_every_connection_is_terminated_again_and_again(
    make_server: MakeServer, make_fleet: MakeFleet
) -> None:
    """Every backend is terminated twice a second, sixteen times."""
    server = make_server()
    with make_fleet(server) as fleet:
        for _ in at_moments(seed=2, count=16, least=0.5, most=0.5):
            terminate_backends(server)
        assert fleet.finish() == CLEAN


def test_every_connection_of_the_server_is_taken(
    make_server: MakeServer, make_fleet: MakeFleet
) -> None:
    """The server is full, and what workers and producers lose they do not get back for a while."""
    server = make_server(superuser_reserved_connections="0")
    with make_fleet(server) as fleet:
        with full_of_sessions(server, "meshhook leases%", "chaos producer"):
            pause(5)
        assert fleet.finish() == CLEAN


def test_statements_are_cancelled_after_a_few_milliseconds(
    make_server: MakeServer, make_fleet: MakeFleet
) -> None:
    """An administrator sets statement_timeout so low that many statements are cancelled."""
    server = make_server()
    with make_fleet(server) as fleet:
        with setting(server, "statement_timeout", "3ms"):
            pause(6)
        assert fleet.finish() == CLEAN


def test_the_server_takes_no_writes(make_server: MakeServer, make_fleet: MakeFleet) -> None:
    """Every session is read-only for a while, as in the middle of a failover."""
    server = make_server()
    with make_fleet(server) as fleet:
        with setting(server, "default_transaction_read_only", "on"):
            pause(6)
        assert fleet.finish() == CLEAN


@pytest.mark.parametrize("full", ["data", "log"])
def test_the_disk_is_full(
    server_template: ServerTemplate, chaos_folder: Path, make_fleet: MakeFleet, full: str
) -> None:
    """There is no room left for tables, or none for the write-ahead log, where the server ends."""
    with (
        small_disk(chaos_folder / "data-disk", megabytes=200) as data_disk,
        small_disk(chaos_folder / "log-disk", megabytes=60) as log_disk,
    ):
        settings = {"max_wal_size": "16MB", "min_wal_size": "2MB", "wal_keep_size": "0"}
        server = server_template.server(folder=data_disk.folder, settings=settings)
        server.move_wal(log_disk.folder)
        with server, make_fleet(server) as fleet:
            with (data_disk if full == "data" else log_disk).full():
                if full == "log":
                    fleet.wait_until(lambda: has_ended_for_want_of_room(server.url()), 20, "an end")
                pause(5)
            if full == "log":
                server.restart("immediate")
            assert fleet.finish() == CLEAN


def has_ended_for_want_of_room(url: str) -> bool:
    """Take another file of the log, and say whether the server refuses."""
    try:
        fetch(url, "select pg_switch_wal()")
    except Exception:  # noqa: BLE001 - whatever the driver makes of a server that ends
        return True
    return False


def test_workers_are_stopped_while_the_server_is_away(
    make_server: MakeServer, make_fleet: MakeFleet
) -> None:
    """SIGTERM ends workers in order although they can record nothing; others do the rest."""
    server = make_server()
    with make_fleet(server) as fleet:
        with stopped(server):
            for worker in list(fleet.workers):
                worker.process.send(signal.SIGTERM)
            for worker in list(fleet.workers):
                fleet.await_end(worker)
        fleet.start_workers(3)
        assert fleet.finish() == CLEAN
