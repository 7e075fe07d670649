"""`App`: one object for the database, the handlers and the queues of a program."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Unpack, overload

from meshhook.application.declaration import BatchDeclaration, JobDeclaration
from meshhook.application.periodic import PeriodicDeclaration
from meshhook.application.producer import AppProducer
from meshhook.application.program import run_as_program
from meshhook.application.queue_handler import QueueHandler
from meshhook.application.queue_options import checked_options
from meshhook.application.workers import AppWorkers
from meshhook.arguments import check_range
from meshhook.errors import InvalidHandlerError, InvalidSettingError
from meshhook.escaping import quoted
from meshhook.names import validate_queue_name
from meshhook.priorities import checked_priority
from meshhook.worker.assignments import MAX_WEIGHT
from meshhook.worker.batch_options import checked_batch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from meshhook.application.periodic import PeriodicOptions
    from meshhook.application.queue_options import QueueOptions
    from meshhook.priorities import AnyPriority
    from meshhook.retry import RetryFunction


class App(AppProducer, AppWorkers):
    """The database, the handlers and the queues of a program.

    The decorator `job` declares a handler. The first `enqueue` opens the database; `async with
    app:` opens it immediately and closes it at the end. Workers run as a program (`run`, or
    `meshhook worker --app MODULE:APP`) or inside another program (`async with app.workers():`).

    The database is the only source of a queue's settings, and operators change them while workers
    run. The settings in the decorator apply when the queue is created: when the app first enqueues
    into it, or when a worker starts, if the database has no queue of that name. The settings of an
    existing queue are never changed.
    """

    @overload
    def job(
        self,
        queue: str,
        *,
        payload_model: Any = None,
        batch: None = None,
        weight: int = 1,
        retry: RetryFunction | None = None,
        priority: AnyPriority | None = None,
        **settings: Unpack[QueueOptions],
    ) -> JobDeclaration: ...

    @overload
    def job(
        self,
        queue: str,
        *,
        payload_model: Any = None,
        batch: int,
        batch_wait_seconds: float | None = None,
        weight: int = 1,
        retry: RetryFunction | None = None,
        priority: AnyPriority | None = None,
        **settings: Unpack[QueueOptions],
    ) -> BatchDeclaration: ...

    def job(
        self,
        queue: str,
        *,
        payload_model: Any = None,
        batch: int | None = None,
        batch_wait_seconds: float | None = None,
        weight: int = 1,
        retry: RetryFunction | None = None,
        priority: AnyPriority | None = None,
        **settings: Unpack[QueueOptions],
    ) -> JobDeclaration | BatchDeclaration:
        """Return a decorator that declares a function as the handler of a queue.

        The function takes the job (`job: Job[Order]`) or only its payload (`order: Order`). The
        annotation gives the type of the payload: a pydantic model, or any type that pydantic can
        validate; `job: Job` accepts any JSON. An async function runs in the event loop, a plain one
        in a thread. `meshhook.outcomes` describes what it may return or raise.

        With `batch` it takes a list: of jobs (`jobs: list[Job[Order]]`) or of payloads (`orders:
        list[Order]`). `create_job_handler` describes what it then returns.

        The decorator returns a `QueueHandler`, whose `enqueue` stores jobs for the handler.

        Args:
            queue: the queue. Each queue has one handler.
            payload_model: the type of the payload, for a function without annotations; it takes a
                job. Default: the type in the annotation.
            batch: the most jobs of one call, 1 to 1000. Default: the function takes one job.
            batch_wait_seconds: how long a batch waits for more jobs, from the claim of its first
                one: 0 to 60. Default 0.
            weight: the queue's share of a worker's slots while several queues have jobs, 1 to 1000.
                Default 1.
            retry: decides when a failed job is retried: takes a `FailedAttempt`, and returns a
                delay of 0 to 7 days in seconds or as a timedelta, or None for a dead letter. It
                runs in the event loop, so it must be quick, and a plain function. It is not asked
                after the last attempt, or if the handler has said so itself. If it fails, the
                retry policy of the queue applies. Default: none.
            priority: the priority of jobs that the app enqueues for which none is said: `urgent`,
                `high`, `normal` or `low`, or 0 to 3. Default: normal.
            **settings: settings for creating the queue if it is missing, such as
                `max_retry_attempts`; see `QueueSettings`. The settings of an existing queue are not
                changed: an operator may have set them.

        Raises:
            InvalidQueueNameError, InvalidSettingError, InvalidJobError: naming the argument.
            InvalidHandlerError: when the decorator is applied, if the function cannot be a handler
                or the queue already has one.
        """
        if callable(queue):
            raise InvalidHandlerError(
                "app.job takes the name of a queue: write @app.job('orders') above the function"
            )
        name = validate_queue_name(queue)
        check_range("weight", weight, MAX_WEIGHT)
        options = checked_batch(batch, batch_wait_seconds)
        make = partial(
            QueueHandler[Any],
            self,
            name,
            payload_model=payload_model,
            batch=options,
            weight=weight,
            retry=retry,
            priority=None if priority is None else checked_priority(priority),
            settings=checked_options(name, settings),
        )
        declaration = JobDeclaration if options is None else BatchDeclaration
        return declaration(self._handlers, make)

    def on_dead_letter(
        self,
        of_queue: str,
        *,
        queue: str | None = None,
        payload_model: Any = None,
        weight: int = 1,
        retry: RetryFunction | None = None,
        **settings: Unpack[QueueOptions],
    ) -> JobDeclaration:
        """Return a decorator that declares the handler of jobs that follow dead letters of a queue.

        For each job of the queue that becomes a dead letter, one is enqueued for this handler, in
        the statement that records it. Its payload tells of the dead letter, and so does
        `Job.failed_job`. If the app creates the queue, it sets `dead_letter_follow_up`; for an
        existing queue, an operator does.

        Args:
            of_queue: the queue whose dead letters are followed.
            queue: the queue of the handler. Default: the name of the other with `_failed` after it.
            payload_model: as in `job`, like all other arguments.
            weight: as in `job`.
            retry: as in `job`.
            **settings: as in `job`, for the queue of the handler.

        Raises:
            InvalidQueueNameError, InvalidSettingError: naming the argument.
            InvalidHandlerError: as in `job`.
        """
        followed = validate_queue_name(of_queue)
        own = validate_queue_name(f"{followed}_failed" if queue is None else queue)
        if own == followed:
            raise InvalidSettingError(
                f"queue={quoted(own)}: what follows its own dead letters would never end; name "
                "another queue"
            )
        declaration = self.job(
            own, payload_model=payload_model, weight=weight, retry=retry, **settings
        )
        self._handlers.follow_dead_letters(followed, own)
        return declaration

    def periodic(
        self,
        cron: str | None = None,
        *,
        name: str | None = None,
        payload: Any = None,
        **options: Unpack[PeriodicOptions],
    ) -> PeriodicDeclaration:
        """Return a decorator that enqueues a job for a handler at due times. Write it above `job`.

        A worker of the queue stores the schedule when it starts, if the database does not have it
        as it is declared here. One that is no longer declared stays in the database: delete it with
        `meshhook schedule delete`.

        Args:
            cron: minute, hour, day of the month, month and day of the week, as `0 9 * * 1-5`; or
                `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`. Default: none; give `every`.
            name: the name of the schedule, unique in the queue. Default: that of the function.
            payload: what the handler receives. Default: an empty object.
            **options: `every`, `tz`, `key`, `priority`, `headers`, `missed`, `overlap`, `retry`,
                `expires_in` and `on_dead_letter`, as `add_schedule` takes them.

        Raises:
            InvalidSettingError, InvalidJobError: naming the argument, such as the expression.
            InvalidHandlerError: when the decorator is applied to anything but a handler.
        """
        return PeriodicDeclaration(cron, name, payload, options)

    def run(
        self,
        queues: str | Iterable[str] | Mapping[str, int] | None = None,
        *,
        concurrency: int | None = None,
        grace_seconds: float | None = None,
        name: str | None = None,
    ) -> None:
        """Run the app's queues as a program, until SIGTERM, SIGINT (Ctrl-C) or SIGHUP.

        This is `meshhook worker --app`, with the command's event loop, logs on standard error,
        metrics port and environment variables. It returns after an orderly stop. Errors are
        printed, and end the program with the command's exit code.

        Args:
            queues: some of the declared queues, as in `worker`. Default: all.
            concurrency: how many jobs run at once. Default: the app's.
            grace_seconds: how long running jobs may take to finish after a stop, 0 to 3600.
                Default 25.
            name: the worker's name in the history. Default: host, process id and a random part.

        Raises:
            SystemExit: with the exit code, unless it is 0.
            InvalidHandlerError: if the app does not declare a queue.
            InvalidSettingError: inside an event loop, or outside the main thread.
        """
        weights = self.weights(queues)
        run_as_program(
            self,
            weights,
            {"concurrency": concurrency, "grace-seconds": grace_seconds, "name": name},
        )

    def __repr__(self) -> str:
        """Name the queues."""
        return f"<App: {', '.join(self._handlers.by_queue) or 'no queues'}>"
