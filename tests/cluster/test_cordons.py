"""Pods that run long jobs are removed once their jobs have ended, and claim again if needed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import asyncpg
import pytest

from support.cluster.api import Api
from support.cluster.objects import job_queue
from support.cluster.operator_process import OperatorProcess
from support.cluster.views import JobQueueView
from support.waiting import eventually

pytestmark = pytest.mark.usefixtures("operator")

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

LABEL = "meshhook.io/jobqueue=emails"
LONG_SECONDS = 900.0
"""How long the jobs of this test have run: much longer than a pod that stops may take."""


class Workers:
    """The workers of all pods, as the database sees them: one a pod, with the jobs it runs."""

    def __init__(self, api: Api, url: str) -> None:
        self._api = api
        self._url = url
        self.running: dict[str, int] = {}
        """How many jobs each pod runs."""

    @asynccontextmanager
    async def reporting(self) -> AsyncIterator[Workers]:
        """Report for every pod, many times a second, and obey each cordon from then on."""
        connection = await asyncpg.connect(self._url)
        try:
            async with asyncio.TaskGroup() as tasks:
                task = tasks.create_task(self._report(connection), name="reports")
                yield self
                task.cancel()
        finally:
            await connection.close()

    async def pods(self) -> set[str]:
        """Return the pods that are not being deleted."""
        return {
            pod["metadata"]["name"]
            for pod in await self._api.list("Pod", labelSelector=LABEL)
            if "deletionTimestamp" not in pod["metadata"]
        }

    async def _report(self, connection: Connection) -> None:
        while True:
            names = sorted(await self.pods())
            await connection.execute(
                "delete from meshhook.workers where not host = any ($1::text[])", names
            )
            await connection.executemany(
                """
                insert into meshhook.workers as w (queue, worker, host, concurrency, running,
                    processed, busy_seconds, oldest_running_seconds, started_at)
                values ('emails', $1::text, $1::text, 10, $2::int, 0, $2::int * $3::float8,
                    least($2::int, 1) * $3::float8, now() - interval '1 hour')
                on conflict (queue, worker) do update
                set running = excluded.running, busy_seconds = excluded.busy_seconds,
                    oldest_running_seconds = excluded.oldest_running_seconds, seen_at = now(),
                    cordoned = coalesce(w.cordoned_until > now(), false)
                """,
                [(name, self.running.get(name, 0), LONG_SECONDS) for name in names],
            )
            await asyncio.sleep(0.1)


@pytest.fixture
async def workers(api: Api, database: str) -> AsyncIterator[Workers]:
    """The workers of all pods."""
    async with Workers(api, database).reporting() as workers:
        yield workers


async def send(sql: Connection, count: int) -> None:
    """Send messages to the queue, all at once."""
    await sql.execute(
        "select pgmq.send_batch('emails', array_fill('{}'::jsonb, array[$1::int]))", count
    )


async def cordoned(sql: Connection) -> set[str]:
    """Return the pods that are asked to claim nothing."""
    rows = await sql.fetch("select host from meshhook.workers where cordoned_until > now()")
    return {row["host"] for row in rows}


async def ticks(operator: OperatorProcess, count: int) -> None:
    """Wait for a number of further ticks of the operator."""
    name = "meshhook_operator_tick_duration_seconds_count"
    start = operator.metric(name) or 0
    await eventually(lambda: (operator.metric(name) or 0) >= start + count)


async def test_a_fleet_shrinks_as_long_jobs_end(
    api: Api, sql: Connection, workers: Workers, operator: OperatorProcess
):
    """Surplus pods are cordoned, and removed when idle; if load rises, they claim again first."""
    # What the jobs that run call for may come to a fifth pod, for a tick.
    limits: dict[str, Any] = {"targetLength": 10, "maxReplicas": 4}
    scaling = {"scaleDown": {"windowSeconds": 1}, **limits}
    await api.create(job_queue(scaling=scaling))
    view = JobQueueView(api)
    await view.until_condition("Ready", "True")
    await send(sql, 40)
    await view.until_replicas(4)
    await view.until_ready_replicas(4)
    await eventually(lambda: _has(workers, 4))
    names = sorted(await workers.pods())
    workers.running = dict.fromkeys(names, 1)
    await sql.execute("select pgmq.read('emails', 900, 4)")
    reported = "select coalesce(sum(running), 0) = 4 from meshhook.workers"
    await eventually(lambda: sql.fetchval(reported))
    # Each runs one job, and no other job waits: one pod would do.
    await sql.execute("delete from pgmq.q_emails where vt <= now()")

    async def three_are_cordoned() -> set[str]:
        found = await cordoned(sql)
        assert len(found) == 3, (found, await view.status())
        return found

    surplus = await eventually(three_are_cordoned)
    obey = "select count(*) = 3 from meshhook.workers where cordoned"
    await eventually(lambda: sql.fetchval(obey))
    await ticks(operator, 3)
    assert await view.replicas() == 4

    ended = min(surplus)
    await sql.execute("select pgmq.delete('emails', (select min(msg_id) from pgmq.q_emails))")
    workers.running[ended] = 0
    await view.until_replicas(3)

    async def three_are_left() -> bool:
        left = await workers.pods()
        assert left == set(names) - {ended}
        return True

    await eventually(three_are_left)

    async def the_others_stay_cordoned() -> bool:
        assert await cordoned(sql) == surplus - {ended}
        return True

    await eventually(the_others_stay_cordoned)

    await send(sql, 25)

    async def none_is_cordoned() -> bool:
        return not await cordoned(sql)

    await eventually(none_is_cordoned)
    # Perhaps beside a new pod; but none of them has made room for it.
    assert set(names) - {ended} <= await workers.pods()


async def _has(workers: Workers, count: int) -> bool:
    return len(await workers.pods()) == count
