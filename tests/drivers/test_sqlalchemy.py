"""What only SQLAlchemy has: sessions and their flushes, savepoints, scopes, isolation levels."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import asyncpg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, scoped_session, sessionmaker

from meshhook import (
    DatabaseConflictError,
    DatabaseError,
    DatabaseReadOnlyError,
    DatabaseUnavailableError,
    InvalidSettingError,
    QueueService,
    create_queue,
)

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Service: TypeAlias = "QueueService[Any]"

UNREACHABLE = "postgresql://nobody@127.0.0.1:1/none"


class Base(DeclarativeBase):
    """The models."""


class Invoice(Base):
    """A row of the application's."""

    __tablename__ = "invoices"
    n: Mapped[int] = mapped_column(primary_key=True)


@pytest.fixture
async def service(connection: Connection) -> AsyncIterator[Service]:
    """The service of queue `orders`, beside a table of the application's."""
    await create_queue(connection, "orders")
    await connection.execute("create table invoices (n int primary key)")
    async with QueueService[Any](UNREACHABLE, "orders") as service:
        yield service


@pytest.fixture(params=["asyncpg", "psycopg"])
async def engine(request: pytest.FixtureRequest, database_url: str) -> AsyncIterator[AsyncEngine]:
    """An engine on each asynchronous driver."""
    engine = create_async_engine(database_url.replace("://", f"+{request.param}://", 1))
    yield engine
    await engine.dispose()


async def count(connection: Connection) -> int:
    """Return how many messages others see."""
    number: int = await connection.fetchval("select count(*) from pgmq.q_orders")
    return number


async def test_models_and_jobs_are_stored_together(
    engine: AsyncEngine, service: Service, connection: Connection
) -> None:
    """Or neither, when a flush at the end fails."""

    async def create_invoice(n: int) -> None:
        async with AsyncSession(engine) as session, session.begin():
            session.add(Invoice(n=n))
            await service.enqueue({"invoice": n}, connection=session)

    await create_invoice(1)
    with pytest.raises(IntegrityError):
        await create_invoice(1)
    await create_invoice(2)
    rows = await connection.fetch("select message::text from pgmq.q_orders order by msg_id")
    assert [row[0] for row in rows] == ['{"invoice": 1}', '{"invoice": 2}']


async def test_a_nested_transaction_takes_back_its_jobs(
    engine: AsyncEngine, service: Service, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the session goes on after an enqueue in it was refused by the server."""
    monkeypatch.setattr("meshhook.store.sending.MAX_BATCH_MESSAGES", 2)
    await connection.execute(
        "create function refuse() returns trigger language plpgsql as "
        "$$ begin if new.message = '9' then raise 'no'; end if; return new; end $$;"
        "create trigger refuse before insert on pgmq.q_orders "
        "for each row execute function refuse()"
    )
    async with AsyncSession(engine) as session, session.begin():
        await service.enqueue(1, connection=session)
        nested = await session.begin_nested()
        await service.enqueue_many([2, 3, 4], connection=session)
        await nested.rollback()
        nested = await session.begin_nested()
        with pytest.raises(DatabaseError, match="no"):
            await service.enqueue(9, connection=session)
        await nested.rollback()
        await service.enqueue(5, connection=session)
    assert await count(connection) == 2


async def test_with_autocommit_jobs_are_stored_at_once(
    engine: AsyncEngine, service: Service, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many statements they take."""
    monkeypatch.setattr("meshhook.store.sending.MAX_BATCH_MESSAGES", 2)
    async with AsyncSession(engine.execution_options(isolation_level="AUTOCOMMIT")) as session:
        await service.enqueue_many([1, 2, 3, 4, 5], connection=session)
        assert await count(connection) == 5
        await service.enqueue(6, connection=session)
        assert await count(connection) == 6


async def test_scoped_sessions_are_taken(
    engine: AsyncEngine, database_url: str, service: Service, connection: Connection
) -> None:
    """The session of the current scope is the one that counts."""
    scope = async_scoped_session(async_sessionmaker(engine), scopefunc=lambda: 1)
    await service.enqueue(1, connection=scope)
    await scope.commit()
    await scope.remove()
    blocking = create_engine(database_url.replace("://", "+psycopg://", 1))
    threads = scoped_session(sessionmaker(blocking))
    await service.enqueue(2, connection=threads)
    threads.rollback()
    threads.remove()
    blocking.dispose()
    assert await count(connection) == 1


async def test_errors_of_the_server_mean_what_they_mean_with_asyncpg(
    engine: AsyncEngine, service: Service, connection: Connection
) -> None:
    """By their SQLSTATE, whatever the driver."""
    async with engine.connect() as own:
        await own.execute(text("set transaction read only"))
        with pytest.raises(DatabaseReadOnlyError):
            await service.enqueue(1, connection=own)
        await own.rollback()
        await connection.execute(
            "create function refuse() returns trigger language plpgsql as "
            "$$ begin raise 'again' using errcode = '40001'; end $$;"
            "create trigger refuse before insert on pgmq.q_orders "
            "for each row execute function refuse()"
        )
        with pytest.raises(DatabaseConflictError, match="again"):
            await service.enqueue(1, connection=own)


async def test_what_cannot_be_used_is_an_unavailable_database(
    engine: AsyncEngine, service: Service
) -> None:
    """A connection that is closed, and a session whose engine reaches no server."""
    async with engine.connect() as closed:
        pass
    with pytest.raises(DatabaseUnavailableError, match="cannot be used"):
        await service.enqueue(1, connection=closed)
    url = UNREACHABLE.replace("://", f"+{engine.driver}://", 1)
    nowhere = create_async_engine(url)
    async with AsyncSession(nowhere) as session:
        with pytest.raises((DatabaseUnavailableError, OSError)):
            await service.enqueue(1, connection=session)
    await nowhere.dispose()


async def test_an_engine_is_refused(engine: AsyncEngine, service: Service) -> None:
    """It has no transaction; the error says what to pass."""
    for given in (engine, engine.sync_engine):
        with pytest.raises(InvalidSettingError, match="that your transaction is on is taken by"):
            await service.enqueue(1, connection=given)
