"""Storms over the workers: they are killed, frozen, eaten up by jobs, or have wrong clocks."""

from __future__ import annotations

import contextlib

import psutil
import pytest

from support.chaos.chances import chance_of
from support.chaos.clocks import wrong_clock
from support.chaos.counts import CLEAN
from support.chaos.faults import again_and_again, at_moments, frozen, pause
from support.chaos.fleet import Fleet, MakeFleet
from support.chaos.processes import ForkedProcess
from support.chaos.servers import MakeServer

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

MEMORY_LIMIT_BYTES = 350 << 20


def test_workers_are_killed_again_and_again(make_server: MakeServer, make_fleet: MakeFleet) -> None:
    """Five workers in a row are killed in the middle of their work, and replaced."""
    chance = chance_of(4)
    with make_fleet(make_server()) as fleet:
        for _ in at_moments(seed=4, count=5, least=1, most=3):
            fleet.kill(chance.choice(fleet.workers))
            fleet.start_workers()
        assert fleet.finish() == CLEAN


def test_workers_are_frozen_past_their_leases(
    make_server: MakeServer, make_fleet: MakeFleet
) -> None:
    """Each worker in turn stands still for longer than a lease, and then goes on."""
    with make_fleet(make_server()) as fleet:
        for worker in list(fleet.workers):
            with frozen(worker.process):
                pause(4)
        assert fleet.finish() == CLEAN


def keep_alive(fleet: Fleet) -> None:
    """Do what a node does: kill the worker that takes too much memory, replace what has ended."""
    for worker in list(fleet.workers):
        if worker.process.code is None:
            try:
                has_too_much = psutil.Process(worker.pid).memory_info().rss > MEMORY_LIMIT_BYTES
            except psutil.NoSuchProcess:
                continue
            if not has_too_much:
                continue
        fleet.kill(worker)
        fleet.start_worker()


def test_jobs_kill_eat_block_swallow_and_fork(
    make_server: MakeServer, make_fleet: MakeFleet
) -> None:
    """Jobs that always kill their process, or eat its memory, become dead letters; no others do.

    Others kill it once, block its event loop, take no notice of being cancelled, or fork.
    """
    settings = {"visibility_timeout_seconds": 1, "max_retry_attempts": 4}
    with make_fleet(make_server(), mix="deadly", jobs=600, settings=settings) as fleet:
        with again_and_again(lambda: keep_alive(fleet), 0.2):
            fleet.wait_for_producers()
            fleet.wait_until_empty(100)
        fleet.wait_until_ready()
        assert fleet.finish() == CLEAN


def test_supervisor_and_children_are_killed(make_server: MakeServer, make_fleet: MakeFleet) -> None:
    """A killed child is replaced; when the supervisor is killed its children stop in order."""
    with make_fleet(make_server()) as fleet:
        supervisor = fleet.start_supervisor(2)
        killed, other = two_children(fleet, supervisor)
        fleet.observed.died.add(killed.pid)
        killed.kill()
        psutil.wait_procs([killed], timeout=30)
        orphans = two_children(fleet, supervisor)
        assert other in orphans
        fleet.kill_supervisor(supervisor)
        gone, alive = psutil.wait_procs(orphans, timeout=30)
        assert (len(gone), alive) == (2, [])
        assert fleet.finish() == CLEAN


def two_children(fleet: Fleet, supervisor: ForkedProcess) -> list[psutil.Process]:
    """Wait until a supervisor has two children, and return them."""
    found: list[psutil.Process] = []

    def are_two() -> bool:
        found[:] = children(supervisor.pid)
        return len(found) == 2

    fleet.wait_until(are_two, 60, "two children")
    return found


def children(pid: int) -> list[psutil.Process]:
    """Return the workers of a supervisor; what it has forked just now is none yet."""
    found = []
    for process in psutil.Process(pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if "support.chaos.forking" not in process.cmdline():
                found.append(process)
    return found


def test_clocks_are_wrong_by_ten_minutes(make_server: MakeServer, make_fleet: MakeFleet) -> None:
    """One worker is ahead of the database, one behind, and one jumps while it works."""
    with (
        make_fleet(make_server()) as fleet,
        wrong_clock(fleet.folder / "ahead") as ahead,
        wrong_clock(fleet.folder / "behind") as behind,
        wrong_clock(fleet.folder / "jumping") as jumping,
    ):
        ahead.set("+10m")
        behind.set("-10m")
        for clock in (ahead, behind, jumping):
            fleet.start_workers(forks=clock.forks)
        for number in at_moments(seed=5, count=6, least=1, most=1.5):
            jumping.set("+10m" if number % 2 else "-10m")
        assert fleet.finish() == CLEAN


def test_ten_workers_and_three_migrations_start_at_once(
    make_server: MakeServer, make_fleet: MakeFleet
) -> None:
    """Three migrations of an empty database at once, and three more while a whole fleet starts."""
    server = make_server()
    server.empty()
    with make_fleet(server, workers=0, jobs=0, settings=None) as fleet:
        assert [process.wait(60) for process in migrations(fleet)] == [0, 0, 0]
        fleet.make_queue()
        again = migrations(fleet)
        fleet.start_workers(10)
        assert [process.wait(60) for process in again] == [0, 0, 0]
        fleet.produce(1_000, per_second=80)
        fleet.wait_for_progress()
        assert fleet.finish() == CLEAN


def migrations(fleet: Fleet) -> list[ForkedProcess]:
    """Start to migrate the database three times at once."""
    return [fleet.command("migrate") for _ in range(3)]
