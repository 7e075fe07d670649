"""Rows about jobs: a job's state, its attempts, and how it ended."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from meshhook import outcomes
from meshhook.cancellation import Cancellation
from meshhook.jobs import GROUP_HEADER, UNIQUE_HEADER
from meshhook.names import MAX_KEY_LENGTH
from meshhook.outcomes import AttemptOutcome
from meshhook.priorities import PRIORITY_NAMES, priority_of
from meshhook.store.dead_letter_rows import DeadLetterJob

if TYPE_CHECKING:
    import asyncpg

LIVE_STATES = ("ready", "scheduled", "running", "retrying", "lost")
"""The states of a job that is in its queue."""
FINAL_STATES = tuple(
    outcome.value
    for outcome in AttemptOutcome
    if outcome in outcomes.FINAL_OUTCOMES or outcome is AttemptOutcome.REPLAYED
)
"""The states of a job that has left its queue."""

KEPT_STATES = (AttemptOutcome.SUCCEEDED.value, AttemptOutcome.CANCELLED.value)
"""The states of finished jobs whose bodies are kept, in queues that keep any."""

JobKey = tuple[str, int, datetime | None]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt that has ended."""

    attempt: int
    """Which attempt it was, from 1. A snoozed attempt is not spent, so its number is used again."""
    outcome: str
    """A value of `AttemptOutcome`."""
    worker: str | None
    """The worker that ran it; None if it is unknown, as for a lost attempt."""
    started_at: datetime | None
    finished_at: datetime
    error_type: str | None
    error_message: str | None
    error_stack: str | None
    trace_id: str | None
    retry_at: datetime | None
    """When the job became ready again, after a retry or a snooze."""
    result: str | None
    """What the handler returned, as JSON text; None if that was nothing or was not kept."""


@dataclass(frozen=True, slots=True)
class JobLife:
    """A job's whole life."""

    queue: str
    msg_id: int
    state: str
    """ready, scheduled, running, retrying or lost while it is in its queue; after that the outcome
    of its last attempt, or `replayed`."""
    attempts_made: int
    """How many attempts it has had, the one that is running included."""
    run_id: str | None
    workflow_id: str | None
    project_id: str | None
    enqueued_at: datetime | None
    """None only if neither the message nor the history has it."""
    ready_at: datetime | None
    """When it is or was ready to run, or its lease ends; None once it has left its queue."""
    body: str | None
    """The message as JSON text while it is in its queue or a dead letter, or if it was kept after
    its end; None if it is over 16 MiB."""
    attempts: tuple[Attempt, ...]
    """The attempts that have ended, oldest first: at most the last 1,000 in the history."""
    dead_letter_id: int | None
    """The dead letter that it is now; None if it is not one."""
    replayed_at: datetime | None
    """When it was replayed, as a dead letter, or last as a finished job whose body was kept."""
    replayed_as_id: int | None
    """The msg_id of the job that it was replayed as."""
    unique_key: str | None = None
    """The unique key that it was enqueued with, whether it still has it or not; None if that was
    none, or once it has left its queue for another end than a dead letter."""
    group: str | None = None
    """The name of the group that it is one of the jobs of; None if of none, or as above."""
    cancellation: Cancellation | None = None
    """The request to cancel it while it ran, if its worker has not done so yet; else None."""
    replay_of_id: int | None = None
    """The msg_id of the job of the same queue that it is a replay of, while its message or its body
    is there; None if of none."""
    replayed_as: JobLife | None = None
    """The life of that job; None if nothing is left of it."""
    priority: str | None = None
    """urgent, high, normal or low while it is in its queue or a dead letter, also if the queue has
    no priorities; None once it has ended otherwise."""

    @property
    def last(self) -> JobLife:
        """The job that it has become after all replays; itself if it was never replayed."""
        life = self
        while life.replayed_as is not None:
            life = life.replayed_as
        return life


@dataclass(frozen=True, slots=True)
class JobSummary:
    """A job in a list."""

    queue: str
    msg_id: int
    state: str
    """As in `JobLife`."""
    attempts: int
    """How many attempts it has had, the one that is running included."""
    run_id: str | None
    workflow_id: str | None
    project_id: str | None
    enqueued_at: datetime | None
    ready_at: datetime | None
    """When it is or was ready to run, or its lease ends; None once it has left its queue."""
    last_outcome: str | None
    """The outcome of its last attempt; None if none has ended."""
    last_finished_at: datetime | None
    error_type: str | None
    """What went wrong in its last attempt."""
    error_message: str | None
    replayed_as_id: int | None
    """The msg_id of the job that it was replayed as."""
    priority: str | None = None
    """urgent, high, normal or low while it is in its queue; None once it has left it."""


def newest_birth(
    live: asyncpg.Record | None, rows: Sequence[asyncpg.Record], dead: DeadLetterJob | None
) -> datetime | None:
    """Return when the newest of the jobs with a msg_id was enqueued."""
    births = [row["enqueued_at"] for row in rows]
    if live is not None:
        births.append(live["enqueued_at"])
    if dead is not None:
        births.append(dead.first_enqueued_at)
    return max((birth for birth in births if birth is not None), default=None)


