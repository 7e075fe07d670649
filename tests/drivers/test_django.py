"""Enqueuing in Django's transactions: `atomic` blocks, autocommit, connections of threads."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeAlias

import asyncpg
import psycopg
import pytest

from meshhook import (
    DatabaseError,
    DatabaseUnavailableError,
    InvalidSettingError,
    MeshHookError,
    SyncQueueService,
    create_queue,
)
from support.django_databases import django_database, set_up

set_up()

from django.db import connection, connections, transaction  # noqa: E402
from django.db.backends.sqlite3.base import DatabaseWrapper as SQLite  # noqa: E402

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Service: TypeAlias = "SyncQueueService[Any]"


@pytest.fixture
async def orders(database_url: str) -> None:
    """The queue `orders`, and a table of the application's."""
    await create_queue(database_url, "orders")
    own = await asyncpg.connect(database_url)
    await own.execute("create table invoices (n int primary key)")
    await own.close()


@pytest.fixture
def django(database_url: str, orders: None) -> Iterator[Any]:
    """Django's connection `default`, to the database of the test."""
    with django_database(database_url) as connection:
        yield connection


@pytest.fixture
def service(django: Any) -> Service:
    """The service of queue `orders`, made as an application makes it, when it is imported."""
    return SyncQueueService[Any](connection, "orders")


@pytest.fixture
def observer(database_url: str, orders: None) -> Iterator[psycopg.Connection[Any]]:
    """What others see."""
    with psycopg.connect(database_url, autocommit=True) as observer:
        yield observer


def messages(observer: psycopg.Connection[Any]) -> list[Any]:
    """Return what is in the queue."""
    rows = observer.execute("select message from pgmq.q_orders order by msg_id").fetchall()
    return [row[0] for row in rows]


def insert(n: int) -> None:
    """Do what the application does."""
    with connection.cursor() as cursor:
        cursor.execute("insert into invoices values (%s)", [n])


def test_a_job_is_part_of_an_atomic_block(
    service: Service, observer: psycopg.Connection[Any]
) -> None:
    """It is there when the block has ended, or not at all when the block raises."""
    with transaction.atomic():
        insert(1)
        service.enqueue({"invoice": 1})
        assert messages(observer) == []
    assert messages(observer) == [{"invoice": 1}]

    def fail() -> None:
        with transaction.atomic():
            service.enqueue({"invoice": 2})
            insert(1)

    with pytest.raises(Exception, match="duplicate key"):
        fail()
    assert messages(observer) == [{"invoice": 1}]


def test_an_inner_block_takes_back_its_jobs(
    service: Service, observer: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outer one goes on."""
    monkeypatch.setattr("meshhook.store.sending.MAX_BATCH_MESSAGES", 2)
    with transaction.atomic():
        service.enqueue_many([1, 2, 3])
        with suppress(LookupError), transaction.atomic():
            service.enqueue_many([4, 5, 6])
            raise LookupError
        service.enqueue(7, connection=connections["default"])
    assert messages(observer) == [1, 2, 3, 7]


def test_a_refused_batch_is_taken_back_alone(
    service: Service, observer: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it is in a block or not: jobs of several statements are stored all or none."""
    monkeypatch.setattr("meshhook.store.sending.MAX_BATCH_MESSAGES", 2)
    observer.execute(
        "create function refuse() returns trigger language plpgsql as "
        "$$ begin if new.message = '9' then raise 'no'; end if; return new; end $$;"
        "create trigger refuse before insert on pgmq.q_orders "
        "for each row execute function refuse()"
    )
    with pytest.raises(MeshHookError, match="no"):
        service.enqueue_many([1, 2, 9])
    with transaction.atomic():
        service.enqueue(3)
        with pytest.raises(MeshHookError, match="no"):
            service.enqueue_many([4, 5, 9])
        service.enqueue(6)
    assert messages(observer) == [3, 6]


def test_outside_of_a_block_jobs_are_stored_at_once(
    service: Service, observer: psycopg.Connection[Any]
) -> None:
    """Django's connections are in autocommit mode."""
    service.enqueue(1)
    service.enqueue_many([2, 3])
    assert messages(observer) == [1, 2, 3]


def test_a_failed_block_takes_no_more_jobs(service: Service) -> None:
    """The error says that it has failed."""
    with transaction.atomic():
        with pytest.raises(Exception, match="division by zero"), transaction.atomic():
            connection.cursor().execute("select 1 / 0")
        service.enqueue(1)
        transaction.set_rollback(True)
        with pytest.raises(DatabaseError, match="this transaction has failed already"):
            service.enqueue(2)


def test_each_thread_has_its_own_transaction(
    service: Service, observer: psycopg.Connection[Any]
) -> None:
    """One service, made once, uses the connection of the thread that calls."""
    both_are_in = threading.Barrier(2)

    def work(n: int) -> None:
        try:
            with transaction.atomic():
                service.enqueue(n)
                both_are_in.wait(60)
                transaction.set_rollback(n == 1)
        finally:
            connection.close()

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(work, [1, 2]))
    assert messages(observer) == [2]


def test_a_connection_of_another_thread_is_refused(django: Any, service: Service) -> None:
    """As Django says it."""
    service.enqueue(1)
    with ThreadPoolExecutor(1) as threads:
        calling = threads.submit(service.enqueue, 2, connection=django)
        with pytest.raises(DatabaseUnavailableError, match="same thread"):
            calling.result()


def test_a_broken_connection_is_replaced_by_django(
    service: Service, observer: psycopg.Connection[Any]
) -> None:
    """An enqueue fails as any statement does; after `close_if_unusable_or_obsolete` it works."""
    service.enqueue(1)
    connection.errors_occurred = True
    observer.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity "
        "where datname = current_database() and pid <> pg_backend_pid()"
    )
    with pytest.raises(DatabaseUnavailableError):
        service.enqueue(2)
    connection.close_if_unusable_or_obsolete()
    service.enqueue(3)
    assert messages(observer) == [1, 3]


def test_code_in_an_event_loop_is_told_what_to_do(service: Service) -> None:
    """Django refuses to block it."""

    async def enqueue() -> None:
        service.enqueue(1)

    with pytest.raises(InvalidSettingError, match="sync_to_async"):
        asyncio.run(enqueue())


def test_another_database_than_postgresql_is_refused(service: Service) -> None:
    """By its name and kind."""
    assert sqlite3.sqlite_version
    lite = SQLite({**connections.settings["default"], "NAME": ":memory:"}, alias="lite")
    with pytest.raises(InvalidSettingError, match="database 'lite' is of 'sqlite'"):
        service.enqueue(1, connection=lite)
