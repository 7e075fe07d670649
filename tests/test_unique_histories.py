"""Unique keys in a short random history; `make chaos` runs more of them."""

from __future__ import annotations

from typing import TypeAlias

import asyncpg
import pytest

from support.unique_history import History

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"


@pytest.mark.parametrize("seed", [1])
@pytest.mark.usefixtures("queue_name")
async def test_a_key_has_one_job_whatever_happens(database_url: str, pool: Pool, seed: int) -> None:
    """None without a committed transaction, none lost, none refused for one that never was."""
    history = History(database_url, pool, seed)
    await history.run()
    await history.check_end()
