"""The moments in which a lease may get lost: each job still runs, and its history has no gap."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import asyncpg
import pytest

from meshhook import Job, QueueService
from support.chaos.counts import CLEAN
from support.chaos.faults import full_of_sessions
from support.chaos.gate import Gate
from support.chaos.servers import QUEUE, MakeServer
from support.chaos.window import Window
from support.proxy import Proxy
from support.waiting import eventually
from support.workers import wait_long_for_locks


async def succeed(_: Job[Any]) -> None:
    """Do nothing."""


async def test_the_answer_of_a_claim_is_lost(
    window: Window,
    database_url: str,
    proxy: Proxy,
    proxied_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Leases were committed, and nobody knows of them: the jobs come back, one attempt older."""
    wait_long_for_locks(monkeypatch)
    blocker = await asyncpg.connect(database_url)
    async with window.worker(succeed, url=proxied_url) as worker:
        await window.enqueue("warm")
        await window.all_ended()
        # Keeps claims waiting, and nothing else.
        await blocker.execute("begin; lock table pgmq.q_jobs in share row exclusive mode")
        await eventually(lambda: window.waits_for_a_lock("meshhook worker"))
        for run_id in ("a", "b"):
            await window.enqueue(run_id, connection=blocker)
        assert proxy.lose_answers("meshhook worker") == 1
        await blocker.execute("update pgmq.q_jobs set vt = now()")
        await blocker.execute("commit")
        await eventually(window.was_claimed)
        proxy.reset("meshhook worker")
        await window.all_ended()
        await eventually(lambda: worker.get_stats().succeeded == 3)
    await blocker.close()
    for run_id in ("a", "b"):
        assert await window.outcomes(run_id) == [(1, "lost"), (2, "succeeded")]
    assert window.counts() == CLEAN


async def test_the_connection_breaks_while_lost_attempts_are_recorded(
    window: Window, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was lost is recorded later, if it cannot be recorded when it is found."""
    wait_long_for_locks(monkeypatch)
    blocker = await asyncpg.connect(database_url)
    run_ids = [f"job{number}" for number in range(5)]
    queue = QueueService[Any](window.connection, "jobs")
    async with window.worker(succeed) as worker:
        await window.enqueue("warm")
        await window.all_ended()
        async with window.connection.transaction():
            await window.enqueue(*run_ids)
            await window.connection.execute("update pgmq.q_jobs set vt = now()")
            for run_id in run_ids:
                # Whoever claims them here is no more.
                assert await queue.dequeue(600) is not None
                window.ledger.note("started", run_id)
        await blocker.execute("begin; lock table meshhook.job_attempts in access exclusive mode")
        # Only now do the leases end: before, what was lost could be recorded.
        await window.connection.execute("update pgmq.q_jobs set vt = now()")
        await eventually(lambda: window.waits_for_a_lock("meshhook worker"))
        assert await window.terminate("meshhook worker") == 1
        await blocker.execute("rollback")
        await window.all_ended()
        await eventually(lambda: worker.get_stats().succeeded == len(run_ids) + 1)
    await blocker.close()
    for run_id in run_ids:
        assert await window.outcomes(run_id) == [(1, "lost"), (2, "succeeded")]
    assert window.counts() == CLEAN


async def test_the_connection_that_extends_leases_is_gone_while_the_server_is_full(
    make_server: MakeServer, tmp_path: Path
) -> None:
    """A job far longer than its lease runs once, although its worker cannot connect again."""
    server = make_server(max_connections="16", superuser_reserved_connections="0")
    gate = Gate()
    connection = await asyncpg.connect(server.url())
    window = Window(server.url(), connection, tmp_path, QUEUE)
    await window.set_queue(visibility_timeout_seconds=8, max_retry_attempts=4)
    async with window.worker(gate) as worker, window.worker(gate) as other:
        await window.enqueue("warm")
        await eventually(lambda: gate.waiting == 1)
        gate.open()
        await window.all_ended()
        gate.close()
        await window.enqueue("long")
        await window.lease_is_extended("long")
        with full_of_sessions(server, "meshhook leases%"):
            for _ in range(4):
                await window.lease_is_extended("long")
            gate.open()
            await window.all_ended()
        await eventually(lambda: worker.get_stats().succeeded + other.get_stats().succeeded == 2)
    assert await window.outcomes("long") == [(1, "succeeded")]
    assert len(window.noted("started")) == 2
    assert window.counts() == CLEAN
    await connection.close()
