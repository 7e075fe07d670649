"""The statements in `sql/`: each is valid, says what it locks, and is used."""

from __future__ import annotations

import re
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import pytest

import meshhook
from meshhook.errors import InvalidQueueNameError
from meshhook.store import queries
from support.pgmq_versions import PGMQ_VERSIONS

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

PACKAGE = Path(meshhook.__file__).parent
NAMES = sorted(
    path.name.removesuffix(".sql")
    for path in resources.files("meshhook.store").joinpath("sql").iterdir()
    if path.name.endswith(".sql")
)
OF_TOPICS = {"list_topic_bindings"}
WRITING = re.compile(r"\b(insert into|update \{|update mesh|delete from|for update|setval)\b")


def variants(name: str, tables: queries.QueueTables | str, target: str) -> set[str]:
    """Return the texts of a statement with and without each of its optional parts."""
    return {
        queries.load(
            name,
            tables,
            target=target,
            has_breakers=has_breakers,
            has_links=has_links,
            keeps_bodies=keeps_bodies,
            prefers_lz4=keeps_bodies,
        )
        for has_breakers, has_links, keeps_bodies in product((False, True), repeat=3)
    }


def head(name: str) -> str:
    """Return the comment that a statement starts with, as one line."""
    lines = queries.load(name).split("\n")
    comment = [line.removeprefix("--") for line in lines[: first_of_the_statement(lines)]]
    return " ".join(" ".join(comment).split())


def first_of_the_statement(lines: list[str]) -> int:
    """Return the number of comment lines at the start."""
    return next(n for n, line in enumerate(lines) if not line.startswith("--"))


def test_there_are_statements() -> None:
    """The files are found in the installed package."""
    assert {"claim", "settle", "enqueue", "extend", "release", "wait"} <= set(NAMES)


@pytest.mark.database  # it asks for its database only when it runs
@pytest.mark.parametrize("version", PGMQ_VERSIONS)
async def test_each_can_be_prepared(version: str, request: pytest.FixtureRequest) -> None:
    """The migrated database knows every table, column and function that a statement names."""
    databases = request.getfixturevalue("databases")
    url = databases.create(template=request.getfixturevalue("pgmq_template")(version))
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("select meshhook.create_queue('my-jobs')")
        await connection.execute("select meshhook.create_queue('other')")
        for name in NAMES:
            for has_last_read_at in {version != "1.5.1", False}:
                tables = queries.QueueTables("my-jobs", has_last_read_at=has_last_read_at)
                try:
                    for sql in variants(name, tables, "other"):
                        await connection.prepare(sql)
                except asyncpg.UndefinedTableError as error:
                    # PGMQ has topics from 1.11 on; sql/has_topics.sql asks first.
                    if name not in OF_TOPICS or version != "1.5.1":
                        pytest.fail(f"{name}.sql on PGMQ {version}: {error}")
                except asyncpg.PostgresError as error:
                    pytest.fail(f"{name}.sql on PGMQ {version}: {error}")
    finally:
        await connection.close()
        databases.drop(url)


@pytest.mark.parametrize("name", NAMES)
def test_each_has_a_caller(name: str) -> None:
    """Every statement is run by something."""
    wanted = re.compile(rf"""["']{name}["']""")
    callers = [
        path
        for path in PACKAGE.rglob("*.py")
        if "queries" in (text := path.read_text("utf-8")) and wanted.search(text)
    ]
    assert callers, f"no module of the package loads sql/{name}.sql"


def test_each_that_is_loaded_is_there() -> None:
    """No module asks for a statement that does not exist."""
    loaded = {
        name
        for path in PACKAGE.rglob("*.py")
        for name in re.findall(r"""queries\.load\(\s*["'](\w+)["']""", path.read_text("utf-8"))
    }
    assert loaded - set(NAMES) == set()
    assert len(loaded) > len(NAMES) / 2


