"""Databases for tests on one server: created, cloned, prepared and dropped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest

from meshhook.embedded import EmbeddedPostgres
from meshhook.testing import Databases
from meshhook.testing.databases import APPLICATION_NAME, name_of, url_of
from support.waiting import eventually


@pytest.fixture
def own(postgres: EmbeddedPostgres) -> Iterator[Databases]:
    """Databases with a prefix that only this test uses."""
    databases = Databases(postgres.url(), prefix="own_")
    yield databases
    databases.drop_all()
    databases.close()


async def names(connection: asyncpg.Connection[Any]) -> set[str]:
    """Return the names of the databases of this test."""
    rows = await connection.fetch("select datname from pg_database where datname like 'own\\_%'")
    return {row["datname"] for row in rows}


async def test_a_clone_has_what_its_template_has(
    own: Databases, connection: asyncpg.Connection[Any]
) -> None:
    """A clone has the tables of its template, and can be dropped while it is in use."""

    async def prepare(template: asyncpg.Connection[asyncpg.Record]) -> None:
        await template.execute("create table customers ()")

    template = own.create_template(prepare)
    url = own.create(template=template)
    clone = await asyncpg.connect(url)
    assert await clone.fetch("select * from public.customers") == []
    assert await names(connection) == {template, name_of(url)}

    own.drop(url)  # also while somebody is connected

    assert await names(connection) == {template}
    await eventually(clone.is_closed)


async def test_a_template_that_cannot_be_prepared_is_dropped(
    own: Databases, connection: asyncpg.Connection[Any]
) -> None:
    """If preparing a template fails, it is dropped and the error is raised."""

    async def prepare(_: object) -> None:
        raise ValueError("not so")

    with pytest.raises(ValueError, match="not so"):
        own.create_template(prepare)
    assert await names(connection) == set()


async def test_a_session_that_was_ended_is_replaced(
    own: Databases, connection: asyncpg.Connection[Any]
) -> None:
    """If a test ends the session that creates databases, a new one is opened."""
    await connection.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name = $1",
        APPLICATION_NAME,
    )
    await eventually(own._connection.is_closed)
    assert name_of(own.create()) in await names(connection)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://u:p%40@h:5/a", "postgresql://u:p%40@h:5/b c"),
        (
            "postgresql://h/a?sslmode=require&dbname=x",
            "postgresql://h/b c?sslmode=require&dbname=x",
        ),
        ("postgresql:///?host=/run/pg", "postgresql:///b c?host=/run/pg"),
    ],
)
def test_the_url_of_another_database_differs_in_its_name(url: str, expected: str) -> None:
    """Only the name of the database changes in the URL."""
    found = url_of(url, "b c")
    assert found == expected.replace("b c", "b%20c")
    assert name_of(found) == "b c"
