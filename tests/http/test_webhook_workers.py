"""The handler in a worker: time-outs of jobs, shutdown, and the command line."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from meshhook import QueueService, get_key, set_queue_config
from support.receivers import SECRET, Receiver, delivery_to, make_handler
from support.waiting import eventually
from support.workers import live, make_worker, outcomes, stop_patiently

ENVIRONMENT = {
    "MESHHOOK_WEBHOOK_SECRET": SECRET,
    "MESHHOOK_WEBHOOK_ALLOW_HTTP": "true",
    "MESHHOOK_WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8",
}

pytestmark = pytest.mark.usefixtures("queue_name")

Pool = asyncpg.Pool
Connection = asyncpg.Connection


@pytest.mark.usefixtures("late_retries")
async def test_a_job_timeout_ends_the_delivery(
    pool: Pool[Any], connection: Connection[Any], database_url: str, receiver: Receiver
) -> None:
    """The connection is closed, and the attempt is retried."""
    receiver.is_silent = True
    await set_queue_config(pool, "jobs", job_timeout_seconds=1)
    msg_id = await QueueService[Any](pool, "jobs").enqueue(delivery_to(receiver.url))
    async with make_worker(database_url, make_handler()):
        await asyncio.wait_for(receiver.hung_up.wait(), 60)
        await eventually(lambda: outcomes(connection, msg_id))
    # The next attempt may have begun and ended as well.
    assert (await outcomes(connection, msg_id))[0] == ("retried", 1)


async def test_a_worker_that_stops_gives_its_deliveries_back(
    pool: Pool[Any],
    connection: Connection[Any],
    database_url: str,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the end of the grace period the connection is closed, and no attempt is spent."""
    stop_patiently(monkeypatch)
    receiver.is_silent = True
    msg_id = await QueueService[Any](pool, "jobs").enqueue(delivery_to(receiver.url))
    async with make_worker(database_url, make_handler(), grace_seconds=1):
        await asyncio.wait_for(receiver.arrived.wait(), 60)
    await asyncio.wait_for(receiver.hung_up.wait(), 60)
    rows = await live(connection)
    assert (rows[msg_id]["state"], rows[msg_id]["read_ct"]) == ("ready", 0)


@pytest.mark.parametrize("key", ["receiver-1", None])
async def test_the_key_of_a_receiver_that_is_gone_is_held(
    pool: Pool[Any], database_url: str, receiver: Receiver, key: str | None
) -> None:
    """What else waits for it is not sent; without a key, each delivery finds out by itself."""
    receiver.status = 410
    await set_queue_config(pool, "jobs", keyed=True)
    queue = QueueService[Any](pool, "jobs")
    await queue.enqueue(delivery_to(receiver.url), key=key)
    dead = 1 if key else 3
    async with make_worker(database_url, make_handler(), concurrency=1) as worker:
        await eventually(lambda: worker.get_stats().processed == 1)
        # Jobs that a worker has claimed before are still sent: these come after the hold.
        await queue.enqueue_many([delivery_to(receiver.url)] * 2, key=key)
        await queue.enqueue(delivery_to(receiver.url), key="other")
        await eventually(lambda: worker.get_stats().processed == dead + 1)
        found = await get_key(pool, "jobs", key or "")
    assert found.ready == 3 - dead
    assert await pool.fetchval("select count(*) from pgmq.q_jobs_dlq") == dead + 1
    if key:
        assert (found.hold_reason or "").startswith("the destination is gone: ")
    assert (found.held_until is None) is (key is None)


async def command(
    database_url: str, environment: dict[str, str], *options: str
) -> asyncio.subprocess.Process:
    """Start `meshhook worker jobs --handler meshhook.http:deliver`."""
    words = ("-W", "error", "-X", "dev", "-m", "meshhook", "worker", "jobs")
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *words,
        "--handler",
        "meshhook.http:deliver",
        *options,
        env={**os.environ, "MESHHOOK_DATABASE_URL": database_url, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def test_the_command_line_runs_it(
    pool: Pool[Any], connection: Connection[Any], database_url: str, receiver: Receiver
) -> None:
    """With settings from the environment; at its end nothing is left open or complained about."""
    msg_id = await QueueService[Any](pool, "jobs").enqueue(delivery_to(receiver.url))
    process = await command(database_url, ENVIRONMENT)
    try:
        await eventually(lambda: outcomes(connection, msg_id))
        process.terminate()
        _, output = await asyncio.wait_for(process.communicate(), 60)
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0
    assert await outcomes(connection, msg_id) == [("succeeded", 1)]
    assert b"Unclosed" not in output
    assert b"ResourceWarning" not in output
    assert SECRET.encode() not in output


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"MESHHOOK_WEBHOOK_SECRET": ""}, "MESHHOOK_WEBHOOK_SECRET"),
        ({"MESHHOOK_WEBHOOK_SECRET": "whsec_c2hvcnQ="}, "MESHHOOK_WEBHOOK_SECRET: a secret is"),
        ({"MESHHOOK_WEBHOOK_ALLOWED_NETWORKS": "10.0.0.1/8"}, "ALLOWED_NETWORKS='10.0.0.1/8'"),
    ],
)
async def test_a_wrong_environment_stops_the_worker_at_its_start(
    database_url: str, environment: dict[str, str], message: str
) -> None:
    """Rather than fail each job; the variable is named, and a secret is not shown."""
    process = await command(database_url, ENVIRONMENT | environment)
    _, output = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 2
    assert message in output.decode()
    assert "c2hvcnQ" not in output.decode()
    assert "Traceback" not in output.decode()


@pytest.mark.parametrize("package", ["aiohttp", "standardwebhooks"])
async def test_without_the_extra_the_error_names_it(
    database_url: str, tmp_path: Path, package: str
) -> None:
    """And how to install it."""
    (tmp_path / "sitecustomize.py").write_text(f"import sys; sys.modules[{package!r}] = None\n")
    process = await command(database_url, ENVIRONMENT | {"PYTHONPATH": str(tmp_path)})
    _, output = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 2
    assert f"needs {package}: pip install 'meshhook-queue[http]'" in output.decode()
