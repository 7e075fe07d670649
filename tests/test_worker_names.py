"""Names of workers and machines: storable, whatever the user or the system gives."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest

from meshhook import DLQService, Job, QueueService
from meshhook.errors import InvalidSettingError
from support.waiting import eventually
from support.workers import make_worker


async def nothing(_: Job[Any]) -> None:
    """Do nothing."""


@pytest.mark.usefixtures("queue_name")
@pytest.mark.parametrize("make", [QueueService, DLQService])
@pytest.mark.parametrize("name", ["a\x00b", "a\udcffb", "a" * 201, "a\nb"])
async def test_a_service_with_a_name_that_cannot_be_stored(
    pool: asyncpg.Pool[Any], make: Callable[..., object], name: str
) -> None:
    """It is refused where it is given."""
    with pytest.raises(InvalidSettingError, match="worker's name"):
        make(pool, "jobs", worker_name=name)


@pytest.mark.parametrize("name", ["", "a\x00b", "a\udcffb", "a" * 201, "a\nb", "\u202eb", 7])
def test_a_worker_with_a_name_that_cannot_be_stored(name: Any) -> None:
    """It is refused where it is given: with it no outcome would ever be recorded."""
    with pytest.raises(InvalidSettingError, match="worker's name"):
        make_worker("postgresql://localhost/x", nothing, name=name)


@pytest.mark.usefixtures("queue_name")
async def test_a_machine_whose_name_is_no_text(
    pool: asyncpg.Pool[Any], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system may have any bytes in its name: workers start, report, and record outcomes."""
    monkeypatch.setattr(socket, "gethostname", lambda: "host\udcff\x00\n" + "x" * 300)
    await QueueService[Any](pool, "jobs").enqueue({})
    async with make_worker(database_url, nothing) as worker:
        await eventually(lambda: worker.get_stats().succeeded == 1)

        async def has_reported() -> Any:
            return await pool.fetchval("select host from meshhook.workers")

        assert await eventually(has_reported) == "host???" + "x" * 93
    assert worker.name.startswith("host???x")
