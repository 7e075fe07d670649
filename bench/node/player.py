"""Playing one trace on the node: its JobQueue, its jobs, and what is noted meanwhile."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

from bench.node.load import LoadMeter
from bench.node.manifests import job_queue, queue_name, table_name
from bench.node.observations import Attempt, Interruption, Moment, Observations
from bench.node.watch import JobQueue
from meshhook import QueueService, WorkflowJob

if TYPE_CHECKING:
    from collections.abc import Callable

    import asyncpg
    import psutil
    from lightkube import AsyncClient

    from bench.node.observations import Decision, PodLife
    from bench.node.watch import Seen, Watch
    from bench.scaling.jobs import Job, JobTrace
    from meshhook import Database

START_SECONDS = 180.0
BEGIN_SECONDS = 1.0
"""From the moment in which everything is ready to the beginning of the trace."""
EXTRA_SECONDS = 60.0
"""So much longer than anything should take, jobs that have not ended are waited for."""
GONE_SECONDS = 60.0
LEAST_SLEEP_SECONDS = 0.05
SHOW_EVERY_SECONDS = 10

ATTEMPTS = """
select run_id, attempt, outcome, worker, extract(epoch from enqueued_at)::float8 as enqueued,
    extract(epoch from started_at)::float8 as started,
    extract(epoch from finished_at)::float8 as finished,
    extract(epoch from retry_at)::float8 as retry_at
from meshhook.job_attempts
where queue = $1 and enqueued_at >= to_timestamp($2) order by finished_at
"""
INTERRUPTIONS = """
select run_id, host, extract(epoch from started_at)::float8 as started,
    extract(epoch from ended_at)::float8 as ended
