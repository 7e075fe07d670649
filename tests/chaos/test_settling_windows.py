"""The moments in which an outcome may get lost on its way: each job still ends once."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from meshhook import DeadLetter, Job
from meshhook.errors import UncertainCommitError
from meshhook.worker.connections import WorkerConnection
from support.chaos.counts import CLEAN
from support.chaos.gate import Gate
from support.chaos.window import Window
from support.proxy import Proxy
from support.waiting import eventually
from support.workers import wait_long_for_locks


async def complete(job: Job[Any], connection: asyncpg.Connection[Any]) -> None:
    """Settle a job in one transaction with its effect."""
    async with connection.transaction():
        await connection.execute("insert into effects (run_id) values ($1)", str(job.run_id))
        await job.complete(connection=connection)


async def warm_up(window: Window, gate: Gate, *, kind: str = "ok") -> None:
    """Let one job go the whole way, so that every connection is open and has its statements."""
    gate.open()
    await window.enqueue("warm", kind=kind)
    await window.all_ended()
    gate.close()


@pytest.mark.parametrize("kind", ["ok", "dead"])
async def test_the_answer_of_a_settlement_is_lost(
    window: Window, proxy: Proxy, proxied_url: str, kind: str
) -> None:
    """The outcome was committed, and the connection breaks before the worker hears of it."""
    gate = Gate()

    async def behave(job: Job[Any]) -> None:
        await gate(job)
        if job.payload["kind"] == "dead":
            raise DeadLetter("asked for")

    async with window.worker(behave, url=proxied_url) as worker:
        await warm_up(window, gate, kind=kind)
        # The answer of the first settlement is not the one that is lost.
        await eventually(lambda: worker.get_stats().processed == 1)
        await window.enqueue("a", kind=kind)
        await eventually(lambda: gate.waiting == 1)
        assert proxy.lose_answers("meshhook settle") == 1
        gate.open()
        await window.all_ended()
        assert worker.get_stats().processed == 1
        proxy.reset("meshhook settle")
        await eventually(lambda: worker.get_stats().processed == 2)
    assert window.counts() == CLEAN


async def test_a_connection_through_a_pooler_breaks_in_a_transaction(
    window: Window, database_url: str, proxy: Proxy, proxied_url: str
) -> None:
    """It is said to be uncertain whether the statement took effect, so that somebody looks."""
    blocker = await asyncpg.connect(database_url)
    await blocker.execute("begin; lock table effects")
    connection = WorkerConnection(
        proxied_url, application_name="pooled", pooled=True, lock_timeout_seconds=60
    )
    asking = asyncio.create_task(
        connection.fetch("insert into public.effects (run_id) values ('a')")
    )
    await eventually(lambda: window.waits_for_a_lock("pooled"))
    proxy.reset("pooled")
    with pytest.raises(UncertainCommitError):
        await asking
    await blocker.close()
    await connection.close()


async def test_a_settlement_is_cut_off_before_it_arrives(
    window: Window, proxy: Proxy, proxied_url: str
) -> None:
    """The connection swallows the outcome and breaks: it is sent again, and recorded once."""
    gate = Gate()
    async with window.worker(gate, url=proxied_url) as worker:
        await warm_up(window, gate)
        await window.enqueue("a", "b")
        await eventually(lambda: gate.waiting == 2)
        assert proxy.swallow("meshhook settle") == 1
        gate.open()
        await eventually(lambda: len(window.ended()) == 3)
        proxy.reset("meshhook settle")
        await window.all_ended()
        await eventually(lambda: worker.get_stats().succeeded == 3)
    assert window.counts() == CLEAN


@pytest.mark.parametrize("ending", ["returns", "raises"])
async def test_the_answer_of_a_settlement_is_lost_after_the_job_was_completed(
    window: Window, database_url: str, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the handler completed in its own transaction counts as succeeded, not as retried."""
    wait_long_for_locks(monkeypatch)
    effects = await asyncpg.connect(database_url)
    blocker = await asyncpg.connect(database_url)

    async def behave(job: Job[Any]) -> None:
        if job.run_id == "warm":
            return
        await complete(job, effects)
        await blocker.execute("begin; lock table pgmq.q_jobs in access exclusive mode")
        if ending == "raises":
            raise ValueError("after the commit")

    async with window.worker(behave) as worker:
        await window.enqueue("warm")
        await window.all_ended()
        await window.enqueue("a", kind="complete")
        # The worker looks whether its outcome is still to be recorded, and cannot.
        await eventually(lambda: window.waits_for_a_lock("meshhook settle"))
        assert await window.terminate("meshhook settle") == 1
        await blocker.execute("rollback")
        await eventually(lambda: worker.get_stats().processed == 2)
        assert worker.get_stats().succeeded == 2
    await effects.close()
    await blocker.close()
    assert await window.outcomes("a") == [(1, "succeeded")]
    assert window.counts() == CLEAN


