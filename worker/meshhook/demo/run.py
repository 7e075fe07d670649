"""The course of the demo: enqueue, work, kill a worker in the middle, and count what is left."""

from __future__ import annotations

import asyncio
import signal
import tempfile
import time
from contextlib import AsyncExitStack
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp

from meshhook.administration import get_queue_snapshot
from meshhook.demo import scenario
from meshhook.demo.outage import OutageWatch
from meshhook.demo.processes import (
    DemoError,
    Program,
    program_environment,
    start_program,
    start_receivers,
    worker_arguments,
)
from meshhook.demo.progress import Progress, Reporter, WorkerState, WorkerView
from meshhook.demo.results import DemoResult, collect_result, read_counts
from meshhook.demo.stage import demo_queue
from meshhook.errors import InvalidSettingError
from meshhook.keys import get_key
from meshhook.postgres.database import Database
from meshhook.queues import QueueService

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from meshhook.jobs import WorkflowJob

LOOK_SECONDS = 0.1
_READY_SQL = """
select pg_catalog.pg_sequence_last_value($1::pg_catalog.text::pg_catalog.regclass) is not null
    and pg_catalog.count(*) >= $3::integer
from pg_catalog.pg_stat_activity
where datname = pg_catalog.current_database() and application_name = $2::pg_catalog.text
"""


async def run_demo(
    database_url: str,
    *,
    reporter: Reporter,
    jobs: int = scenario.JOB_COUNT,
    workers: int = scenario.WORKER_COUNT,
    queue_name: str = scenario.QUEUE_NAME,
    time_limit_seconds: float = scenario.TIME_LIMIT_SECONDS,
) -> DemoResult:
    """Run the demo on a migrated database, and return what came of it.

    Args:
        database_url: the database, as postgresql://user:password@host/name.
        reporter: hears how it goes.
        jobs: how many webhooks to deliver, from 1. Default 2000.
        workers: how many worker processes to start, from 1. Default 2.
        queue_name: the queue, which the demo drops and makes again if it is the demo's own.
            Default `workflow_jobs`.
        time_limit_seconds: how long it may take. Default 300.

    Raises:
        DemoError: if the queue belongs to somebody else, a program fails, or time runs out.
        InvalidSettingError: if `jobs` or `workers` is less than 1.
        DatabaseError: if the database cannot be used, or is not migrated.
    """
    if jobs < 1 or workers < 1:
        raise InvalidSettingError(f"jobs and workers are 1 or more, got {jobs} and {workers}")
    database = await Database.connect(database_url)
    try:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(demo_queue(database_url, queue_name))
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="meshhook-")))
            run = _Run(
                database,
                database_url=database_url,
                queue_name=queue_name,
                jobs=jobs,
                reporter=reporter,
                directory=directory,
            )
            stack.push_async_callback(run.kill_everything)
            try:
                async with asyncio.timeout(time_limit_seconds):
                    return await run.play(workers)
            except TimeoutError:
                raise DemoError(run.why_late(time_limit_seconds)) from None
    finally:
        await database.close()


