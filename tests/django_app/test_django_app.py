"""What `meshhook.django` adds to a project: the URL of its database, its connections in jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from io import StringIO
from typing import Any

import psycopg
import pytest

from meshhook import App, InvalidSettingError
from meshhook.postgres.url import parse_database_url
from support.django_databases import django_database, set_up

set_up()

from django.core.management import CommandError, call_command  # noqa: E402
from django.db import connection  # noqa: E402

from meshhook.django.database import database_url as url_of  # noqa: E402
from meshhook.django.job_connections import with_job_connections  # noqa: E402
from meshhook.django.management.commands.meshhook_worker import Command  # noqa: E402


@pytest.fixture
def django(database_url: str) -> Iterator[Any]:
    """Django's connection `default`, to the database of the test."""
    with django_database(database_url) as own:
        yield own


def test_the_url_leads_to_djangos_database(django: Any, database_url: str) -> None:
    """Whoever connects with it is there."""
    with psycopg.connect(url_of()) as own:
        assert own.info.dbname == database_url.rpartition("/")[2]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {"NAME": "a/b", "USER": "u@x", "PASSWORD": "p:/%", "HOST": "db", "PORT": 5433},
            "postgresql://u%40x:p%3A%2F%25@db:5433/a%2Fb",
        ),
        ({"NAME": "shop", "USER": "u", "HOST": "::1"}, "postgresql://u@[::1]/shop"),
        (
            {"NAME": "shop", "USER": "u", "HOST": "/var/run/postgresql", "PORT": "5432"},
            "postgresql://u@/shop?host=%2Fvar%2Frun%2Fpostgresql&port=5432",
        ),
        (
            {
                "NAME": "shop",
                "USER": "u",
                "HOST": "db",
                "OPTIONS": {"sslmode": "require", "pool": True, "connect_timeout": 3},
            },
            "postgresql://u@db/shop?connect_timeout=3&sslmode=require",
        ),
    ],
)
def test_a_url_says_what_the_settings_say(
    django: Any, settings: dict[str, Any], expected: str
) -> None:
    """Escaped where it must be, with those of the options that a URL may have."""
    none = {"USER": "", "PASSWORD": "", "HOST": "", "PORT": "", "OPTIONS": {}}
    django.settings_dict = {**django.settings_dict, **none, **settings}
    assert url_of() == expected
    parse_database_url(expected)


def test_a_database_that_is_not_there_or_no_postgresql(
    django: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names it."""
    with pytest.raises(InvalidSettingError, match="no database 'jobs'; it has default"):
        url_of("jobs")
    monkeypatch.setattr(type(django), "vendor", "sqlite")
    with pytest.raises(InvalidSettingError, match="'default' in DATABASES is of 'sqlite'"):
        url_of()


def test_a_broken_connection_costs_one_job(django: Any, database_url: str) -> None:
    """The next job in the same thread has a new one. One that is too old is closed."""
    django.settings_dict["CONN_MAX_AGE"] = None

    def query(_: object) -> Any:
        with connection.cursor() as cursor:
            cursor.execute("select 1")
            return cursor.fetchone()[0]

    handler = with_job_connections(query)
    assert handler(None) == 1
    assert django.connection is not None
    with psycopg.connect(database_url, autocommit=True) as other:
        other.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where datname = current_database() and pid <> pg_backend_pid()"
        )
    with pytest.raises(Exception, match="connection"):
        handler(None)
    assert handler(None) == 1

    django.close()
    django.settings_dict["CONN_MAX_AGE"] = 0
    assert handler(None) == 1
    assert django.connection is None


def test_an_async_handler_stays_one(django: Any) -> None:
    """And its result and errors are its own."""

    async def handle(job: str) -> str:
        if job == "bad":
            raise ValueError(job)
        return job

    handler = with_job_connections(handle)
    assert asyncio.iscoroutinefunction(handler)
    assert asyncio.run(handler("good")) == "good"
    with pytest.raises(ValueError, match="bad"):
        asyncio.run(handler("bad"))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing.jobs:app", "app 'missing.jobs:app' cannot be imported: No module"),
        ("json:dumps", "'json:dumps' is not a meshhook.App; name it as MODULE:APP"),
        ("app", "cannot be imported"),
    ],
)
def test_what_is_no_app_is_refused(path: str, message: str) -> None:
    """The command ends with an error that names it."""
    with pytest.raises(CommandError, match=message):
        call_command(Command(stdout=StringIO()), path)


def test_a_queue_that_the_app_does_not_declare_is_refused(
    django: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the library says it."""
    monkeypatch.setattr("json.app", App(url_of()), raising=False)
    with pytest.raises(CommandError, match="orders"):
        call_command(Command(stdout=StringIO()), "json:app", "orders")
