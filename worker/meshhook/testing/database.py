"""The database of one test: its queues, its jobs and its dead letters."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from meshhook.administration import create_queue, set_queue_config
from meshhook.application import App
from meshhook.application.queue_handler import identifiers
from meshhook.delays import delay_in_seconds
from meshhook.names import DEFAULT_QUEUE_NAME
from meshhook.postgres.connecting import connect
from meshhook.postgres.database import Database
from meshhook.postgres.url import parse_database_url
from meshhook.queues import QueueService
from meshhook.store.messages import job_of
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
    from collections.abc import AsyncIterator, Callable, Sequence
    from datetime import timedelta
    from typing import Unpack
    from uuid import UUID

    from meshhook.encryption.key_ring import KeyRing
    from meshhook.store.dead_letter_rows import DeadLetterJob

_Row = TypeVar("_Row", "EnqueuedJob", "DeadLetterJob")


class QueueDatabase:
    """The database of one test.

    Each method opens its own connection and closes it, so the object belongs to no event loop and
    needs no clean-up. Uncommitted changes are visible only through the argument `connection`.
    """

    def __init__(self, url: str) -> None:
        """Take the database's URL.

        Raises:
            InvalidSettingError: if it is not the URL of a database.
        """
        self.url = url
        """The URL of the database, with its password."""
        self.encryption: KeyRing | None = None
        """The keys with which `enqueue` encrypts, `drain` runs jobs, and jobs and dead letters are
        read. `connect` takes those of the app. Default: none."""
        self._place = parse_database_url(url).place

    def __repr__(self) -> str:
        """Show host and database, and no password."""
        return f"<QueueDatabase {self._place}>"

    async def create_queue(self, queue: str = DEFAULT_QUEUE_NAME, **settings: Any) -> None:
        """Create a queue.

        Args:
            queue: the queue. Default `workflow_jobs`.
            **settings: settings that differ from the defaults, such as `max_retry_attempts=3`; see
                `meshhook.QueueConfig`.

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
            QueueService[Any](database, name_of(queue), encryption=self.encryption) as service,
        ):
            return await service.enqueue(
                job_of(payload, ids), delay_in_seconds(delay), headers=headers
            )

    @asynccontextmanager
    async def connect(self, app: App) -> AsyncIterator[App]:
        """Connect an app to this database while the block runs.

        The queues that it declares are created, and the app is closed at the end of the block.
        Afterwards it still points to this database, which is gone after the test. Code that uses
        the app outside of such a block therefore fails, and never reaches another database.

        Args:
            app: the app. It must not be open.

        Raises:
            InvalidSettingError: if it is open.
        """
        app.use_database(self.url)
        self.encryption = app.encryption
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
        """Return the jobs in a queue, oldest first, without dead letters.

        Args:
            queue: the queue, or the handler of an app. Default: all queues.
            payload: only jobs whose payload contains this. Objects may have more keys; a pydantic
                model stands for its JSON; `pytest.approx` and `unittest.mock.ANY` can be used
                inside. Default: any.
            connection: an asyncpg connection, to see the jobs of its open transaction. Default: a
                new connection, which sees committed jobs.
            **filters: only jobs with this run_id, workflow_id, project_id, state (ready, scheduled,
                running, retrying or lost), or these headers.

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
        """Fail unless there is a matching job, and return all that match.

        Args:
            queue: the queue, or the handler of an app. Default: all queues.
            payload: what the payload contains, as for `all_enqueued`. Default: anything.
            count: the number of matching jobs. Default: at least one.
            connection: as for `all_enqueued`.
            **filters: as for `all_enqueued`.

        Raises:
            AssertionError: with a list of the jobs in the queue, and how each one differs.
            QueueNotFoundError: if there is no such queue.
        """
        __tracebackhide__ = True
        wanted = Wanted(payload, filters)
        async with self._queues(queue, connection) as queues:
            jobs = await queues.jobs()
        return _matching(wanted, jobs, describe, noun="job", queue=queue, count=count)

    async def refute_enqueued(
        self,
        queue: Queue | None = None,
        payload: Any = None,
        *,
        connection: Any = None,
        **filters: Unpack[JobFilters],
    ) -> None:
        """Fail if there is a matching job; the arguments are those of `assert_enqueued`.

        Raises:
            AssertionError: with a list of the jobs in the queue.
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
        """Run all ready jobs with a worker in this process, until none is left.

        This includes jobs that these jobs enqueue. The two options skip waiting time: whenever
        nothing is ready, the message that is due next is made due at once, so the jobs run in the
        order in which they would be due.

        Args:
            handlers: an app, or one of its handlers; a mapping of queues to handlers; or a single
                handler for all queues. Queues that an app declares are created if necessary.
            queue: the only queue to drain. Default: those that `handlers` names, else all.
            with_scheduled: whether to run jobs that were enqueued with a delay, and jobs that were
                snoozed in their first attempt. Default false.
            with_retries: whether to run jobs that wait for their next attempt, until they succeed
                or become dead letters. Default false.
            raise_errors: whether to raise, at the end, the exception of the first attempt that
                failed. An outcome of the handler, such as `DeadLetter`, is not an error.
                Default: true, or false with `with_retries`.
            concurrency: how many jobs run at once; at least as many as there are queues. Default 1.
            max_attempts: give up after so many attempts. Default 10,000.
            timeout_seconds: give up after this time. Default 30.

        Raises:
            DrainError: if it was given up, with a list of the jobs left; or if a queue is paused.
            JobFailedError: if an attempt failed without an exception of its handler: invalid
                payload, or time limit.
            Exception: an exception of a handler, see `raise_errors`.
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
            drained = await drain(database, self.url, known, options, encryption=self.encryption)
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
        """Make waiting messages due as if time had passed, and return how many became due.

        This moves the due time (`vt`) of scheduled and retrying messages. It changes nothing else:
        the clocks of the database and of Python, and the ages of jobs, dead letters and history
        stay the same.

        Args:
            seconds: how much time passes, in seconds or as a timedelta, 0 to 366 days.
            queue: the queue, or the handler of an app. Default: all queues.
            with_leases: whether leases end earlier, too. A job whose lease has ended is lost, as if
                its worker had been killed, and the next claim takes it. Default false.

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
        """Return dead letters, oldest first; of each queue the newest 1,000 at most.

        Args:
            queue: the queue in which they died, or the handler of an app. Default: all queues.
            payload: only those whose payload contains this, as for `all_enqueued`. Default: any.
            **filters: only those with this run_id, workflow_id, project_id, error_type, or number
                of attempts.

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
        """Fail unless there is a matching dead letter, and return all that match.

        Args:
            queue: the queue in which it died, or the handler of an app. Default: all queues.
            payload: what the payload contains, as for `all_enqueued`. Default: anything.
            count: the number of matching dead letters. Default: at least one.
            **filters: as for `dead_letters`.

        Raises:
            AssertionError: with a list of the dead letters, and how each one differs.
            QueueNotFoundError: if there is no such queue.
        """
        __tracebackhide__ = True
        wanted = Wanted(payload, filters)
        async with self._queues(queue, None) as queues:
            found = await queues.dead_letters()
        return _matching(
            wanted, found, describe_dead_letter, noun="dead letter", queue=queue, count=count
        )

    async def replay(
        self,
        queue: Queue | None = None,
        *,
        error_type: str | None = None,
    ) -> list[int]:
        """Replay dead letters: they become jobs again, ready now and with no attempt used.

        Args:
            queue: the queue in which they died, or the handler of an app. Default: all queues.
            error_type: only those of this error type. Default: all; of each queue the oldest 1,000.

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
            yield await DatabaseQueues.find(
                Database.of_caller(connection), name_of(queue), self.encryption
            )
            return
        async with self._connected() as database:
            yield await DatabaseQueues.find(database, name_of(queue), self.encryption)


def _matching(
    wanted: Wanted,
    found: Sequence[_Row],
    describe_one: Callable[..., str],
    *,
    noun: str,
    queue: Queue | None,
    count: int | None,
) -> list[_Row]:
    """Return what matches, or raise AssertionError with a list of everything found."""
    __tracebackhide__ = True
    findings = [
        Finding(describe_one(each, with_queue=queue is None), wanted.fault_of(each))
        for each in found
    ]
    fault = failure(wanted, findings, noun=noun, queue=name_of(queue), count=count)
    if fault is not None:
        raise AssertionError(fault)
    return [each for each, finding in zip(found, findings, strict=True) if finding.fault is None]
