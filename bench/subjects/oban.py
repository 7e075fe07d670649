"""Oban for Python, embedded as its documentation shows, with the default pool of 10.

The documentation gives queues a limit of 10 to 20 and says that there is no upper bound. Its
producer fetches as many jobs as are below the limit, and records their outcomes when it fetches
again: a limit of 1,000 drained faster than 20 and 200, so it has that. For pickup it has 20, as in
the documentation. Finished jobs are kept for a day, as by default.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from oban import Oban, worker
from oban.schema import install

from bench.subject import BenchSubject, Work, compare_counts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from oban.job import Job

DRAIN_LIMIT = 1_000
PICKUP_LIMIT = 20
POOL_CONNECTIONS = 10
LOOK_SECONDS = 0.005
_COUNTS = """
select count(*) filter (where state = 'completed') as finished,
    count(*) filter (where state in ('available', 'scheduled', 'executing', 'retryable')) as left
from oban_jobs
"""


@worker(queue="bench")
class BenchWorker:
    """The job. Oban finds it by its name, so what it does is kept on the class."""

    run: ClassVar[Callable[[dict[str, Any]], Awaitable[None]]]

    async def process(self, job: Job) -> None:
        """Run one job."""
        await BenchWorker.run(job.args)


class Subject(BenchSubject):
    """An `Oban` without queues to enqueue, and one with a queue to run."""

    _pool: Any
    _oban: Oban

    @classmethod
    async def install(cls, url: str) -> dict[str, str]:
        """Install its schema."""
        pool = await Oban.create_pool(url, min_size=1, max_size=1)
        await install(pool)
        await pool.close()
        return {"oban": importlib.metadata.version("oban")}

    async def open(self, connections: int) -> None:
        """Open a pool, and a client on it."""
        self._pool = await Oban.create_pool(self.url, min_size=connections, max_size=connections)
        self._oban = Oban(pool=self._pool)

    async def close(self) -> None:
        """Close the pool."""
        await self._pool.close()

    def job(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments: a job object may be stored only once."""
        return message

    async def enqueue(self, job: dict[str, Any]) -> None:
        """Store one job."""
        await self._oban.enqueue(BenchWorker.new(job))

    async def enqueue_many(self, jobs: Sequence[dict[str, Any]]) -> None:
        """Store a batch, in one statement."""
        await self._oban.enqueue_many([BenchWorker.new(job) for job in jobs])

    async def drain(self, jobs: int, work: Work, on_done: Callable[[], None]) -> None:
        """Run a queue until the outcomes of all jobs are stored."""

        async def run(_: dict[str, Any]) -> None:
            await work.run()

        async with self._running(run, DRAIN_LIMIT):
            while work.runs < jobs or (await self._counts())["left"]:
                await asyncio.sleep(LOOK_SECONDS)
            on_done()

    @asynccontextmanager
    async def consuming(self, on_job: Callable[[str], None]) -> AsyncIterator[None]:
        """Keep a queue running."""

        async def tell(message: dict[str, Any]) -> None:
            on_job(message["run_id"])

        async with self._running(tell, PICKUP_LIMIT):
            yield

    async def check(self, finished: int, left: int) -> None:
        """Count the jobs by their state."""
        expected = {"finished": finished, "left": left}
        compare_counts("Oban", expected, await self._counts())

    @asynccontextmanager
    async def _running(
        self, run: Callable[[dict[str, Any]], Awaitable[None]], limit: int
    ) -> AsyncIterator[None]:
        BenchWorker.run = run
        pool = await Oban.create_pool(self.url, min_size=1, max_size=POOL_CONNECTIONS)
        async with Oban(pool=pool, name="bench", queues={"bench": limit}):
            yield
        await pool.close()

    async def _counts(self) -> dict[str, int]:
        async with self._pool.connection() as connection:
            row = await (await connection.execute(_COUNTS)).fetchone()
        return {"finished": row[0], "left": row[1]}


logging.getLogger("oban").setLevel(logging.WARNING)