class _Run:
    """One run of the demo, on a queue that is ready."""

    def __init__(
        self,
        database: Database,
        *,
        database_url: str,
        queue_name: str,
        jobs: int,
        reporter: Reporter,
        directory: Path,
    ) -> None:
        self._database = database
        self._queue_name = queue_name
        self._jobs = jobs
        self._reporter = reporter
        self._directory = directory
        self._environment = program_environment(database_url)
        self._receiver: Program | None = None
        self._workers: list[Program] = []
        self._states: dict[int, WorkerState] = {}
        self._delivery_ids: list[str] = []
        self._latest: Progress | None = None
        self._outage = OutageWatch(scenario.DOWN)

    async def play(self, workers: int) -> DemoResult:
        """Run from the first process to the last count."""
        self._receiver, port = await start_receivers(
            *("--seed", str(scenario.SEED), "--down", scenario.DOWN),
            *("--down-seconds", str(scenario.DOWN_SECONDS)),
            environment=self._environment,
            directory=self._directory,
        )
        self._reporter.event(
            f"started {len(scenario.RECEIVERS)} receivers on port {port}, which fail now and then"
        )
        for _ in range(workers):
            await self._start_worker()
        since: datetime = await self._database.fetchval("select pg_catalog.clock_timestamp()")
        await self._wait_for_workers()
        started = time.monotonic()
        await self._enqueue(f"http://127.0.0.1:{port}/webhooks", since)
        killed = await self._watch(since)
        duration_seconds = time.monotonic() - started
        accepted = await self._read(port, "ledger")
        summary = await self._read(port, "summary")
        await self._stop_workers()
        self._reporter.progress(await self._look(since))
        return await collect_result(
            self._database,
            self._queue_name,
            since,
            enqueued=self._delivery_ids,
            accepted=accepted,
            workers_killed=killed,
            refused_in_outage=summary["refused_in_outage"],
            kept_back=self._outage.kept_back,
            duration_seconds=duration_seconds,
        )

    async def kill_everything(self) -> None:
        """Leave no process behind, whatever happened."""
        for program in (*self._workers, *([self._receiver] if self._receiver else [])):
            await program.kill()

    def why_late(self, limit_seconds: float) -> str:
        """Return what to say when time has run out."""
        done = self._latest.counts.done if self._latest else 0
        tails = "\n".join(f"{each.name}: {each.log_tail()}" for each in self._workers)
        return (
            f"the demo was not over after {limit_seconds:g} seconds: {done} of {self._jobs} jobs "
            f"were done. Try fewer jobs. The end of the workers' output:\n{tails}"
        )

    async def _start_worker(self) -> None:
        program = await start_program(
            f"worker {len(self._workers) + 1}",
            worker_arguments(self._queue_name),
            environment=self._environment,
            directory=self._directory,
        )
        self._workers.append(program)
        self._states[program.pid] = WorkerState.RUNNING
        self._reporter.event(f"started {program.name} (pid {program.pid})")

    async def _wait_for_workers(self) -> None:
        """Wait until all workers are connected and one of them asks for jobs.

        So that the time that Python needs to start is not counted as the jobs' wait.
        """
        waiting = f'meshhook."waiting_{self._queue_name}"'
        worker = f"meshhook worker {self._queue_name}"
        while not await self._database.fetchval(_READY_SQL, waiting, worker, len(self._workers)):
            self._check_programs()
            await asyncio.sleep(LOOK_SECONDS)

    async def _enqueue(self, url: str, since: datetime) -> None:
        jobs = scenario.deliveries(self._jobs, url)
        async with QueueService[object](self._database, self._queue_name) as queue:
            while batch := list(islice(jobs, scenario.ENQUEUE_BATCH)):
                for receiver, of_receiver in _by_receiver(batch).items():
                    await queue.enqueue_many(of_receiver, key=receiver)
                self._delivery_ids += [job.payload["id"] for job in batch]
                self._reporter.progress(await self._look(since))
        self._reporter.event(f"enqueued {len(self._delivery_ids)} webhooks")

    async def _watch(self, since: datetime) -> int:
        """Watch until every job is over, and kill a worker on the way; return how many."""
        killed = 0
        while True:
            self._check_programs()
            progress = await self._look(since)
            self._reporter.progress(progress)
            if progress.is_over:
                return killed
            if not killed and progress.counts.done >= scenario.KILL_AT_SHARE * self._jobs:
                victim = self._workers[-1]
                await victim.kill()
                self._states[victim.pid] = WorkerState.KILLED
                killed += 1
                self._reporter.event(f"killed {victim.name} (pid {victim.pid}) with SIGKILL")
                await self._start_worker()
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self, since: datetime) -> Progress:
        self._latest = Progress(
            jobs=self._jobs,
            enqueued=len(self._delivery_ids),
            queue=await get_queue_snapshot(self._database, self._queue_name),
            counts=await read_counts(self._database, self._queue_name, since),
            workers=tuple(
                WorkerView(each.name, each.pid, self._states[each.pid]) for each in self._workers
            ),
        )
        # After the counts: this may be the last look, and then it is to see how the outage ended.
        key = await get_key(self._database, self._queue_name, scenario.DOWN)
        if event := self._outage.note(key):
            self._reporter.event(event)
        return self._latest

    async def _read(self, port: int, what: str) -> dict[str, int]:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{port}/{what}") as response,
        ):
            found: dict[str, int] = await response.json()
            return found

    async def _stop_workers(self) -> None:
        running = [each for each in self._workers if each.is_running]
        codes = await asyncio.gather(*(each.stop() for each in running))
        for program, code in zip(running, codes, strict=True):
            self._states[program.pid] = WorkerState.STOPPED
            # One that had hardly started ends by the signal itself, and held nothing yet.
            if code not in (0, -signal.SIGTERM):
                raise DemoError(
                    f"{program.name} (pid {program.pid}) ended with exit code {code} after "
                    f"SIGTERM; the end of its output:\n{program.log_tail()}"
                )
        self._reporter.event("stopped the workers with SIGTERM")

    def _check_programs(self) -> None:
        for program in self._workers:
            if self._states[program.pid] is WorkerState.RUNNING:
                program.check()
        if self._receiver is not None:
            self._receiver.check()


def _by_receiver(jobs: Iterable[WorkflowJob]) -> dict[str, list[WorkflowJob]]:
    by_receiver: dict[str, list[WorkflowJob]] = {}
    for job in jobs:
        by_receiver.setdefault(job.payload["url"].rpartition("/")[2], []).append(job)
    return by_receiver
