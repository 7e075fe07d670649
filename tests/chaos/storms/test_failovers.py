"""Storms in which another server takes over, or the same one with older data."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support.chaos.counts import CLEAN
from support.chaos.faults import pause
from support.chaos.fleet import MakeFleet
from support.chaos.servers import MakeServer, Server, ServerTemplate

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]


def url_of_both(primary: Server, standby: Server) -> str:
    """Return a URL that leads to whichever of them takes writes."""
    hosts = ",".join(f"127.0.0.1:{server.port}" for server in (primary, standby))
    return f"postgresql://postgres@{hosts}/chaos?target_session_attrs=read-write"


def test_a_synchronous_standby_takes_over(
    debian_template: Callable[[], ServerTemplate], make_fleet: MakeFleet
) -> None:
    """The primary crashes, and the standby that has confirmed each commit is promoted."""
    with debian_template().pair() as (primary, standby):
        url = url_of_both(primary, standby)
        with make_fleet(primary, worker_url=url, producer_url=url) as fleet:
            pause(2)
            primary.stop("immediate")
            standby.promote()
            fleet.server = standby
            assert fleet.finish() == CLEAN


def test_an_asynchronous_standby_takes_over(
    server_template: ServerTemplate, make_fleet: MakeFleet
) -> None:
    """The standby lacks what was confirmed in the last two seconds: that may be lost, nothing else.

    Ids of messages that come again do no harm.
    """
    with server_template.pair(is_synchronous=False) as (primary, standby):
        url = url_of_both(primary, standby)
        with make_fleet(primary, worker_url=url, producer_url=url) as fleet:
            fleet.wait_until(lambda: has_all_of(standby, primary), 20, "the standby is near")
            before = time.monotonic()
            standby.set("primary_conninfo", "")
            pause(2)
            primary.stop("immediate")
            standby.promote()
            fleet.observed.went_back = (before - 1, time.monotonic())
            fleet.server = standby
            assert fleet.finish() == CLEAN


def has_all_of(standby: Server, primary: Server) -> bool:
    """Say whether a standby has what the primary had when it was asked."""
    at = primary.fetchval("select pg_current_wal_lsn()::text")
    found: bool = standby.fetchval("select pg_last_wal_replay_lsn() >= $1::text::pg_lsn", at)
    return found


def test_a_backup_is_restored_under_running_workers(
    make_server: MakeServer, make_fleet: MakeFleet, chaos_folder: Path
) -> None:
    """The server comes back with the data of some seconds ago; workers know nothing of it."""
    server = make_server()
    with make_fleet(server) as fleet:
        before = time.monotonic()
        backup = server.back_up(chaos_folder / "backup")
        pause(2)
        server.stop("immediate")
        server.replace_data(backup)
        fleet.observed.went_back = (before, time.monotonic())
        server.start()
        assert fleet.finish() == CLEAN
