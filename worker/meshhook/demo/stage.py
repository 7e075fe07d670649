"""The demo's own queue: made afresh for each run, and never taken from anybody else."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from meshhook.administration import create_queue, drop_queue, set_queue_config
from meshhook.demo.processes import DemoError
from meshhook.demo.scenario import QUEUE_SETTINGS, project_ids
from meshhook.names import validate_queue_name
from meshhook.postgres.connecting import connect
from meshhook.postgres.database import Database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MARK = "Made by meshhook demo, which drops and makes it again"
"""The comment on the table of a queue that the demo made."""

_FIND_SQL = """
with queue (name) as (values ($1::pg_catalog.text))
select pg_catalog.to_regclass(pg_catalog.format('pgmq.%I', 'q_' || name)) is not null
        or pg_catalog.to_regclass(pg_catalog.format('pgmq.%I', 'q_' || name || '_dlq')) is not null
        as exists,
    pg_catalog.obj_description(
        pg_catalog.to_regclass(pg_catalog.format('pgmq.%I', 'q_' || name)), 'pg_class') as mark
from queue
"""
_FOREIGN_SQL = """
select exists (select from pgmq."q_{0}" where {1})
    or exists (select from pgmq."q_{0}_dlq" where {1})
    or exists (select from pgmq."a_{0}" where {1})
"""
_IS_FOREIGN = (
    "coalesce(message ->> 'project_id'::pg_catalog.text, '') <> all ($1::pg_catalog.text[])"
)


@asynccontextmanager
async def demo_queue(database_url: str, queue_name: str) -> AsyncIterator[None]:
    """Make the demo's queue, and keep a second demo off it. The queue stays afterwards.

    Args:
        database_url: a migrated database.
        queue_name: the queue.

    Raises:
        DemoError: if the queue is not the demo's own, or another demo is running on it.
        DatabaseError: if the database cannot be used, or is not migrated.
    """
    name = validate_queue_name(queue_name)
    connection = await connect(database_url, application_name="meshhook demo")
    try:
        database = Database(connection)
        # Held by the session, so that it goes when this demo dies.
        lock = (
            "select pg_catalog.pg_try_advisory_lock("
            "pg_catalog.hashtext('meshhook.demo.' || $1::pg_catalog.text))"
        )
        if not await database.fetchval(lock, name):
            raise DemoError(
                f"another demo is running on queue {name!r} of this database; wait until it ends"
            )
        async with database.transaction() as transaction:
            await _make_afresh(transaction, name)
        yield
    finally:
        await connection.close()


async def is_demo_queue(database: Database, queue_name: str) -> bool:
    """Return whether a queue is there, and the demo made it.

    Raises:
        DatabaseError: if the database cannot be used.
    """
    found = await database.fetchrow(_FIND_SQL, validate_queue_name(queue_name))
    return found is not None and found["mark"] == MARK


async def _make_afresh(connection: Any, name: str) -> None:
    database = Database(connection)
    lock = (
        "select pg_catalog.pg_advisory_xact_lock("
        "pg_catalog.hashtext('meshhook.queue.' || $1::pg_catalog.text))"
    )
    await database.fetchval(lock, name)
    found = await database.fetchrow(_FIND_SQL, name)
    if found is not None and found["exists"]:
        if found["mark"] != MARK:
            raise _not_ours(name, "the demo did not make it")
        foreign = _FOREIGN_SQL.format(name, _IS_FOREIGN)
        if await database.fetchval(foreign, list(project_ids())):
            raise _not_ours(name, "it holds jobs that are not the demo's")
        await drop_queue(database, name)
    await create_queue(database, name)
    await connection.execute(f"comment on table pgmq.\"q_{name}\" is '{MARK}'")
    await set_queue_config(database, name, **QUEUE_SETTINGS)


def _not_ours(name: str, reason: str) -> DemoError:
    return DemoError(
        f"queue {name!r} exists in this database and {reason}, so the demo leaves it alone. Run "
        f"the demo on another database, or drop the queue: meshhook queue drop {name}"
    )
