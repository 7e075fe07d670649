"""Many databases that cannot be reached beside one that can, with a real API server."""

from __future__ import annotations

import asyncio

import pytest

from support.black_hole import black_hole
from support.cluster.api import Api
from support.cluster.objects import database_secret, job_queue
from support.cluster.operator_process import StartOperator
from support.cluster.views import JobQueueView
from support.waiting import eventually

OF_EACH_KIND = 20


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("job_queues_are_known")
async def test_a_good_database_beside_sixty_bad_ones(
    api: Api, start_operator: StartOperator, database: str
):
    """It is read, has its workers and is Ready while connections of the others are pending."""
    with black_hole() as hole:
        kinds = [
            "postgresql://u:p@127.0.0.1:1/app-{}",
            f"postgresql://u:p@127.0.0.1:{hole.port}/app-{{}}",
            "postgresql://u:p@db-{}.invalid/app",
        ]

        async def make(index: int) -> None:
            url = kinds[index % len(kinds)].format(index)
            await api.create(database_secret(url, f"bad-{index}"))
            secret = {"secretRef": {"name": f"bad-{index}"}}
            await api.create(job_queue(f"bad-{index}", database=secret))

        names = range(OF_EACH_KIND * len(kinds))
        async with asyncio.TaskGroup() as tasks:
            for index in names:
                tasks.create_task(make(index))
        await api.create(job_queue())
        # It finds all of them at once, as after a restart.
        await start_operator()
        good = JobQueueView(api)
        await good.until_condition("Ready", "True", timeout=120)
        await good.until_replicas(1, timeout=60)
        await eventually(hole.attempts, message="some are still waited for")
        for index in names[:3]:
            bad = JobQueueView(api, name=f"bad-{index}", deployment=f"bad-{index}-worker")
            await bad.until_condition("Ready", "False", reason="SourceUnavailable", timeout=120)
