"""Draining: a worker runs the jobs of a test's database until none is ready."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry

from meshhook.administration import get_queue_config
from meshhook.outcomes import AttemptOutcome
from meshhook.store import queries
from meshhook.testing.enqueued import describe
from meshhook.testing.expectations import SHOWN_JOBS
from meshhook.testing.queues import LEASED_STATE, DatabaseQueues
from meshhook.testing.recording import HandlerEnds, is_outcome
from meshhook.worker import Worker

if TYPE_CHECKING:
    import asyncpg

    from meshhook.encryption.key_ring import KeyRing
    from meshhook.postgres.database import Database

Handlers = Mapping[str, Any]
"""The handler of each queue, by its name."""

FIRST_PAUSE_SECONDS = 0.002
LONGEST_PAUSE_SECONDS = 0.03

_BUSY_STATES = ("ready", "lost", LEASED_STATE)
_COLUMNS = (
    *("queue", "msg_id", "attempt", "outcome", "run_id", "workflow_id", "project_id"),
    *("error_type", "error_message", "error_stack"),
)
_FAILED = (AttemptOutcome.RETRIED, AttemptOutcome.DEAD_LETTERED, AttemptOutcome.ARCHIVED)


class DrainError(AssertionError):
    """A drain was given up; the message lists the jobs that are left."""


class JobFailedError(AssertionError):
    """A job failed without an exception of its handler: invalid payload, or time limit."""


@dataclass(frozen=True, slots=True)
class RecordedAttempt:
    """One attempt made by a drain, as the history has it."""

    queue: str
    msg_id: int
    attempt: int
    """The number of the attempt, from 1."""
    outcome: str
    """succeeded, retried, snoozed, dead_lettered, cancelled, archived or expired."""
    run_id: str | None
    workflow_id: str | None
    project_id: str | None
    error_type: str | None
    error_message: str | None
    error_stack: str | None = field(repr=False)
    error: BaseException | None = field(repr=False)
    """The exception or outcome that the handler raised, if any."""

    @property
    def has_failed(self) -> bool:
        """Whether it failed, other than by an outcome that the handler chose."""
        return self.outcome in _FAILED and not is_outcome(self.error)


@dataclass(frozen=True, slots=True)
class Drained:
    """The result of a drain."""

    attempts: tuple[RecordedAttempt, ...]
    """All attempts, in the order in which they ended."""
    left: dict[str, int]
    """How many messages remain in the queues, by state: those that are not due yet, and those that
    are leased by others."""

    @property
    def counts(self) -> dict[str, int]:
        """The number of attempts by outcome, without outcomes that did not occur."""
        return dict(Counter(attempt.outcome for attempt in self.attempts))

    @property
    def errors(self) -> tuple[BaseException, ...]:
        """The exceptions that handlers raised, not counting outcomes."""
        return tuple(
            each.error for each in self.attempts if each.has_failed and each.error is not None
        )

    def __repr__(self) -> str:
        """Show counts and failures, for the message of a failed assertion."""
        failed = [
            f"{each.queue}/{each.msg_id} attempt {each.attempt} {each.outcome}: "
            f"{each.error_type}: {each.error_message}"
            for each in self.attempts
            if each.error_type is not None
        ]
        return f"<Drained {self.counts}, left {self.left}{', ' if failed else ''}{failed or ''}>"


@dataclass(frozen=True, slots=True)
class DrainOptions:
    """The options of `QueueDatabase.drain`."""

    with_scheduled: bool
    with_retries: bool
    concurrency: int
    max_attempts: int
    timeout_seconds: float

    @property
    def hurried_states(self) -> tuple[str, ...]:
        """The states of messages that are made due instead of being waited for."""
        names = ("scheduled",) if self.with_scheduled else ()
        return (*names, "retrying") if self.with_retries else names


async def drain(
    database: Database,
    url: str,
    handlers: Handlers,
    options: DrainOptions,
    *,
    encryption: KeyRing | None = None,
) -> Drained:
    """Run the jobs of queues until none is ready.

    Args:
        database: the database, with a single connection.
        url: the URL of the same database, for the worker.
        handlers: the handler of each queue.
        options: the options.
        encryption: the keys of the worker. Default: none.

    Raises:
        DrainError: if it was given up, or a queue is paused.
        QueueNotFoundError, InvalidHandlerError, InvalidSettingError: naming what is wrong.
    """
    ends = HandlerEnds()
    recorded = {name: ends.recorded(handler) for name, handler in handlers.items()}
    worker = Worker(
        url,
        list(recorded),
        recorded,
        concurrency=max(options.concurrency, len(recorded)),
        grace_seconds=0,
        registry=CollectorRegistry(),
        name=f"meshhook.testing-{secrets.token_hex(8)}",
        encryption=encryption,
    )
    for name in recorded:
        if (await get_queue_config(database, name)).paused:
            raise DrainError(f"queue {name!r} is paused, so no worker claims its jobs")
    queues = DatabaseQueues(database, worker.queues)
    await queues.note_leases()
    async with worker:
        await _wait_for_end(queues, worker, options)
    rows = await database.fetch(queries.load("list_attempts_of_worker"), worker.name)
    left = await queues.count(with_held=True)
    return Drained(
        attempts=tuple(_attempt(row, ends) for row in rows),
        left={state: count.messages for state, count in left.items()},
    )


def raise_first_error(drained: Drained) -> None:
    """Raise the exception of the first attempt that failed, with a note that names the job.

    Raises:
        JobFailedError: if its handler raised none.
        Exception: the handler's exception.
    """
    failed = [each for each in drained.attempts if each.has_failed]
    if not failed:
        return
    first = failed[0]
    text = f"{first.error_type}: {first.error_message}"
    error = first.error if isinstance(first.error, Exception) else JobFailedError(text)
    error.add_note(
        f"raised by job {first.msg_id} of queue {first.queue!r} in attempt {first.attempt}, "
        f"which ended as {first.outcome}"
    )
    if len(failed) > 1:
        error.add_note(f"attempts that failed in this drain: {len(failed)}")
    raise error


async def _wait_for_end(queues: DatabaseQueues, worker: Worker, options: DrainOptions) -> None:
    deadline = time.monotonic() + options.timeout_seconds
    pause_seconds = FIRST_PAUSE_SECONDS
    processed = 0
    while True:
        counts = await queues.count()
        if not any(state in counts for state in _BUSY_STATES):
            waiting = [counts[state] for state in options.hurried_states if state in counts]
            if not waiting:
                return
            await queues.advance(
                min(count.due_in_seconds for count in waiting), options.hurried_states
            )
            pause_seconds = FIRST_PAUSE_SECONDS
        if any(check.name == "worker" and check.fault for check in worker.liveness()):
            return  # the worker has failed; stopping it raises the reason
        before, processed = processed, worker.get_stats().processed
        if processed > options.max_attempts:
            reason = f"{processed} attempts were made, and max_attempts is {options.max_attempts}"
            raise DrainError(await _what_is_left(queues, worker, reason))
        if time.monotonic() > deadline:
            reason = f"it did not end within {options.timeout_seconds:g} seconds"
            raise DrainError(await _what_is_left(queues, worker, reason))
        pause_seconds = (
            FIRST_PAUSE_SECONDS
            if processed > before
            else min(pause_seconds * 1.5, LONGEST_PAUSE_SECONDS)
        )
        await asyncio.sleep(pause_seconds)


async def _what_is_left(queues: DatabaseQueues, worker: Worker, reason: str) -> str:
    jobs = await queues.jobs()
    faults = [f"{check.name}: {check.fault}" for check in worker.readiness() if check.fault]
    lines = [f"the drain was given up: {reason}", *faults, f"Jobs left in the queues: {len(jobs)}"]
    lines += [f"  {describe(job, with_queue=True)}" for job in jobs[:SHOWN_JOBS]]
    return "\n".join(lines)


def _attempt(row: asyncpg.Record, ends: HandlerEnds) -> RecordedAttempt:
    error = ends.get((row["queue"], row["msg_id"], row["attempt"]))
    # At the time limit a handler is cancelled, but its attempt fails with another error.
    if not is_outcome(error) and type(error).__qualname__ != row["error_type"]:
        error = None
    values = {name: row[name] for name in _COLUMNS}
    return RecordedAttempt(error=error, **values)
