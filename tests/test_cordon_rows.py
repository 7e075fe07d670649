"""Cordons in the database: who is cordoned, for how long, and what a report does to it."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

import asyncpg
import pytest

from meshhook import Database, list_workers
from meshhook.role_kinds import RoleKind
from meshhook.roles import GRANTS, Grant, check_role
from meshhook.schema import available_migrations, migrate
from meshhook.store import queries
from support.roles import Roles

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

OLD_REPORT = """
    insert into meshhook.workers as w (queue, worker, host, concurrency, running, processed,
        busy_seconds, draining, started_at, seen_at)
    select r.queue, $1::text, $2::text, r.concurrency, r.running, r.processed, r.busy_seconds,
        $3::boolean, pg_catalog.now() - pg_catalog.make_interval(secs => $4::float8),
        pg_catalog.now()
    from unnest($5::text[], $6::int[], $7::int[], $8::bigint[], $9::float8[])
        as r (queue, concurrency, running, processed, busy_seconds)
    on conflict (queue, worker) do update
    set concurrency = excluded.concurrency, running = excluded.running,
        processed = excluded.processed, busy_seconds = excluded.busy_seconds,
        draining = excluded.draining, seen_at = excluded.seen_at
"""
"""The report of workers of the version before cordons."""


async def report(
    connection: Connection, worker: str, *, queue: str = "jobs", cordoned: bool = False
) -> float:
    """Report as a worker does on a host of the same name, and return what it is told."""
    row = await connection.fetchrow(
        queries.load("report_workers"),
        *(
            worker,
            worker,
            False,
            100.0,
            [queue],
            [10],
            [4],
            [1000],
            [250.0],
            [42.0],
            [cordoned],
            60,
        ),
    )
    assert row is not None
    return float(row["cordoned_seconds"])


async def report_as_before(connection: Connection, worker: str) -> None:
    """Report as a worker of the version before does."""
    await connection.execute(
        OLD_REPORT, worker, worker, False, 100.0, ["jobs"], [10], [4], [1000], [250.0]
    )


async def cordon(
    connection: Connection, *hosts: str, queue: str = "jobs", seconds: float = 30
) -> int:
    """Cordon as the operator does."""
    return int(
        await connection.fetchval(
            "select meshhook.cordon_workers($1, $2, $3)", queue, list(hosts), seconds
        )
    )


async def cordoned(connection: Connection) -> set[tuple[str, str]]:
    """Return the queue and host of each worker that is asked to claim nothing."""
    rows = await connection.fetch(
        "select queue, host from meshhook.workers where cordoned_until > now()"
    )
    return {(row["queue"], row["host"]) for row in rows}


async def test_cordoning_names_all_of_a_queue(connection: Connection) -> None:
    """Those named are cordoned, all others of the queue are not; only changed rows are written."""
    for worker in ("a", "b", "c"):
        await report(connection, worker)
    await report(connection, "a", queue="others")
    assert await cordon(connection, "a", "b", "missing") == 2
    assert await cordoned(connection) == {("jobs", "a"), ("jobs", "b")}
    assert await cordon(connection, "b", "c") == 3
    assert await cordoned(connection) == {("jobs", "b"), ("jobs", "c")}
    assert await cordon(connection) == 2
    assert await cordoned(connection) == set()
    assert await cordon(connection) == 0


async def test_a_report_keeps_the_cordon_and_hears_of_it(connection: Connection) -> None:
    """The statement that reports returns for how long the worker is cordoned still."""
    assert await report(connection, "a") == 0
    await cordon(connection, "a")
    assert 0 < await report(connection, "a") <= 30
    assert 0 < await report(connection, "a", cordoned=True) <= 30
    await cordon(connection)
    assert await report(connection, "a", cordoned=True) == 0


async def test_a_cordon_ends_by_itself(connection: Connection) -> None:
    """An operator that is gone leaves no worker cordoned."""
    await report(connection, "a", cordoned=True)
    await cordon(connection, "a", seconds=0)
    assert await report(connection, "a", cordoned=True) == 0
    [worker] = await list_workers(Database(connection))
    assert not worker.cordoned


async def test_only_live_workers_are_cordoned(connection: Connection) -> None:
    """Not one that stops, nor one that has not reported for 30 seconds."""
    for worker in ("a", "b", "c"):
        await report(connection, worker)
    await connection.execute("update meshhook.workers set draining = true where host = 'b'")
    await connection.execute(
        "update meshhook.workers set seen_at = '-1h'::interval + now() where host = 'c'"
    )
    assert await cordon(connection, "a", "b", "c") == 1
    assert await cordoned(connection) == {("jobs", "a")}


async def test_cordoning_waits_for_no_report(connection: Connection, database_url: str) -> None:
    """A row that a report is writing at this moment is left to the next call."""
    await report(connection, "a")
    await report(connection, "b")
    other = await asyncpg.connect(database_url)
    try:
        async with other.transaction():
            await report(other, "a")
            assert await cordon(connection, "a", "b") == 1
        assert await cordon(connection, "a", "b") == 2
    finally:
        await other.close()
    assert await cordoned(connection) == {("jobs", "a"), ("jobs", "b")}


@pytest.mark.parametrize("seconds", [-1.0, 3601.0, float("inf"), float("nan"), None])
async def test_a_length_that_cannot_be_is_refused(
    connection: Connection, seconds: float | None
) -> None:
    """The error has the value: a cordon of any length would be one for ever."""
    with pytest.raises(asyncpg.InvalidParameterValueError, match=r"0 to 3600 seconds, not "):
        await connection.fetchval(
            "select meshhook.cordon_workers('jobs', '{a}', $1::float8)", seconds
        )


async def test_workers_of_the_version_before_report_as_they_did(connection: Connection) -> None:
    """Their statement works on the new schema, and leaves a cordon as it is."""
    await report_as_before(connection, "a")
    await cordon(connection, "a")
    await report_as_before(connection, "a")
    assert await cordoned(connection) == {("jobs", "a")}
    [worker] = await list_workers(Database(connection))
    assert (worker.oldest_running_seconds, worker.cordoned) == (0, False)


async def test_the_list_says_who_obeys(connection: Connection) -> None:
    """A worker is listed as cordoned from the report on that says so."""
    await report(connection, "a")
    await cordon(connection, "a")
    [worker] = await list_workers(Database(connection))
    assert not worker.cordoned
    await report(connection, "a", cordoned=True)
    [worker] = await list_workers(Database(connection))
    assert worker.cordoned
    assert worker.oldest_running_seconds == 42


async def test_roles_made_before_get_what_cordons_need(
    empty_database_url: str, empty_connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers report and operators cordon after the upgrade, without new grants."""
    number = next(each.version for each in available_migrations() if each.name == "cordons")
    before = [each for each in available_migrations() if each.version < number]
    await migrate(empty_connection, migrations=before)
    await empty_connection.execute(
        "create role test_by_hand; grant usage on schema meshhook to test_by_hand; "
        "grant select, insert on meshhook.workers, meshhook.queue_config to test_by_hand; "
        "grant update (concurrency, running, processed, busy_seconds, draining, seen_at) "
        "on meshhook.workers to test_by_hand"
    )
    async with Roles(empty_database_url, empty_connection) as roles:
        for kind in (RoleKind.WORKER, RoleKind.OPERATOR):
            with monkeypatch.context() as patch:
                patch.setitem(GRANTS, kind, _as_before(GRANTS[kind]))
                await roles.make(kind, name=f"test_{kind}")
        await migrate(empty_connection)
        try:
            for worker, operator in (
                ("test_worker", "test_operator"),
                ("test_by_hand", "test_by_hand"),
            ):
                await empty_connection.execute(f"set role {worker}")
                await report(empty_connection, worker)
                assert await report(empty_connection, worker) == 0
                await empty_connection.execute(f"set role {operator}")
                assert await cordon(empty_connection, worker) == 1
                await cordon(empty_connection)
            await empty_connection.execute("reset role")
            for kind in (RoleKind.WORKER, RoleKind.OPERATOR):
                checked = await check_role(Database(empty_connection), f"test_{kind}")
                assert (checked.lacks, checked.beyond) == ((), ())
        finally:
            await empty_connection.execute("reset role")
            await empty_connection.execute("drop owned by test_by_hand; drop role test_by_hand")


def _as_before(grants: tuple[Grant, ...]) -> tuple[Grant, ...]:
    """Return what the grants of a kind were in the version before cordons."""
    new = ("oldest_running_seconds", "cordoned", "cordoned_until")
    # The functions that later versions added. Tables that are absent are left out anyway.
    later = ("groups", "breakers", "ends", "firings", "audit")
    kept = []
    for grant in grants:
        if grant.object.startswith("function ") and any(each in grant.object for each in later):
            continue
        columns = tuple(each for each in grant.columns if each not in new)
        if columns or not grant.columns:
            kept.append(replace(grant, columns=columns))
    return tuple(kept)
