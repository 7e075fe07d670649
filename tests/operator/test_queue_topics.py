"""`spec.topics` in a real database: exactly what is declared is bound."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TypeAlias

import asyncpg
import pytest
from prometheus_client import CollectorRegistry

from meshhook import bind_topic, create_queue, list_topic_bindings
from meshhook.role_kinds import RoleKind
from meshhook.topics import checked_pattern
from meshhook_operator.api.jobqueue import ObjectKey
from meshhook_operator.databases.database import DatabaseAddress, QueueDatabase
from meshhook_operator.errors import NotLeadingError
from meshhook_operator.reconciliation import queue_topics
from meshhook_operator.reconciliation.queue_topics import QueueTopics
from support.jobqueues import jobqueue
from support.roles import Roles

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

KEY = ObjectKey("shop", "jobs")


def make(url: str) -> QueueDatabase:
    """Return the operator's view of a database."""
    return QueueDatabase(
        DatabaseAddress(url, pooled=False),
        on_wake=lambda _: None,
        on_identity=lambda: None,
        registry=CollectorRegistry(),
    )


@pytest.fixture
async def database(database_url: str, queue_name: str) -> AsyncIterator[QueueDatabase]:
    """The operator's view of the database."""
    database = make(database_url)
    yield database
    await database.close()


@pytest.fixture
def topics() -> QueueTopics:
    """The topics of queue `jobs`."""
    return QueueTopics(KEY, check_may_write=lambda _: None)


async def bound(connection: Connection) -> list[tuple[str, str]]:
    """Return queues and patterns that are bound."""
    return [(each.queue, each.pattern) for each in await list_topic_bindings(connection)]


async def test_exactly_what_is_declared_is_bound(
    database: QueueDatabase,
    connection: Connection,
    topics: QueueTopics,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was bound by hand goes, what was unbound comes back, other queues keep theirs."""
    monkeypatch.setattr(queue_topics, "LOOK_SECONDS", 0.0)
    await create_queue(connection, "others")
    await bind_topic(connection, "others", "a.#")
    await bind_topic(connection, "jobs", "by.hand")
    await topics.ensure(None, "jobs", database)
    assert ("jobs", "by.hand") in await bound(connection)
    await topics.ensure(["a.*", "b"], "jobs", database)
    assert await bound(connection) == [("jobs", "a.*"), ("jobs", "b"), ("others", "a.#")]
    await topics.ensure([], "jobs", database)
    assert await bound(connection) == [("others", "a.#")]
    assert topics.finding is None


async def test_it_is_not_looked_at_each_tick(
    database: QueueDatabase, connection: Connection, topics: QueueTopics
) -> None:
    """A change of the spec is written at once, a change by hand is found later."""
    await topics.ensure(["a"], "jobs", database)
    await bind_topic(connection, "jobs", "b")
    await topics.ensure(["a"], "jobs", database)
    assert len(await bound(connection)) == 2
    await topics.ensure(["c"], "jobs", database)
    assert await bound(connection) == [("jobs", "c")]


async def test_who_does_not_lead_binds_nothing(
    database: QueueDatabase, connection: Connection
) -> None:
    """It is asked before the first change."""

    def refuse(_: str) -> None:
        raise NotLeadingError("another process leads")

    with pytest.raises(NotLeadingError):
        await QueueTopics(KEY, check_may_write=refuse).ensure(["a"], "jobs", database)
    assert await bound(connection) == []


async def test_an_operator_with_a_role_of_its_own_binds(
    database_url: str, connection: Connection, queue_name: str, topics: QueueTopics
) -> None:
    """Its role may write bindings of each queue."""
    async with Roles(database_url, connection) as roles:
        database = make(roles.url(await roles.make(RoleKind.OPERATOR)))
        await topics.ensure(["a"], "jobs", database)
        await database.close()
    assert topics.finding is None
    assert await bound(connection) == [("jobs", "a")]


async def test_a_pgmq_without_topics_is_told_of(
    pgmq_database: Connection, pgmq_database_url: str, pgmq_version: str, topics: QueueTopics
) -> None:
    """Ready says which version is needed; nothing else stops."""
    await create_queue(pgmq_database, "jobs")
    database = make(pgmq_database_url)
    await topics.ensure(["a"], "jobs", database)
    await database.close()
    if pgmq_version == "1.5.1":
        assert topics.finding is not None
        assert (topics.finding.holds, topics.finding.reason) == (False, "TopicsNotBound")
        assert "spec.topics: topics need PGMQ 1.11.0 or newer" in topics.finding.message
    else:
        assert topics.finding is None


def test_a_pattern_that_pgmq_refuses_is_named() -> None:
    """Before anything is written."""
    for pattern in ("a..b", ".a", "a.", "a.**", "*#", "a b", "", "a#*b"):
        assert jobqueue(topics=["fine", pattern]).problem.startswith("spec.topics.1: String should")
    for pattern in ("a.*", "#", "*", "a*b#c.#d", "#.error", "-_.9"):
        assert jobqueue(topics=[pattern]).spec is not None
        assert checked_pattern(pattern) == pattern
