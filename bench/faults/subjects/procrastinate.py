"""Procrastinate: a worker, and the periodic task of its documentation that retries stalled jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import procrastinate

from bench.faults.program import Work, main

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

HEARTBEAT_SECONDS = 1
STALLED_SECONDS = 3
CONCURRENCY = 20


def make_app(url: str) -> procrastinate.App:
    """Return an app with a pool."""
    connector = procrastinate.PsycopgConnector(conninfo=url, min_size=1, max_size=24)
    return procrastinate.App(connector=connector)


async def install(url: str) -> None:
    """Apply its schema."""
    async with make_app(url).open_async() as app:
        await app.schema_manager.apply_schema_async()


async def make_producer(url: str) -> Callable[[str], Awaitable[object]]:
    """Return what defers a job."""
    app = make_app(url)

    @app.task(queue="faults", name="faults")
    async def run(run_id: str) -> None:
        raise NotImplementedError(run_id)

    await app.open_async()
    return lambda run_id: run.defer_async(run_id=run_id)


async def work(url: str, job: Work) -> None:
    """Run a worker."""
    app = make_app(url)

    @app.task(queue="faults", name="faults")
    async def run(run_id: str) -> None:
        await job.run(run_id)

    # The sixth field is that of seconds.
    @app.periodic(cron="* * * * * */3")
    @app.task(queue="stalled", queueing_lock="stalled", pass_context=True)
    async def retry_stalled(context: Any, timestamp: int) -> None:  # noqa: ARG001 - as it is called
        manager = app.job_manager
        for stalled in await manager.get_stalled_jobs(seconds_since_heartbeat=STALLED_SECONDS):
            await manager.retry_job(stalled)

    async with app.open_async():
        await app.run_worker_async(
            concurrency=CONCURRENCY,
            update_heartbeat_interval=HEARTBEAT_SECONDS,
            stalled_worker_timeout=STALLED_SECONDS,
        )


main(install=install, make_producer=make_producer, work=work)
