"""The database of one test: what is in its queues, how its jobs end, and its dead letters."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from meshhook.administration import create_queue, set_queue_config
from meshhook.application import App
from meshhook.application.queue_handler import identifiers, job_of
from meshhook.names import DEFAULT_QUEUE_NAME
from meshhook.outcomes import delay_in_seconds
from meshhook.postgres.database import Database, connect
from meshhook.postgres.url import parse_database_url
from meshhook.queues import QueueService
from meshhook.testing.draining import Drained, DrainOptions, drain, raise_first_error
from meshhook.testing.enqueued import EnqueuedJob, describe, describe_dead_letter
from meshhook.testing.expectations import (
    DeadLetterFilters,
    Finding,
    JobFilters,
    Wanted,
    failure,
)
from meshhook.testing.handlers import Queue, check_database, handlers_by_queue, name_of
from meshhook.testing.queues import LEASED_STATE, WAITING_STATES, DatabaseQueues

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import timedelta
    from typing import Unpack
    from uuid import UUID

    from meshhook.store.dead_letter_rows import DeadLetterJob


class QueueDatabase:
    """A test's view of its database.

    Each method opens a connection of its own and closes it, so that the object belongs to no event
    loop and needs no cleaning up. What a transaction has not committed yet is seen by those alone
    that take its `connection`.
    """

    def __init__(self, url: str) -> None:
        """Take the database's URL.

        Raises:
            InvalidSettingError: if it is no URL of a database.
        """
        self.url = url
        """The URL of the database, with its password."""
        self._place = parse_database_url(url).place

    def __repr__(self) -> str:
        """Name the database, and no password."""
        return f"<QueueDatabase {self._place}>"

    async def create_queue(self, queue: str = DEFAULT_QUEUE_NAME, **settings: Any) -> None:
        """Create a queue, with settings that differ from the defaults.

        Args:
            queue: the queue. Default `workflow_jobs`.
            **settings: such as `max_retry_attempts=3`; all of them stand in `meshhook.QueueConfig`.

        Raises:
            InvalidQueueNameError, InvalidSettingError: naming what is wrong.
        """
        async with self._connected() as database:
            await create_queue(database, queue)
            if settings:
                await set_queue_config(database, queue, **settings)

    async def enqueue(
        self,
        queue: Queue,
        payload: Any,
        *,
        delay: float | timedelta = 0,
        run_id: str | UUID | None = None,
        workflow_id: str | UUID | None = None,
        project_id: str | UUID | None = None,
        headers: Mapping[str, Any] | None = None,
    ) -> int:
        """Store a job for a handler under test, and return its msg_id.

        Args:
            queue: the queue, or the handler of an app.
            payload: a model, anything that JSON can hold, or a `WorkflowJob`.
            delay: how long until it is ready, in seconds or as a timedelta, 0 to 366 days.
                Default 0.
            run_id: the run it belongs to. Default none.
            workflow_id: the workflow it belongs to. Default none.
            project_id: the project it belongs to. Default none.
            headers: message headers. Default none.

        Raises:
            InvalidJobError, JobTooLargeError, InvalidSettingError, QueueNotFoundError: as
                `App.enqueue` does.
        """
        ids = identifiers(run_id=run_id, workflow_id=workflow_id, project_id=project_id)
        async with (
            self._connected() as database,
            QueueService[Any](database, name_of(queue)) as service,
        ):
            return await service.enqueue(
                job_of(payload, ids), delay_in_seconds(delay), headers=headers
            )

    @asynccontextmanager
    async def connect(self, app: App) -> AsyncIterator[App]:
        """Let an app work on this database while the block runs.

        The queues that it declares are created; at the end of the block the app is closed. It does
        not go back to the database that it had: what uses it outside of such a block fails.

        Args:
            app: the app, which must not be open.

        Raises:
            InvalidSettingError: if it is open.
        """
        app.use_database(self.url)
        async with app:
            await app.create_missing_queues()
            yield app

    async def all_enqueued(
        self,
        queue: Queue | None = None,
        payload: Any = None,
        *,
        connection: Any = None,
        **filters: Unpack[JobFilters],
    ) -> list[EnqueuedJob]:
        """Return the jobs that are in a queue, the first enqueued first; dead letters are not.

        Args:
            queue: the queue, or the handler of an app. Default: all queues.
            payload: only jobs whose payload has this. An object may have more keys; a model stands
                for its JSON; `pytest.approx` and `unittest.mock.ANY` may be used within it.
                Default: any.
            connection: an asyncpg connection, to see what its open transaction has enqueued.
                Default: a new one, which sees what is committed.
            **filters: run_id, workflow_id, project_id, headers, state: see `JobFilters`.

        Raises:
            QueueNotFoundError: if there is no such queue.
        """
        wanted = Wanted(payload, filters)
        async with self._queues(queue, connection) as queues:
            return [job for job in await queues.jobs() if wanted.fault_of(job) is None]

    async def assert_enqueued(
        self,
        queue: Queue | None = None,
        payload: Any = None,
        *,
        count: int | None = None,
        connection: Any = None,
        **filters: Unpack[JobFilters],
    ) -> list[EnqueuedJob]:
        """Fail unless there is a job as described; return all that are.

        Args:
            queue: the queue, or the handler of an app. Default: all queues.
            payload: what its payload has, as for `all_enqueued`. Default: anything.
            count: how many such jobs there must be. Default: at least one.
            connection: as for `all_enqueued`.
            **filters: as for `all_enqueued`.

        Raises:
            AssertionError: with a list of what is in the queue, and of what differs in each job.
            QueueNotFoundError: if there is no such queue.
        """
        __tracebackhide__ = True
        wanted = Wanted(payload, filters)
        async with self._queues(queue, connection) as queues:
            jobs = await queues.jobs()
        fault = failure(
            wanted,
            [
                Finding(describe(job, with_queue=queue is None), wanted.fault_of(job))
                for job in jobs
            ],
            noun="job",
            queue=name_of(queue),
            count=count,
        )
        if fault is not None:
            raise AssertionError(fault)
        return [job for job in jobs if wanted.fault_of(job) is None]

    async def refute_enqueued(
        self,
        queue: Queue | None = None,
        payload: Any = None,
        *,
        connection: Any = None,
        **filters: Unpack[JobFilters],
    ) -> None:
        """Fail if there is a job as described; the arguments are those of `assert_enqueued`.

        Raises:
            AssertionError: with a list of what is in the queue.
            QueueNotFoundError: if there is no such queue.
        """
        __tracebackhide__ = True
        await self.assert_enqueued(queue, payload, count=0, connection=connection, **filters)

    async def drain(
        self,
        handlers: Any,
        queue: Queue | None = None,
        *,
        with_scheduled: bool = False,
        with_retries: bool = False,
        raise_errors: bool | None = None,
        concurrency: int = 1,
        max_attempts: int = 10_000,
        timeout_seconds: float = 30.0,
    ) -> Drained:
        """Run what is ready with a worker in this process, until nothing is, and say what it did.

        Jobs that a job enqueues are run as well. Time stands still, but for the two options: with
        them the next message that waits is made due whenever nothing else is left to do, in the
        order in which they would fall due.

        Args:
            handlers: an app, or the handler of one; the handler of each queue, by name; or one
                function for all that is to be drained. The queues that an app declares are created
                if they are missing.
            queue: which queue to drain. Default: those that `handlers` names, or else all.
            with_scheduled: whether to run also what was enqueued with a delay. Default false.
            with_retries: whether to run also what waits for its next attempt, until it is done or a
                dead letter. Default false. Of a job that was snoozed before its first attempt
                ended, `with_scheduled` decides.
            raise_errors: whether to raise, at the end, the exception of the first attempt that has
                failed. What a handler asks for by an outcome, such as `DeadLetter`, is no error.
                Default: unless `with_retries` is set.
            concurrency: how many jobs run at once. Default 1: one after the other, or as many as
                there are queues.
            max_attempts: after how many attempts to give up, as for jobs that enqueue themselves.
                Default 10,000.
            timeout_seconds: after how long to give up. Default 30.

        Raises:
            DrainError: if it was given up, with a list of what is left; or if a queue is paused.
            JobFailedError: an attempt has failed of which there is no exception: its payload was
                rejected, or it ran too long.
            Exception: what a handler raised, see `raise_errors`.
            QueueNotFoundError, InvalidHandlerError, InvalidSettingError: naming what is wrong.
        """
        options = DrainOptions(
            with_scheduled=with_scheduled,
            with_retries=with_retries,
            concurrency=concurrency,
            max_attempts=max_attempts,
            timeout_seconds=timeout_seconds,
        )
        if isinstance(handlers, App):
            check_database(handlers, self.url)
        async with self._connected() as database:
            known = await handlers_by_queue(database, handlers, queue)
            drained = await drain(database, self.url, known, options)
        if raise_errors if raise_errors is not None else not with_retries:
            raise_first_error(drained)
        return drained

    async def advance(
        self,
        seconds: float | timedelta,
        queue: Queue | None = None,
        *,
        with_leases: bool = False,
    ) -> int:
        """Let what waits fall due as if time had passed; return how many messages are due by that.

        The times (`vt`) of messages that are scheduled or wait for a retry are moved towards now by
        so much. Nothing else changes: the clocks of the database and of Python stay as they are,
        and so do the ages of jobs, of dead letters and of the history.

        Args:
            seconds: how far, in seconds or as a timedelta, 0 to 366 days.
            queue: the queue, or the handler of an app. Default: all queues.
            with_leases: whether to move the ends of leases, too. A lease that has ended is lost,
                as that of a worker that was killed: the next claim takes its job. Default false.

        Raises:
            InvalidSettingError: if `seconds` is out of range.
            QueueNotFoundError: if there is no such queue.
        """
        passed_seconds = delay_in_seconds(seconds)
        states = (*WAITING_STATES, LEASED_STATE) if with_leases else WAITING_STATES
        async with self._queues(queue, None) as queues:
            return await queues.advance(passed_seconds, states)

    async def dead_letters(
        self,
        queue: Queue | None = None,
        payload: Any = None,
        **filters: Unpack[DeadLetterFilters],
    ) -> list[DeadLetterJob]:
        """Return dead letters, the oldest of a queue first; its newest 1,000 at the most.

        Args:
            queue: the queue that they died in, or the handler of an app. Default: all queues.
            payload: only those whose payload has this, as for `all_enqueued`. Default: any.
            **filters: run_id, workflow_id, project_id, error_type, attempts: see
                `DeadLetterFilters`.

        Raises:
            QueueNotFoundError: if there is no such queue.
        """
        wanted = Wanted(payload, filters)
        async with self._queues(queue, None) as queues:
            found = await queues.dead_letters()
        return [letter for letter in found if wanted.fault_of(letter) is None]

    async def assert_dead_lettered(
        self,
        queue: Queue | None = None,
        payload: Any = None,
        *,
        count: int | None = None,
        **filters: Unpack[DeadLetterFilters],
    ) -> list[DeadLetterJob]:
        """Fail unless there is a dead letter as described; return all that are.

        Args:
            queue: the queue that it died in, or the handler of an app. Default: all queues.
            payload: what its payload has, as for `all_enqueued`. Default: anything.
            count: how many such dead letters there must be. Default: at least one.
            **filters: as for `dead_letters`.

        Raises:
            AssertionError: with a list of the dead letters, and of what differs in each.
            QueueNotFoundError: if there is no such queue.
        """
        __tracebackhide__ = True
        wanted = Wanted(payload, filters)
        async with self._queues(queue, None) as queues:
            found = await queues.dead_letters()
        fault = failure(
            wanted,
            [
                Finding(describe_dead_letter(each, with_queue=queue is None), wanted.fault_of(each))
                for each in found
            ],
            noun="dead letter",
            queue=name_of(queue),
            count=count,
        )
        if fault is not None:
            raise AssertionError(fault)
        return [letter for letter in found if wanted.fault_of(letter) is None]

    async def replay(
        self,
        queue: Queue | None = None,
        *,
        error_type: str | None = None,
    ) -> list[int]:
        """Make dead letters jobs again, ready now and with all their attempts before them.

        Args:
            queue: the queue that they died in, or the handler of an app. Default: all queues.
            error_type: only those of this error type. Default: all; the oldest 1,000 of a queue.

        Returns:
            The msg_ids of the new jobs.

        Raises:
            QueueNotFoundError: if there is no such queue.
        """
        async with self._queues(queue, None) as queues:
            return await queues.replay(error_type)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Database]:
        connection = await connect(self.url, application_name="meshhook testing")
        try:
            yield Database(connection)
        finally:
            await connection.close()

    @asynccontextmanager
    async def _queues(
        self, queue: Queue | None, connection: object
    ) -> AsyncIterator[DatabaseQueues]:
        if connection is not None:
            yield await DatabaseQueues.find(Database.of_caller(connection), name_of(queue))
            return
        async with self._connected() as database:
            yield await DatabaseQueues.find(database, name_of(queue))