from bench.interruptions
where run_id like $1 and started_at >= to_timestamp($2) order by started_at
"""


class TraceError(Exception):
    """A trace could not be played; the message says what did not happen."""


class Player:
    """Plays traces on a node where the chart is installed.

    Args:
        client: of the API server.
        watch: of the namespace.
        database: where jobs are enqueued.
        pool: connections to the same database, for looking.
        image: of the workers.
        roots: the processes that are the benchmark's.
        say: is told how it goes.
    """

    def __init__(
        self,
        *,
        client: AsyncClient,
        watch: Watch,
        database: Database,
        pool: asyncpg.Pool[Any],
        image: str,
        roots: list[psutil.Process],
        say: Callable[[str], None],
    ) -> None:
        self._client = client
        self._watch = watch
        self._database = database
        self._pool = pool
        self._image = image
        self._roots = roots
        self._say = say

    async def play(self, trace: JobTrace) -> Observations:
        """Play a trace, and return what was seen; nothing of it is left on the node.

        Raises:
            TraceError: if its JobQueue or its workers do not become ready.
        """
        name = queue_name(trace)
        self._watch.forget(name)
        seen = self._watch.of(name)
        await self._forget(trace)
        await self._client.create(JobQueue.from_dict(job_queue(trace, self._image)))
        try:
            async with asyncio.timeout(_give_up_second(trace) + 2 * START_SECONDS):
                await self._until_ready(trace, seen)
                return await self._play(trace, seen)
        finally:
            await self._client.delete(JobQueue, name)
            await _until(lambda: not seen.pods_there, GONE_SECONDS)

    async def _forget(self, trace: JobTrace) -> None:
        """Remove what a try that failed has left in the database."""
        queue = table_name(trace)
        await self._pool.execute("delete from meshhook.job_attempts where queue = $1", queue)
        await self._pool.execute(
            "delete from bench.interruptions where run_id like $1", f"{queue_name(trace)}/%"
        )
        for each in (queue, f"{queue}_dlq"):
            await self._pool.execute(
                "select pgmq.purge_queue($1)"
                " where exists (select from pgmq.meta where queue_name = $1)",
                each,
            )

    async def _until_ready(self, trace: JobTrace, seen: Seen) -> None:
        def is_ready() -> bool:
            is_operating = seen.conditions.get("Ready") == "True"
            return is_operating and len(seen.ready_pods) >= trace.min_replicas

        if not await _until(is_ready, START_SECONDS + trace.lead.longest_seconds):
            raise TraceError(
                f"not ready after {START_SECONDS:.0f} s: conditions {seen.conditions}, "
                f"{len(seen.ready_pods)} of {trace.min_replicas} workers"
            )

    async def _play(self, trace: JobTrace, seen: Seen) -> Observations:
        started = time.time() + BEGIN_SECONDS
        meter = LoadMeter(self._roots)
        producer = _Producer(trace, self._database, started)
        history: list[Moment] = []
        async with asyncio.TaskGroup() as tasks:
            sending = tasks.create_task(producer.send_all())
            while True:
                second = len(history)
                await asyncio.sleep(max(0.0, started + second - time.time()))
                meter.note()
                moment, left, dead_letters = await self._look(trace, seen, second)
                history.append(moment)
                if second % SHOW_EVERY_SECONDS == 0:
                    self._say(_line(trace, moment))
                if sending.done() and (not left or second > _give_up_second(trace)):
                    break
        # The workers record what has ended a moment later.
        ended = time.time() - started
        return Observations(
            seconds=ended,
            sent=producer.sent,
            left=left,
            dead_letters=dead_letters,
            load=meter.load(),
            attempts=await self._attempts(trace, started),
            interruptions=await self._interruptions(trace, started),
            pods=[_relative_pod(pod, started) for pod in seen.pods.values()],
            replicas=[(round(at - started, 3), count) for at, count in seen.replicas],
            history=history,
            decisions=[_relative_decision(each, started) for each in seen.decisions],
        )

    async def _look(self, trace: JobTrace, seen: Seen, second: int) -> tuple[Moment, int, int]:
        row = await self._pool.fetchrow(
            "select * from meshhook.queue_snapshot($1)", table_name(trace)
        )
        if row is None:
            raise TraceError("its queue is gone")
        moment = Moment(
            second=second,
            waiting=row["ready"] + row["lost"],
            running=row["running"],
            replicas=seen.replicas[-1][1] if seen.replicas else 0,
            ready_pods=len(seen.ready_pods),
        )
        left = sum(row[each] for each in ("ready", "scheduled", "running", "retrying", "lost"))
        return moment, left, row["dead_letters"]

    async def _attempts(self, trace: JobTrace, started: float) -> list[Attempt]:
        rows = await self._pool.fetch(ATTEMPTS, table_name(trace), started)
        return [
            Attempt(
                job=_job_number(row["run_id"]),
                attempt=row["attempt"],
                outcome=row["outcome"],
                pod=row["worker"] and _pod_of(row["worker"]),
                enqueued=row["enqueued"] - started,
                started=_relative(row["started"], started),
                finished=row["finished"] - started,
                retry_at=_relative(row["retry_at"], started),
            )
            for row in rows
        ]

    async def _interruptions(self, trace: JobTrace, started: float) -> list[Interruption]:
        rows = await self._pool.fetch(INTERRUPTIONS, f"{queue_name(trace)}/%", started)
        return [
            Interruption(
                _job_number(row["run_id"]),
                row["host"],
                row["started"] - started,
                row["ended"] - started,
            )
            for row in rows
        ]


class _Producer:
    """Enqueues the jobs of a trace when they arrive."""

    def __init__(self, trace: JobTrace, database: Database, started: float) -> None:
        self._trace = trace
        self._database = database
        self._started = started
        self.sent = 0

    async def send_all(self) -> None:
        """Send every job at its time; those that were late because of this process go at once."""
        jobs = sorted(enumerate(self._trace.jobs), key=lambda each: _sent_at(each[1]))
        place = 0
        name = table_name(self._trace)
        queue: QueueService[Any]
        async with QueueService(self._database, name) as queue:
            while place < len(jobs):
                wait_seconds = self._started + _sent_at(jobs[place][1]) - time.time()
                await asyncio.sleep(max(LEAST_SLEEP_SECONDS, wait_seconds))
                now = time.time() - self._started
                end = place
                while end < len(jobs) and _sent_at(jobs[end][1]) <= now:
                    end += 1
                for ahead, some in groupby(jobs[place:end], key=lambda each: _due(each[1])):
                    delay = 0.0 if ahead is None else max(0.0, ahead + self._started - time.time())
                    batch = [self._message(number, job) for number, job in some]
                    await queue.enqueue_many(batch, delay)
                    self.sent += len(batch)
                place = end

    def _message(self, number: int, job: Job) -> WorkflowJob:
        payload = {"run_seconds": job.run_seconds}
        if job.failures:
            payload["failures"] = job.failures
            payload["retry_seconds"] = self._trace.retry_seconds
            if job.retry_at is not None:
                payload["retry_at"] = self._started + job.retry_at
        return WorkflowJob(
            run_id=f"{queue_name(self._trace)}/{number}",
            workflow_id="sleep",
            project_id="bench",
            payload=payload,
        )


def _sent_at(job: Job) -> float:
    return job.at - job.ahead_seconds


def _due(job: Job) -> float | None:
    return job.at if job.ahead_seconds else None


def _give_up_second(trace: JobTrace) -> float:
    longest = max((job.run_seconds for job in trace.jobs), default=0.0)
    waits = 2 * trace.target_age_seconds + 2 * trace.lead.longest_seconds
    return trace.seconds + waits + 2 * longest + EXTRA_SECONDS


async def _until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until something holds; return whether it does."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        await asyncio.sleep(0.1)
    return True


def _job_number(run_id: str) -> int:
    return int(run_id.rpartition("/")[2])


def _pod_of(worker: str) -> str:
    """Return the host in the name that a worker gives itself: HOST-PID-RANDOM."""
    return worker.rsplit("-", 2)[0]


def _relative(at: float | None, started: float) -> float | None:
    return None if at is None else at - started


def _relative_pod(pod: PodLife, started: float) -> PodLife:
    return replace(
        pod,
        created=pod.created - started,
        ready=_relative(pod.ready, started),
        stopped=_relative(pod.stopped, started),
        gone=_relative(pod.gone, started),
    )


def _relative_decision(decision: Decision, started: float) -> Decision:
    return replace(decision, second=round(decision.second - started, 1))


def _line(trace: JobTrace, moment: Moment) -> str:
    return (
        f"{trace.name:18} {moment.second:4} s: {moment.waiting:4} waiting, "
        f"{moment.running:3} running, {moment.ready_pods:2} of {moment.replicas:2} replicas ready"
    )
