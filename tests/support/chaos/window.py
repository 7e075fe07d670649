"""A window: workers in this process, on one queue of a database, and the books at the end.

For the exact moments: what happens when is in the hands of the test.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
from prometheus_client import CollectorRegistry, generate_latest

from meshhook import Job, Worker
from support.chaos.books import Books, Observed
from support.chaos.counts import Counts
from support.chaos.faults import TERMINATE
from support.chaos.ledger import Entry, Ledger, entries
from support.chaos.scraped import outcomes_in, unsettled_in
from support.chaos.stored import Stored
from support.waiting import eventually

Behaviour = Callable[[Job[Any]], Awaitable[object]]


class Window:
    """A queue of a database, what is done to it, and what becomes of its jobs.

    Attributes:
        url: the database.
        connection: a connection of the test's own.
        observed: what the books compare, beside ledger and database.
    """

    def __init__(
        self, url: str, connection: asyncpg.Connection[Any], folder: Path, queue_name: str
    ) -> None:
        self.url = url
        self.connection = connection
        self.queue_name = queue_name
        self.ledger = Ledger(folder, "window")
        self.observed = Observed(folder)
        self._workers: list[tuple[Worker, CollectorRegistry]] = []

    def worker(self, behaviour: Behaviour, *, url: str = "", **options: Any) -> Worker:
        """Return a worker whose handler notes what it does; the books look at its metrics."""

        async def handler(job: Job[Any]) -> None:
            run_id = str(job.run_id)
            self.ledger.note("started", run_id, job.attempt)
            try:
                await behaviour(job)
            except BaseException as error:
                self.ledger.note("failed", run_id, type(error).__name__)
                raise
            self.ledger.note("ended", run_id, job.attempt)

        registry = CollectorRegistry()
        worker = Worker(
            url or self.url,
            self.queue_name,
            handler,
            registry=registry,
            **{"grace_seconds": 4, **options},
        )
        self._workers.append((worker, registry))
        return worker

    async def enqueue(
        self,
        *run_ids: str,
        kind: str = "ok",
        connection: asyncpg.Connection[Any] | None = None,
    ) -> list[int]:
        """Store jobs, and return the ids of their messages."""
        ids: list[int] = []
        for run_id in run_ids:
            self.ledger.note("attempted", run_id, kind)
            body = {"run_id": run_id, "payload": {"kind": kind}}
            msg_id: int = await (connection or self.connection).fetchval(
                "select * from pgmq.send($1, $2::jsonb)", self.queue_name, json.dumps(body)
            )
            self.ledger.note("confirmed", run_id, msg_id)
            ids.append(msg_id)
        return ids

    async def set_queue(self, **settings: object) -> None:
        """Change settings of the queue."""
        changes = ", ".join(f"{name} = {value}" for name, value in settings.items())
        await self.connection.execute(
            f"update meshhook.queue_config set {changes} where queue_name = $1", self.queue_name
        )

    async def outcomes(self, run_id: str) -> list[tuple[int, str]]:
        """Return the attempts and outcomes that the history has of a job."""
        rows = await self.connection.fetch(
            "select attempt, outcome from meshhook.job_attempts where run_id = $1 "
            "order by attempt, finished_at",
            run_id,
        )
        return [(row["attempt"], row["outcome"]) for row in rows]

    def noted(self, event: str) -> list[Entry]:
        """Return what the ledger says of one kind of event."""
        return [entry for entry in entries(self.observed.ledger) if entry.event == event]

    def ended(self) -> list[Entry]:
        """Return what the ledger says of runs that came to their end."""
        return self.noted("ended")

    async def leases_are_over(self) -> bool:
        """Say whether no lease of the queue holds any more."""
        running = f"select from pgmq.q_{self.queue_name} where vt > clock_timestamp()"
        are_over: bool = await self.connection.fetchval(f"select not exists ({running})")
        return are_over

    async def holds(self, count: int) -> bool:
        """Say whether the queue holds that many messages."""
        sql = f"select count(*) from pgmq.q_{self.queue_name}"
        found: int = await self.connection.fetchval(sql)
        return found == count

    async def was_claimed(self) -> bool:
        """Say whether every message of the queue has been claimed."""
        unread = f"select from pgmq.q_{self.queue_name} where read_ct = 0"
        was_claimed: bool = await self.connection.fetchval(f"select not exists ({unread})")
        return was_claimed

    async def lease_is_extended(self, run_id: str) -> None:
        """Wait until the lease of a job is extended."""
        sql = f"select vt from pgmq.q_{self.queue_name} where message->>'run_id' = $1"
        ends_at = await self.connection.fetchval(sql, run_id)

        async def is_later() -> bool:
            later: bool = await self.connection.fetchval(f"select ({sql}) > $2", run_id, ends_at)
            return later

        await eventually(is_later, message=f"the lease of {run_id} is extended")

    async def waits_for_a_lock(self, application: str) -> bool:
        """Say whether a statement of an application, by the start of its name, waits for a lock."""
        found: bool = await self.connection.fetchval(
            "select exists (select from pg_stat_activity where wait_event_type = 'Lock' "
            "and datname = current_database() and starts_with(application_name, $1))",
            application,
        )
        return found

    async def terminate(self, application: str) -> int:
        """Break the server's side of an application's connections. Returns of how many."""
        return len(await self.connection.fetch(TERMINATE, f"{application}%"))

    async def all_ended(self, timeout_seconds: float = 60) -> None:
        """Wait until no message is in the queue, and no outcome waits to be recorded."""
        await eventually(lambda: self.holds(0), timeout_seconds, message="an empty queue")

    def unsettled(self) -> int:
        """Return how many outcomes the workers have not recorded yet."""
        return sum(
            unsettled_in(generate_latest(registry).decode()) for _, registry in self._workers
        )

    def counts(self) -> Counts:
        """Return what is wrong; for when the workers have stopped."""
        self.observed.worker_outcomes = {
            worker.name: outcomes_in(generate_latest(registry).decode(), self.queue_name)
            for worker, registry in self._workers
        }
        books = Books(self.observed, Stored.read(self.url, self.queue_name))
        for sample in books.samples():
            print(sample)  # noqa: T201 - shown where the test fails
        return books.counts()
