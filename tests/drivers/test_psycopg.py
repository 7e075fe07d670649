"""What only psycopg has: autocommit, cursors and rows of the caller's, pipelines, pools."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import asyncpg
import psycopg
import pytest
from psycopg.rows import dict_row, scalar_row

from meshhook import InvalidSettingError, QueueService, create_queue
from meshhook.errors import DatabaseConflictError, DatabaseReadOnlyError, UnstorableTextError

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Service: TypeAlias = "QueueService[Any]"

UNREACHABLE = "postgresql://nobody@127.0.0.1:1/none"


@pytest.fixture
async def service(connection: Connection) -> AsyncIterator[Service]:
    """The service of queue `orders`."""
    await create_queue(connection, "orders")
    async with QueueService[Any](UNREACHABLE, "orders") as service:
        yield service


async def count(connection: Connection) -> int:
    """Return how many messages others see."""
    number: int = await connection.fetchval("select count(*) from pgmq.q_orders")
    return number


async def test_in_autocommit_mode_jobs_are_stored_at_once(
    database_url: str, service: Service, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All or none, however many statements they take; inside a block they are part of it."""
    monkeypatch.setattr("meshhook.store.sending.MAX_BATCH_MESSAGES", 2)
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as own:
        await service.enqueue(1, connection=own)
        assert await count(connection) == 1
        await service.enqueue_many([2, 3, 4], connection=own)
        assert await count(connection) == 4

        async with own.transaction(force_rollback=True):
            await service.enqueue_many([5, 6, 7], connection=own)
        assert await count(connection) == 4

        await connection.execute(
            "create function refuse() returns trigger language plpgsql as "
            "$$ begin if new.message = '9' then raise 'no'; end if; return new; end $$;"
            "create trigger refuse before insert on pgmq.q_orders "
            "for each row execute function refuse()"
        )
        with pytest.raises(Exception, match="no"):
            await service.enqueue_many([8, 8, 9], connection=own)
        assert await count(connection) == 4
        await service.enqueue(10, connection=own)
        assert await count(connection) == 5


@pytest.mark.parametrize("rows", [dict_row, scalar_row])
@pytest.mark.parametrize("cursors", [psycopg.ClientCursor, psycopg.RawCursor, psycopg.Cursor])
async def test_the_callers_cursors_and_rows_make_no_difference(
    database_url: str, service: Service, connection: Connection, rows: Any, cursors: Any
) -> None:
    """Whatever its connection was made with."""
    with psycopg.connect(database_url, row_factory=rows, cursor_factory=cursors) as own:
        assert await service.enqueue({"%s": "$1"}, connection=own) == 1
        assert await service.enqueue_many(["%(a)s"], headers={"h": "%"}, connection=own) == [2]
    assert await count(connection) == 2


async def test_a_pipeline_enqueues(
    database_url: str, service: Service, connection: Connection
) -> None:
    """The id is there when the call returns."""
    async with (
        await psycopg.AsyncConnection.connect(database_url) as own,
        own.pipeline(),
    ):
        await own.execute("create table mine ()")
        assert await service.enqueue(1, connection=own) == 1
    assert await count(connection) == 1


async def test_errors_of_the_server_mean_what_they_mean_with_asyncpg(
    database_url: str, service: Service, connection: Connection
) -> None:
    """By their SQLSTATE."""
    with psycopg.connect(database_url) as own:
        own.read_only = True
        with pytest.raises(DatabaseReadOnlyError):
            await service.enqueue(1, connection=own)
        own.rollback()
        own.read_only = False
        await connection.execute(
            "create function refuse() returns trigger language plpgsql as "
            "$$ begin raise 'again' using errcode = new.message #>> '{}'; end $$;"
            "create trigger refuse before insert on pgmq.q_orders "
            "for each row execute function refuse()"
        )
        for sqlstate, kind in (
            ("40001", DatabaseConflictError),
            ("40P01", DatabaseConflictError),
            ("22P05", UnstorableTextError),
        ):
            with pytest.raises(kind, match="again"):
                await service.enqueue(sqlstate, connection=own)
            own.rollback()


async def test_a_text_that_the_connection_cannot_send(
    databases: Any, database_url: str, service: Service
) -> None:
    """It is refused by its character, as one that the database cannot hold."""
    with psycopg.connect(database_url, client_encoding="latin1") as own:
        with pytest.raises(UnstorableTextError, match="cannot send"):
            await service.enqueue("Ž", connection=own)
        assert await service.enqueue("é", connection=own) == 1


async def test_what_is_no_connection_is_refused(database_url: str, service: Service) -> None:
    """A cursor, and a class."""
    with (
        psycopg.connect(database_url) as own,
        pytest.raises(InvalidSettingError, match=r"got psycopg.Cursor; .* is taken by enqueue"),
    ):
        await service.enqueue(1, connection=own.cursor())
    with pytest.raises(InvalidSettingError, match=r"got the class psycopg\.Connection"):
        await service.enqueue(1, connection=psycopg.Connection)