@pytest.mark.parametrize("name", NAMES)
def test_each_says_what_it_locks(name: str) -> None:
    """The comment at the start says what the statement does and what it locks."""
    comment = head(name)
    assert re.match(r"[A-Z]", comment), "the first line is a comment that says what it does"
    assert "Locks: " in comment
    lines = queries.load(name).split("\n")
    statement = "\n".join(lines[first_of_the_statement(lines) :])
    if WRITING.search(statement):
        says_none = re.search(r"Locks: none(?! but)", comment)
        assert not says_none or "setval" in statement, "it writes, so it locks"


@pytest.mark.parametrize("name", NAMES)
def test_each_is_one_statement(name: str) -> None:
    """A file has one query, in lower case, without a semicolon, in lines of 100 characters."""
    text = (PACKAGE / "store" / "sql" / f"{name}.sql").read_text("utf-8")
    lines = text.split("\n")
    statement = "\n".join(lines[first_of_the_statement(lines) :])
    assert ";" not in re.sub(r"'[^']*'|--.*", "", statement)
    assert text.endswith("\n")
    assert max(map(len, lines)) <= 100
    assert not re.search(r"\b(SELECT|FROM|WHERE|INSERT|UPDATE|DELETE)\b", statement)


@pytest.mark.parametrize("name", NAMES)
def test_no_placeholder_is_left(name: str) -> None:
    """With a queue and a target every name is filled in, and no other braces are read as names."""
    for filled in variants(name, "jobs", "other"):
        assert re.findall(r"\{/?[a-z_]+\}", filled) == []


def test_a_queue_without_breakers_and_links_pays_for_none() -> None:
    """Its jobs are settled by a statement that names nothing of them; with them, it has more."""
    extra = re.compile(r"unique_key|group_id|follow_ups|announce|\$18|record_key|result")
    for name in ("settle", "settle_succeeded"):
        lines = queries.load(name, "jobs").split("\n")
        plain = "\n".join(lines[first_of_the_statement(lines) :])
        assert extra.findall(plain) == []
        assert max(map(len, variants(name, "jobs", "other"))) > len(plain)
    full = queries.load("settle", "jobs", has_breakers=True, has_links=True)
    assert len(set(extra.findall(full))) == 7


def test_names_are_checked_before_they_are_put_in() -> None:
    """No text but a valid name becomes part of a statement."""
    for name in ('jobs"; drop table x; --', "Jobs", "", "jobs_dlq"):
        with pytest.raises(InvalidQueueNameError):
            queries.load("claim", name)
        with pytest.raises(InvalidQueueNameError):
            queries.load("replay_dead_letters", "jobs", target=name)


def test_an_optional_column_is_left_out() -> None:
    """Queues of an old PGMQ lack last_read_at."""
    with_it = queries.load("claim", queries.QueueTables("jobs"))
    without = queries.load("claim", queries.QueueTables("jobs", has_last_read_at=False))
    assert "last_read_at = pg_catalog.now()" in with_it
    assert "last_read_at" not in without


def test_a_statement_that_is_not_there() -> None:
    """A mistyped name is found at once."""
    with pytest.raises(FileNotFoundError):
        queries.load("no_such_statement")


async def test_a_statement_runs_whatever_the_search_path_is(
    database_url: str, queue_name: str
) -> None:
    """Preparing all of them works for a role whose search path is empty."""
    settings: dict[str, Any] = {"search_path": ""}
    connection = await asyncpg.connect(database_url, server_settings=settings)
    try:
        for name in NAMES:
            for sql in variants(name, queue_name, queue_name):
                await connection.prepare(sql)
        assert await connection.fetchval("select meshhook.create_queue('other')")
        await connection.fetch("select * from meshhook.queue_monitoring")
        await connection.fetch("select * from meshhook.job_tracking")
        await connection.execute(queries.load("create_attempt_partitions"))
        await connection.execute(queries.load("drop_expired_attempt_partitions"))
        await connection.execute(queries.load("delete_expired_attempts"))
        assert await connection.fetchval("select meshhook.drop_queue('other')")
    finally:
        await connection.close()
