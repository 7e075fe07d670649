"""Storms of upkeep: what administrators and deployments do while jobs run."""

from __future__ import annotations

import time

import pytest

from support.chaos.chances import chance_of
from support.chaos.counts import CLEAN
from support.chaos.faults import at_moments, locked, pause
from support.chaos.fleet import MakeFleet
from support.chaos.release import last_release
from support.chaos.servers import QUEUE, MakeServer

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

LOCKS = (
    f"lock table pgmq.q_{QUEUE} in access exclusive mode",
    f"lock table pgmq.q_{QUEUE} in share row exclusive mode",
    "lock table meshhook.job_attempts in access exclusive mode",
    "lock table meshhook.queue_config in access exclusive mode",
    "lock table meshhook.workers in access exclusive mode",
    f"select count(*) from (select from pgmq.q_{QUEUE} for update) as rows",
)
REWRITES = (
    f"vacuum full pgmq.q_{QUEUE}",
    "vacuum full meshhook.job_attempts",
    f"reindex table pgmq.q_{QUEUE}",
    f"reindex table concurrently pgmq.q_{QUEUE}",
    f"cluster pgmq.q_{QUEUE} using q_{QUEUE}_pkey",
    "analyze",
)


def test_tables_and_rows_are_locked(make_server: MakeServer, make_fleet: MakeFleet) -> None:
    """Each table, and every row of the queue, is locked for two seconds."""
    server = make_server()
    with make_fleet(server) as fleet:
        for lock in LOCKS:
            with locked(server, lock):
                pause(2)
        assert fleet.finish() == CLEAN


def test_tables_are_rewritten(make_server: MakeServer, make_fleet: MakeFleet) -> None:
    """VACUUM FULL, REINDEX and CLUSTER run over the tables, twice."""
    server = make_server()
    with make_fleet(server) as fleet:
        for _ in at_moments(seed=1, count=2, least=1, most=2):
            for statement in REWRITES:
                server.fetch(statement)
        assert fleet.finish() == CLEAN


def test_settings_change_again_and_again(make_server: MakeServer, make_fleet: MakeFleet) -> None:
    """The queue is paused and resumed, and every setting changes, thirty times."""
    chance = chance_of(2)
    with make_fleet(make_server()) as fleet:
        for number in at_moments(seed=2, count=30, least=0.1, most=0.5):
            fleet.set_queue(
                paused=number % 3 == 0,
                visibility_timeout_seconds=chance.randint(2, 6),
                max_retry_attempts=chance.randint(10, 30),
                retry_backoff_base_ms=chance.randint(1, 200),
                job_timeout_seconds=chance.randint(10, 300),
            )
        fleet.set_queue(paused=False)
        assert fleet.finish() == CLEAN


def test_workers_are_cordoned_again_and_again(
    make_server: MakeServer, make_fleet: MakeFleet
) -> None:
    """Any of them, at times all: what they have claimed and not started runs elsewhere, once."""
    server = make_server()
    with make_fleet(server) as fleet:
        for _ in at_moments(seed=4, count=16, least=0.5, most=2):
            server.fetch(
                "update meshhook.workers set cordoned_until = "
                "case when random() < 0.6 then now() + interval '3 seconds' end"
            )
        assert fleet.finish() == CLEAN


def test_the_queue_is_dropped_and_made_again(
    make_server: MakeServer, make_fleet: MakeFleet
) -> None:
    """Under workers and producers, twice: no job takes the place of another with its id."""
    server = make_server()
    with make_fleet(server) as fleet:
        for _ in at_moments(seed=3, count=2, least=2, most=3):
            server.fetch("select meshhook.drop_queue($1)", QUEUE)
            server.fetch("select meshhook.create_queue($1)", QUEUE)
            fleet.observed.went_back = (0.0, time.monotonic())
            fleet.set_queue(visibility_timeout_seconds=3, max_retry_attempts=30)
            fleet.wait_for_progress(20)
        assert fleet.finish() == CLEAN


def test_an_upgrade_rolls_forth_and_back(make_server: MakeServer, make_fleet: MakeFleet) -> None:
    """Workers of the last release and of this one work side by side, and replace one another."""
    server = make_server()
    server.empty()
    with last_release() as old, make_fleet(server, workers=0, jobs=0, settings=None) as fleet:
        assert fleet.command("migrate", forks=old).wait(60) == 0
        fleet.make_queue(forks=old)
        fleet.start_workers(2, forks=old)
        fleet.produce(600, per_second=40, forks=old)
        fleet.wait_for_progress(50)
        assert fleet.command("migrate").wait(60) == 0
        fleet.wait_for_progress(50)
        for forks in (fleet.forks, old):
            for worker in list(fleet.workers):
                fleet.start_workers(forks=forks)
                fleet.stop(worker)
        fleet.start_workers()
        assert fleet.finish() == CLEAN