def life_from(
    queue_name: str,
    msg_id: int,
    *,
    enqueued_at: datetime | None,
    live: asyncpg.Record | None,
    rows: Sequence[asyncpg.Record],
    dead: DeadLetterJob | None,
) -> JobLife:
    """Return the life described by a message, attempts (newest first) and a dead letter.

    At least one of them must exist, and all must belong to the same job.
    """
    last = rows[0] if rows else None
    replayed = last if last is not None and last["outcome"] == AttemptOutcome.REPLAYED else None
    attempts = [row for row in reversed(rows) if row["outcome"] != AttemptOutcome.REPLAYED]
    if last is not None and last["outcome"] in FINAL_STATES:
        live = None
    if replayed is not None:
        dead = None
    made = max((row["attempt"] for row in rows), default=0)
    if live is not None:
        state, made, body = live["state"], live["attempts"], live["body"]
    elif dead is not None:
        state, made, body = AttemptOutcome.DEAD_LETTERED.value, dead.attempts or made, dead.body
    else:
        state, body = rows[0]["outcome"], None
    named: Any = live or last
    if named is None and dead is not None:
        named = asdict(dead)
    return JobLife(
        queue=queue_name,
        msg_id=msg_id,
        state=state,
        attempts_made=made,
        run_id=named["run_id"],
        workflow_id=named["workflow_id"],
        project_id=named["project_id"],
        enqueued_at=enqueued_at,
        ready_at=None if live is None else live["ready_at"],
        body=body,
        attempts=tuple(Attempt(**{n: row[n] for n in Attempt.__slots__}) for row in attempts),
        dead_letter_id=None if dead is None else dead.id,
        replayed_at=None if replayed is None else replayed["finished_at"],
        replayed_as_id=None if replayed is None else replayed["replayed_as"],
        unique_key=_unique_key_of(live, dead),
        replay_of_id=None if live is None else live["replay_of"],
        priority=_priority_name(live, dead),
    )


def _priority_name(live: asyncpg.Record | None, dead: DeadLetterJob | None) -> str | None:
    if live is not None:
        band: int = live["priority"]
        return PRIORITY_NAMES[band]
    return None if dead is None else PRIORITY_NAMES[priority_of(dead.headers)]


def with_kept_body(life: JobLife, row: asyncpg.Record) -> JobLife:
    """Add to a finished job its body, which was kept, and as what it was replayed."""
    return replace(
        life,
        body=row["body"],
        replayed_at=row["replayed_at"],
        replayed_as_id=row["replayed_as"],
        replay_of_id=row["replay_of"],
    )


def _unique_key_of(live: asyncpg.Record | None, dead: DeadLetterJob | None) -> str | None:
    if live is not None:
        found: str | None = live["unique_key"]
        return found
    asked = None if dead is None else dead.headers.get(UNIQUE_HEADER)
    key = asked.get("key") if isinstance(asked, dict) else None
    return key[:MAX_KEY_LENGTH] if isinstance(key, str) else None


def group_id_of(live: asyncpg.Record | None, dead: DeadLetterJob | None) -> UUID | None:
    """Return the id of the group that a message or a dead letter names; None if it names none."""
    named = None if dead is None else dead.headers.get(GROUP_HEADER)
    if live is not None:
        named = live["group_id"]
    try:
        return UUID(named) if isinstance(named, str) else None
    except ValueError:
        return None


def with_last_attempt(job: JobSummary, row: asyncpg.Record) -> JobSummary:
    """Add the outcome of the last attempt to a job that is in its queue."""
    return replace(
        job,
        last_outcome=row["outcome"],
        last_finished_at=row["finished_at"],
        error_type=row["error_type"],
        error_message=row["error_message"],
    )


def summary_from(row: asyncpg.Record, queue_name: str) -> JobSummary:
    """Return the summary in a row, of a message or of the history."""
    is_recorded = "finished_at" in row.keys()  # noqa: SIM118 - a record's `in` looks at its values
    return JobSummary(
        queue=queue_name,
        msg_id=row["msg_id"],
        state=row["state"],
        attempts=row["attempts"],
        run_id=row["run_id"],
        workflow_id=row["workflow_id"],
        project_id=row["project_id"],
        enqueued_at=row["enqueued_at"],
        ready_at=row["ready_at"],
        last_outcome=row["state"] if is_recorded else None,
        last_finished_at=row["finished_at"] if is_recorded else None,
        error_type=row["error_type"] if is_recorded else None,
        error_message=row["error_message"] if is_recorded else None,
        replayed_as_id=row["replayed_as"] if is_recorded else None,
        priority=None if is_recorded else PRIORITY_NAMES[row["priority"]],
    )


def by_key(jobs: Iterable[JobSummary]) -> dict[JobKey, JobSummary]:
    """Return jobs by their identity."""
    return {job_key(job): job for job in jobs}


def job_key(job: JobSummary) -> JobKey:
    """Return a job's identity, unique even if its queue was dropped and recreated."""
    return job.queue, job.msg_id, job.enqueued_at
