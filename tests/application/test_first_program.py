"""The first programs of the README, as a reader runs them."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from meshhook import get_queue_config
from support.waiting import eventually

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.timeout(600)
async def test_the_first_program_ships_what_the_second_one_orders(
    database_url: str, pool: asyncpg.Pool[Any], tmp_path: Path
) -> None:
    """Whichever starts first creates the queue; the job is done, with its run's name."""
    environment = os.environ | {"MESHHOOK_DATABASE_URL": database_url}
    producer = await asyncio.create_subprocess_exec(
        *(sys.executable, str(EXAMPLES / "place_order.py")), env=environment, cwd=tmp_path
    )
    assert await asyncio.wait_for(producer.wait(), 60) == 0
    assert (await get_queue_config(pool, "orders")).max_retry_attempts == 5
    worker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-u", "-m", "meshhook", "worker", "--app", "orders:app"),
        env=environment,
        cwd=EXAMPLES,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert worker.stdout is not None
        assert await asyncio.wait_for(worker.stdout.readline(), 60) == b"shipping order 1\n"

        async def is_done() -> Any:
            return await pool.fetchval("select run_id from meshhook.job_attempts")

        assert await eventually(is_done) == "run-1"
        worker.terminate()
        assert await asyncio.wait_for(worker.wait(), 60) == 0
    finally:
        if worker.returncode is None:
            worker.kill()
        await worker.communicate()  # so that no pipe stays open
