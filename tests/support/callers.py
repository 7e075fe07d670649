"""Programs that enqueue in transactions of their own, each with another driver."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from support.django_databases import django_database


@dataclass
class Caller:
    """A program with one connection, in a transaction from its first statement on."""

    connection: Any
    """What it passes as `connection=`."""
    run: Callable[[str], Any]
    """Runs a statement, and may have to be awaited."""
    is_sync: bool = False
    """Whether its statements block."""

    async def execute(self, sql: str) -> None:
        """Run a statement."""
        await _done(self.run(sql))

    async def commit(self) -> None:
        """Commit."""
        await _done(self.connection.commit())

    async def rollback(self) -> None:
        """Roll back."""
        await _done(self.connection.rollback())


async def _done(result: Any) -> None:
    if inspect.isawaitable(result):
        await result


@asynccontextmanager
async def _psycopg(url: str) -> AsyncIterator[Caller]:
    with psycopg.connect(url) as connection:
        yield Caller(connection, connection.execute, is_sync=True)


@asynccontextmanager
async def _async_psycopg(url: str) -> AsyncIterator[Caller]:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        yield Caller(connection, connection.execute)


@asynccontextmanager
async def _sqlalchemy_connection(url: str) -> AsyncIterator[Caller]:
    engine = create_engine(url.replace("://", "+psycopg://", 1))
    with engine.connect() as connection:
        yield Caller(connection, lambda sql: connection.execute(text(sql)), is_sync=True)
    engine.dispose()


@asynccontextmanager
async def _sqlalchemy_session(url: str) -> AsyncIterator[Caller]:
    engine = create_engine(url.replace("://", "+psycopg://", 1))
    with Session(engine) as session:
        yield Caller(session, lambda sql: session.execute(text(sql)), is_sync=True)
    engine.dispose()


@asynccontextmanager
async def _sqlalchemy_async_connection(url: str) -> AsyncIterator[Caller]:
    engine = create_async_engine(url.replace("://", "+psycopg://", 1))
    async with engine.connect() as connection:
        yield Caller(connection, lambda sql: connection.execute(text(sql)))
    await engine.dispose()


@asynccontextmanager
async def _sqlalchemy_async_session(url: str) -> AsyncIterator[Caller]:
    engine = create_async_engine(url.replace("://", "+asyncpg://", 1))
    async with AsyncSession(engine) as session:
        yield Caller(session, lambda sql: session.execute(text(sql)))
    await engine.dispose()


@asynccontextmanager
async def _django(url: str) -> AsyncIterator[Caller]:
    with pytest.MonkeyPatch.context() as patch, django_database(url) as connection:
        # Django refuses to block a thread that has an event loop, as that of the test.
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
        connection.set_autocommit(False)
        yield Caller(connection, lambda sql: connection.cursor().execute(sql), is_sync=True)


CALLERS: dict[str, Any] = {
    "django": _django,
    "psycopg": _psycopg,
    "psycopg_async": _async_psycopg,
    "sqlalchemy_connection": _sqlalchemy_connection,
    "sqlalchemy_session": _sqlalchemy_session,
    "sqlalchemy_async_connection": _sqlalchemy_async_connection,
    "sqlalchemy_async_session": _sqlalchemy_async_session,
}
"""Opens each kind of caller, given a URL."""
