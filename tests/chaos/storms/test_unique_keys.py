"""Unique keys in random histories, of each kind alone and of all of them together."""

from __future__ import annotations

from typing import TypeAlias

import asyncpg
import pytest

from meshhook.unique import UniqueFor
from support.unique_history import KINDS, LONG, SHORT, History

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300), pytest.mark.usefixtures("queue_name")]


@pytest.mark.parametrize("seed", range(2, 10))
async def test_a_key_has_one_job_whatever_happens(database_url: str, pool: Pool, seed: int) -> None:
    """However long its jobs have it, and whatever is done about conflicts."""
    history = History(database_url, pool, seed)
    await history.run()
    await history.check_end()


@pytest.mark.parametrize("kind", ["until_done", "until_started", LONG, SHORT], ids=str)
@pytest.mark.parametrize("seed", range(2))
async def test_each_kind_alone(database_url: str, pool: Pool, seed: int, kind: UniqueFor) -> None:
    """So that keys of that kind meet each other."""
    assert kind in KINDS
    history = History(database_url, pool, seed, kinds=(kind,))
    await history.run()
    await history.check_end()