async def test_the_answer_to_a_handlers_commit_is_lost(
    window: Window, proxy: Proxy, proxied_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handler's commit went through and it does not know: its effect happens once."""
    effects = await asyncpg.connect(
        proxied_url, server_settings={"application_name": "effects"}, statement_cache_size=0
    )

    async def behave(job: Job[Any]) -> None:
        transaction = effects.transaction()
        await transaction.start()
        await effects.execute("insert into effects (run_id) values ($1)", str(job.run_id))
        await job.complete(connection=effects)
        proxy.lose_answers("effects")
        committing = asyncio.create_task(transaction.commit())
        await window.all_ended()
        proxy.reset("effects")
        await committing

    await window.enqueue("a", kind="complete")
    async with window.worker(behave) as worker:
        await eventually(lambda: worker.get_stats().processed == 1)
    effects.terminate()
    assert await window.outcomes("a") == [(1, "succeeded")]
    assert window.counts() == CLEAN


async def test_one_message_is_locked_while_others_are_settled(
    window: Window, database_url: str
) -> None:
    """A transaction that completed a job and stays open holds up the outcome of that job alone."""
    left_open = await asyncpg.connect(database_url)
    await window.set_queue(visibility_timeout_seconds=300)

    async def behave(job: Job[Any]) -> None:
        if job.run_id == "held" and job.attempt == 1:
            await left_open.execute("begin")
            await job.complete(connection=left_open)
            raise TimeoutError("the commit was not answered")

    async with window.worker(behave) as worker:
        await window.enqueue("held")
        await eventually(lambda: len(window.noted("failed")) == 1)
        await window.enqueue(*(f"other{number}" for number in range(50)))
        await eventually(lambda: worker.get_stats().succeeded == 50)
        await left_open.execute("rollback")
        await window.all_ended()
        await eventually(lambda: worker.get_stats().succeeded == 51)
    await left_open.close()
    assert await window.outcomes("held") == [(1, "retried"), (2, "succeeded")]
    assert window.counts() == CLEAN


async def test_an_outcome_waits_longer_than_its_lease(
    window: Window, proxy: Proxy, proxied_url: str
) -> None:
    """Jobs that ended while the database was away run no second time, however long it was away."""
    gate = Gate()
    run_ids = [f"job{number}" for number in range(40)]
    async with window.worker(gate, url=proxied_url, concurrency=50) as worker:
        await warm_up(window, gate)
        await window.enqueue(*run_ids)
        await eventually(lambda: gate.waiting == len(run_ids))
        proxy.refuse()
        gate.open()
        await eventually(lambda: len(window.ended()) == len(run_ids) + 1)
        await eventually(window.leases_are_over)
        # The worker can claim before it can extend leases, and do both before it can settle.
        proxy.bar("meshhook settle", "meshhook leases")
        proxy.accept()
        await eventually(lambda: "meshhook worker jobs" in proxy.applications())
        proxy.bar("meshhook settle")
        await window.enqueue("probe")
        await eventually(lambda: "probe" in {entry.run_id for entry in window.ended()})
        proxy.bar()
        await window.all_ended()
        await eventually(lambda: worker.get_stats().succeeded == len(run_ids) + 2)
    assert len(window.noted("started")) == len(run_ids) + 2
    assert window.counts() == CLEAN
