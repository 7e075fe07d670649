"""When the server refuses a command, the message says why, and never calls it a bug."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from urllib.parse import urlsplit

import asyncpg
import pytest

from meshhook.cli.connecting import Target


@pytest.fixture
def _locked(jobs: str, database_url: str) -> Iterator[None]:
    """A session that holds the table of the queue `jobs` locked."""
    loop = asyncio.new_event_loop()
    connection = loop.run_until_complete(asyncpg.connect(database_url))
    loop.run_until_complete(connection.execute(f"begin; lock table pgmq.q_{jobs}"))
    yield
    loop.run_until_complete(connection.close())
    loop.close()


@pytest.mark.usefixtures("_locked")
@pytest.mark.parametrize(
    "command",
    [
        ["queue", "list"],
        ["stats"],
        ["jobs", "list"],
        ["jobs", "show", "jobs", "1"],
        ["enqueue", "jobs", "1"],
    ],
)
def test_a_table_that_is_locked_is_said_to_be(cli, monkeypatch, command):
    """After ten seconds, or the URL's own limit, the command fails instead of hanging."""
    monkeypatch.setattr("meshhook.cli.connecting.LOCK_TIMEOUT_SECONDS", 0.2)
    said = cli.fails(1, *command)
    assert "another session holds a lock for too long" in said
    assert "pg_stat_activity" in said


@pytest.mark.usefixtures("_locked")
def test_a_limit_of_the_url_goes_before(cli, database_url):
    """`?lock_timeout=` in the URL overrides the ten seconds."""
    cli.use(f"{database_url}?lock_timeout=1ms")
    assert "another session holds a lock" in cli.fails(1, "queue", "list")


@pytest.mark.usefixtures("_locked")
def test_a_statement_that_took_too_long_is_said_to_have(cli, database_url):
    """The server's statement_timeout is named."""
    cli.use(f"{database_url}?statement_timeout=100ms")
    said = cli.fails(1, "queue", "list")
    assert "the server stopped a statement: canceling statement due to statement timeout" in said


def test_a_server_that_is_full_is_said_to_be(cli, sql, database_url):
    """The message does not blame the URL."""
    role = f"full_{urlsplit(database_url).path[-16:]}"
    sql(f"create role {role} login password 'x' connection limit 0")
    try:
        cli.use(database_url.replace(urlsplit(database_url).netloc.split("@")[0], f"{role}:x"))
        said = cli.fails(4, "queue", "list")
    finally:
        sql(f"drop role {role}")
    assert f'too many connections for role "{role}"' in said
    assert "the server is running but accepts no more connections" in said
    assert "check MESHHOOK_DATABASE_URL" not in said


def test_what_a_command_connects_to_shows_no_password():
    """Neither in a traceback with values nor in a log."""
    target = Target(
        "postgresql://me:hunter2@host/name",
        pooled=False,
        is_embedded=False,
        listen_url="postgresql://me:hunter2@other/name",
    )
    assert "hunter2" not in repr(target)
    assert "hunter2" not in target.place


@pytest.mark.parametrize("raw", ["hun@ter/2", "hun/ter2", "hun#ter2", "hun?ter2", "hun@ter2"])
def test_nothing_of_a_password_that_is_not_encoded_is_shown(bare_cli, raw):
    """Even where its raw characters shift the URL's parts; the message says how to encode it."""
    bare_cli.use(f"postgresql://me:{raw}@127.0.0.1:1/name")
    said = bare_cli.fails(2, "queue", "list")
    assert "ter2" not in said
    assert "ter/2" not in said
    assert "%40" in said
