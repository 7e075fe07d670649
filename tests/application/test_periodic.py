"""Schedules in the code of an app."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any, TypeAlias

import asyncpg
import pytest
from prometheus_client import CollectorRegistry
from pydantic import BaseModel

from meshhook import (
    App,
    DatabaseError,
    InvalidHandlerError,
    InvalidJobError,
    InvalidSettingError,
    Job,
    list_schedules,
)
from meshhook.role_kinds import RoleKind
from support.roles import Roles

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


class Feed(BaseModel):
    """The payload of these tests."""

    feed: int


async def test_a_worker_stores_the_schedules_of_its_queues_and_fires_them(
    app: App, connection: Connection
) -> None:
    """Once, whoever starts again; the handler gets the payload that is declared."""
    seen: asyncio.Queue[Feed] = asyncio.Queue()

    @app.periodic("0 9 * * 1-5", tz="Europe/Berlin", name="daily")
    @app.periodic(every=timedelta(seconds=1), payload=Feed(feed=7), overlap="skip", key="a")
    @app.job("feeds")
    async def poll(feed: Feed | dict[str, Any]) -> None:
        if isinstance(feed, Feed):
            await seen.put(feed)

    @app.periodic("@daily")
    @app.job("other")
    async def other(job: Job[Any]) -> None:
        del job

    for _ in range(2):
        async with app.workers("feeds", registry=CollectorRegistry()):
            assert await seen.get() == Feed(feed=7)
    found = await list_schedules(connection)
    assert [(each.queue, each.name, each.cron, each.every_seconds) for each in found] == [
        ("feeds", "daily", "0 9 * * 1-5", None),
        ("feeds", "poll", None, 1),
    ]
    assert [each.time_zone for each in found] == ["Europe/Berlin", "UTC"]
    assert found[1].overlap == "skip"


async def test_mistakes_are_found_where_they_are_declared(app: App) -> None:
    """A bad expression, a payload that the handler cannot take, a name twice, the wrong order."""
    with pytest.raises(InvalidSettingError, match="cron='61 9"):
        app.periodic("61 9 * * *")
    with pytest.raises(InvalidSettingError, match="'Europe/Atlantis'"):
        app.periodic("0 9 * * *", tz="Europe/Atlantis")

    @app.job("feeds")
    async def poll(feed: Feed) -> None:
        del feed

    with pytest.raises(InvalidJobError, match=r"schedule 'poll'.*feed"):
        app.periodic("0 9 * * *")(poll)
    with pytest.raises(InvalidHandlerError, match=r"above @app\.job"):
        app.periodic("0 9 * * *")(lambda _: None)  # type: ignore[type-var]
    app.periodic("0 9 * * *", payload={"feed": 7})(poll)
    with pytest.raises(InvalidSettingError, match="has a schedule 'poll' already"):
        app.periodic("0 9 * * *", payload={"feed": 7})(poll)
    with pytest.raises(InvalidSettingError, match="the name of a schedule"):
        app.periodic("0 9 * * *", name="a b")


async def test_a_role_that_may_not_store_it_says_so(
    app: App, connection: Connection, database_url: str
) -> None:
    """The worker does not start; if the schedule is there as it is declared, it does."""
    seen = asyncio.Event()

    @app.periodic("0 9 * * *")
    @app.job("feeds")
    async def poll(job: Job[Any]) -> None:
        del job
        seen.set()

    await app.create_missing_queues()
    async with Roles(database_url, connection) as roles:
        worker = roles.url(await roles.make(RoleKind.WORKER, "feeds"))
        await app.close()
        app.use_database(worker)
        with pytest.raises(DatabaseError, match="meshhook schedule add feeds poll"):
            async with app.workers(registry=CollectorRegistry()):
                pass
        await app.close()
        app.use_database(database_url)
        await app.prepare(["feeds"])
        await app.close()
        app.use_database(worker)
        async with app.workers(registry=CollectorRegistry()):
            pass
