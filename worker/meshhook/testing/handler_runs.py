"""Running a handler without a database, with the worker's own code."""

from __future__ import annotations

import asyncio
import contextvars
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

from prometheus_client import CollectorRegistry

from meshhook.follow_ups import checked_follow_ups
from meshhook.observability.worker_metrics import WorkerMetrics
from meshhook.queue_config import QueueConfig
from meshhook.store import queries
from meshhook.worker.attempt_runner import AttemptRunner
from meshhook.worker.batch_ends import ends_of_batch
from meshhook.worker.batch_options import BatchOptions
from meshhook.worker.batch_runner import BatchRunner
from meshhook.worker.handler_threads import HandlerThreads
from meshhook.worker.held_jobs import HeldJobs
from meshhook.worker.queue_context import QueueContext
from meshhook.worker.releaser import Releaser
from meshhook.worker.slot_shares import SharedSlots
from meshhook.worker.stats import Tally

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshhook.follow_ups import FollowUp
    from meshhook.jobs import Job, JobKey
    from meshhook.queue_config import QueueSettings
    from meshhook.worker.attempt import Attempt
    from meshhook.worker.handlers import JobHandler
    from meshhook.worker.held_job import HeldJob

CANCEL_SECONDS = 1.0
"""How long a handler may take to end when its test is cancelled."""

_WORKER_NAME = "meshhook.testing"


@dataclass(slots=True)
class HandlerRun:
    """What a handler did with a job."""

    job: Job[Any]
    held: HeldJob
    """The job with its settlement."""
    ended: object = None
    """What the handler returned or raised for it; None if it was not called with it."""
    completion: tuple[tuple[FollowUp, ...], str | None] | None = None
    """What `job.complete()` was called with, if it was: what follows, and the result as JSON."""


class _Completions:
    """Believes a handler that says it has settled a job."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self.completions: dict[JobKey, tuple[tuple[FollowUp, ...], str | None]] = {}

    async def _complete(self, attempt: Attempt, connection: Any, then: Any, result: Any) -> None:  # noqa: ARG002
        follow_ups = checked_follow_ups("then", then)
        runner: Any = self
        end = runner._judge.completion(attempt, follow_ups, result)  # noqa: SLF001 - its own
        self.completions[attempt.job.key] = follow_ups, end.result
        attempt.was_completed = True


class _SingleRunner(_Completions, AttemptRunner):
    async def run(self, held_jobs: HeldJobs) -> list[HandlerRun]:
        """Run a job as a slot of a worker does."""
        context = contextvars.copy_context()
        held = held_jobs.start_next()
        run = HandlerRun(held.job, held)
        attempt = context.run(self.start, held, context)
        if attempt.under_way is not None:
            attempt.ended = await self.rest(attempt, attempt.under_way)
        run.ended = attempt.ended
        context.run(self.finish, held, attempt)
        return [run]


class _BatchRunner(_Completions, BatchRunner):
    async def run(self, held_jobs: HeldJobs) -> list[HandlerRun]:
        """Run a batch as a slot of a worker does."""
        context = contextvars.copy_context()
        jobs = held_jobs.start_batch()
        runs = {held: HandlerRun(held.job, held) for held in jobs}
        batch = context.run(self.start_batch, jobs, context)
        if batch.under_way is not None:
            batch.ended = await self.rest(batch, batch.under_way)
        jobs_of_batch = [attempt.job for attempt in batch.attempts]
        ends = ends_of_batch(batch.ended, jobs_of_batch, batch.listed)
        for held, end in zip(batch.members, ends, strict=True):
            runs[held].ended = end
        context.run(self.finish_batch, batch)
        return list(runs.values())


async def run_handler(
    handler: JobHandler[Any], jobs: Sequence[Job[Any]], settings: QueueSettings
) -> list[HandlerRun]:
    """Run one attempt of each job as a worker runs it, in a task of its own.

    Args:
        handler: the handler.
        jobs: one job, or a batch if the handler takes batches.
        settings: the settings of the queue.
    """
    queue_name = jobs[0].queue
    # It waits for no more jobs.
    batch = None if handler.batch is None else BatchOptions(handler.batch.jobs)
    held_jobs = HeldJobs(SharedSlots(1, {queue_name: 1}).shares[queue_name], batch)
    threads = None if handler.is_async else HandlerThreads(1, held_jobs)
    now = datetime.now(UTC)
    queue = QueueContext(
        tables=queries.QueueTables(queue_name),
        config=QueueConfig(
            # Its message was made here, and is not encrypted.
            **(settings.model_dump() | {"encryption": "accept"}),
            queue=queue_name,
            created_at=now,
            updated_at=now,
        ),
        handler=handler,
        worker_name=_WORKER_NAME,
        metrics=WorkerMetrics(queue_name, CollectorRegistry()),
        tally=Tally(),
        tracer=None,
    )
    runner = (_SingleRunner if batch is None else _BatchRunner)(
        queue=queue,
        held_jobs=held_jobs,
        # Only a worker that stops gives jobs back.
        releaser=Releaser(connection=cast("Any", None), queue=queue, held_jobs=held_jobs),
        threads=threads,
        tracer=None,
    )
    # A handler that cancels its own task must not cancel the test.
    runner.owner = asyncio.current_task()
    claimed_at = time.monotonic()
    held_jobs.queue(held_jobs.claim(jobs, claimed_at, claimed_at).to_start)
    slot = asyncio.create_task(runner.run(held_jobs), name="meshhook-slot-0")
    try:
        await asyncio.wait([slot])
    except asyncio.CancelledError:
        slot.cancel()
        await asyncio.wait([slot], timeout=CANCEL_SECONDS)
        raise
    finally:
        if threads is not None:
            threads.shutdown()
    # Raises what ends the process and not the job, such as KeyboardInterrupt.
    runs = slot.result()
    for run in runs:
        run.completion = runner.completions.get(run.job.key)
    return runs
