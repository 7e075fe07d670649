"""Jobs: what a producer enqueues, what a handler sees, and the JSON in between."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeAlias, TypeVar
from uuid import UUID

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
)

from meshhook.errors import InvalidJobError, InvalidSettingError
from meshhook.priorities import Priority, priority_of
from meshhook.retry import policy_from_header

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from meshhook.cancellation import Cancellation
    from meshhook.follow_ups import FollowUp

PayloadT = TypeVar("PayloadT")

JobKey: TypeAlias = tuple[int, float]
"""A job's identity: its msg_id and when it was enqueued. An id alone may be used again: after a
queue was dropped and recreated, or after a database lost its latest changes."""

CLAIM_HEADER = "meshhook-claim"
"""The header in which a claim notes what it knew of a message that was read before without an
outcome."""
DEAD_LETTER_HEADER = "meshhook-dead-letter"
"""The header of a dead letter that says how its job failed."""
FAILED_JOB_HEADER = "meshhook-failed-job"
"""The header of a job that follows a dead letter: how the other job failed, and how many dead
letters lie before it in a row."""
ON_DEAD_LETTER_HEADER = "meshhook-on-dead-letter"
"""The header of a job that another one follows if it becomes a dead letter: that one's queue,
message, headers, key and delay."""
GROUP_HEADER = "meshhook-group"
"""The header of a job of a group: the group's id."""
FINISHED_GROUP_HEADER = "meshhook-finished-group"
"""The header of a group's callback: the group, and how its jobs ended."""
EXPIRES_AT_HEADER = "meshhook-expires-at"
"""The header of a job with a deadline of its own: the time after which it is not started."""
EXPIRES_IN_HEADER = "meshhook-expires-in"
"""The same in seconds since the job was enqueued."""
RETRY_HEADER = "meshhook-retry"
"""The header of a job with a retry policy of its own: the given fields of `RetryPolicy`."""
SCHEDULE_HEADER = "meshhook-schedule"
"""The header of a job of a schedule: its name, and the due time."""
UNIQUE_HEADER = "meshhook-unique"
"""The header of a job that has a unique key."""
_LINKING_HEADERS = frozenset({UNIQUE_HEADER, GROUP_HEADER, ON_DEAD_LETTER_HEADER})

MAX_ID_LENGTH = 200
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}.*")


def _id_as_text(value: object) -> object:
    return str(value) if isinstance(value, UUID) else value


JobId = Annotated[str, BeforeValidator(_id_as_text), Field(min_length=1, max_length=MAX_ID_LENGTH)]
"""An identifier of a run, workflow or project: text of 1 to 200 characters, or a UUID."""


class WorkflowJob(BaseModel):
    """A job to enqueue: one step of a workflow's run, with any payload."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: JobId
    """The run of the workflow that this job belongs to."""
    workflow_id: JobId
    """The workflow that the run belongs to."""
    project_id: JobId
    """The project that the workflow belongs to."""
    payload: Any = Field(default_factory=dict)
    """Anything that JSON can hold; models, UUIDs and times are written as JSON."""


@dataclass(frozen=True, slots=True)
class FinishedGroup:
    """A group of jobs that has finished, as its callback sees it."""

    queue: str
    """The queue of its jobs."""
    name: str
    """Its name."""
    total: int
    """How many jobs it had."""
    succeeded: int
    """How many succeeded."""
    failed: int
    """How many became dead letters, were archived with an error, expired, or were lost."""
    cancelled: int
    """How many were cancelled."""


@dataclass(frozen=True, slots=True)
class FailedJob:
    """A job that has become a dead letter, as the job sees it that follows it."""

    queue: str
    """Its queue."""
    msg_id: int
    """The id that it had there."""
    dead_letter_id: int
    """The id of the dead letter, by which it is shown, replayed and deleted."""
    error_type: str
    """The type of the last error."""
    error_message: str
    """The message of that error."""
    attempts: int
    """How many attempts it had."""


@dataclass(frozen=True, slots=True)
class DueTime:
    """The due time of a schedule, as the job sees that it was enqueued for."""

    schedule: str
    """The name of the schedule."""
    due_at: datetime
    """The due time, in UTC: unique among the jobs of the schedule. Of a schedule that was run by
    hand, when that was."""


class Job(Generic[PayloadT]):
    """A claimed message, as a handler sees it: one attempt of one job."""

    __slots__ = (
        "_complete",
        "_payload",
        "_read_payload",
        "attempt",
        "body",
        "cancellation",
        "claimed_timestamp",
        "enqueued_timestamp",
        "headers",
        "is_encrypted",
        "key",
        "lease_expired",
        "lost_attempts",
        "max_attempts",
        "msg_id",
        "project_id",
        "queue",
        "read_ct",
        "ready_timestamp",
        "run_id",
        "started_timestamp",
        "workflow_id",
    )

    queue: str
    """The queue it was claimed from."""
    msg_id: int
    """The message's id, unique in its queue."""
    key: JobKey
    """The job's identity, unique even if its msg_id is used again."""
    read_ct: int
    """How often the message has been read, by anyone. With `key` it identifies the lease."""
    attempt: int
    """Which attempt this is, from 1. Reads by other clients and released leases do not count."""
    lost_attempts: int
    """How many attempts directly before this one ended without an outcome: their lease ran out."""
    lease_expired: bool
    """Whether the lease has ended because the database could not be reached to extend it: another
    worker may be running the job. Check it before an effect that must not happen twice. Also set
    for a job of a batch whose lease was lost, since the rest of the batch goes on."""
    cancellation: Cancellation | None
    """The request to cancel the job while it runs; None if there is none. An async handler is
    stopped by a `CancelledError`; a plain function must look here, and return. So must a handler of
    batches, which is stopped only if all of its jobs are to be cancelled."""
    max_attempts: int
    """How many attempts the job has in all: as its own retry policy says, else the queue's."""
    enqueued_timestamp: float
    """When the job was enqueued, in seconds since 1970 by the database's clock."""
    ready_timestamp: float
    """When it last became ready to run, in seconds since 1970 by the database's clock."""
    claimed_timestamp: float
    """When its lease began, in seconds since 1970 by the database's clock."""
    started_timestamp: float
    """When this attempt began to run, in seconds since 1970 by the database's clock."""
    headers: dict[str, Any]
    """The message's headers."""
    body: str
    """The message as JSON text; empty while a large message has been claimed but not read yet."""
    is_encrypted: bool
    """Whether its message was encrypted; `body` and `payload` are decrypted."""
    run_id: str | None
    """The run it belongs to, if the message names one."""
    workflow_id: str | None
    """The workflow it belongs to, if the message names one."""
    project_id: str | None
    """The project it belongs to, if the message names one."""

    def __init__(
        self,
        *,
        queue: str,
        msg_id: int,
        attempt: int,
        max_attempts: int,
        enqueued_timestamp: float,
        ready_timestamp: float,
        claimed_timestamp: float,
        headers: dict[str, Any],
        body: str,
    ) -> None:
        self.queue = queue
        self.msg_id = msg_id
        self.key = (msg_id, enqueued_timestamp)
        self.read_ct = self.attempt = attempt
        self.lost_attempts = 0
        self.lease_expired = self.is_encrypted = False
        self.cancellation = None
        self.max_attempts = max_attempts
        self.enqueued_timestamp = enqueued_timestamp
        self.ready_timestamp = ready_timestamp
        self.claimed_timestamp = claimed_timestamp
        self.started_timestamp = claimed_timestamp
        self.headers = headers
        self.body = body
        self.run_id = self.workflow_id = self.project_id = None
        self._complete: Callable[[Job[Any], Any, Any, Any], Awaitable[None]] | None = None
        self._read_payload: Callable[[str], PayloadT] | None = None
        self._payload: PayloadT

    @property
    def payload(self) -> PayloadT:
        """The payload: an instance of the handler's model, else plain JSON values.

        Raises:
            InvalidPayloadError: without a model, if the body cannot be read as JSON, such as
                one that is nested a thousand levels deep.
        """
        if self._read_payload is not None:
            self._payload = self._read_payload(self.body)
            self._read_payload = None
        return self._payload

    @payload.setter
    def payload(self, payload: PayloadT) -> None:
        self._payload = payload
        self._read_payload = None

    def read_payload_with(self, read: Callable[[str], PayloadT]) -> None:
        """Decode the body with `read` when the payload is first accessed."""
        self._read_payload = read

    @property
    def priority(self) -> Priority:
        """Its priority. Normal if its message says none."""
        return priority_of(self.headers)

    @property
    def enqueued_at(self) -> datetime:
        """When the job was enqueued, by the database's clock."""
        return moment_from(self.enqueued_timestamp)

    @property
    def ready_at(self) -> datetime:
        """When it last became ready to run, by the database's clock."""
        return moment_from(self.ready_timestamp)

    @property
    def claimed_at(self) -> datetime:
        """When its lease began, by the database's clock."""
        return moment_from(self.claimed_timestamp)

    @property
    def started_at(self) -> datetime:
        """When this attempt began to run, by the database's clock."""
        return moment_from(self.started_timestamp)

    @property
    def is_last_attempt(self) -> bool:
        """Whether this is the last attempt, so that a failure would be final."""
        return self.attempt >= self.max_attempts

    def apply_retry_policy(self) -> None:
        """Take `max_attempts` from the job's own retry policy, if its headers have a usable one."""
        if RETRY_HEADER in self.headers:
            with suppress(InvalidSettingError):
                own = policy_from_header(self.headers[RETRY_HEADER])
                self.max_attempts = own.max_attempts or self.max_attempts

    @property
    def settled_attempts(self) -> int:
        """How many earlier attempts have a recorded outcome."""
        return self.attempt - 1 - self.lost_attempts

    @property
    def trace_id(self) -> str | None:
        """The trace that it was enqueued in, from the header `traceparent` (W3C Trace Context)."""
        found = _TRACEPARENT.fullmatch(str(self.headers.get("traceparent", "")))
        return None if found is None else found.group(1)

    @property
    def finished_group(self) -> FinishedGroup | None:
        """The group whose callback this job is; None if it is no callback."""
        found = self.headers.get(FINISHED_GROUP_HEADER)
        if not isinstance(found, dict):
            return None
        texts = {name: found.get(name) for name in ("queue", "name")}
        counts = {name: found.get(name) for name in ("total", "succeeded", "failed", "cancelled")}
        if any(type(each) is not str for each in texts.values()) or any(
            type(each) is not int for each in counts.values()
        ):
            return None  # another client's value under our header's name
        return FinishedGroup(**texts, **counts)  # type: ignore[arg-type]

    @property
    def failed_job(self) -> FailedJob | None:
        """The job that has become a dead letter and that this one follows; None if it does not."""
        found = self.headers.get(FAILED_JOB_HEADER)
        if not isinstance(found, dict):
            return None
        texts = {name: found.get(name) for name in ("queue", "error_type", "error_message")}
        counts = {name: found.get(name) for name in ("msg_id", "dead_letter_id", "attempts")}
        if any(type(each) is not str for each in texts.values()) or any(
            type(each) is not int for each in counts.values()
        ):
            return None  # another client's value under our header's name
        return FailedJob(**texts, **counts)  # type: ignore[arg-type]

    @property
    def due_time(self) -> DueTime | None:
        """The due time of the schedule that enqueued this job; None if none did."""
        found = self.headers.get(SCHEDULE_HEADER)
        if not isinstance(found, dict):
            return None
        name, text = found.get("name"), found.get("due_at")
        try:
            due_at = datetime.fromisoformat(text) if isinstance(text, str) else None
        except ValueError:
            due_at = None
        if not isinstance(name, str) or due_at is None or due_at.utcoffset() is None:
            return None  # another client's value under our header's name
        return DueTime(name, due_at)

    async def complete(
        self,
        *,
        connection: Any,
        then: FollowUp | Sequence[FollowUp] = (),
        result: Any = None,
    ) -> None:
        """Settle this job as done inside the caller's own transaction.

        The job is done if and only if that transaction commits, together with everything else it
        writes: an exactly-once effect in that database. Call it last, then return nothing.

        Args:
            connection: an asyncpg connection to the queue's database, inside a transaction.
            then: jobs to enqueue in the same statement, as with `Done`. Default: none.
            result: what is kept as the result, if the queue keeps results. Default: nothing.

        Raises:
            LeaseLostError: if the job is no longer this worker's; let it roll the transaction
                back.
            DatabaseConflictError: in a REPEATABLE READ or SERIALIZABLE transaction that began
                before the lease was last extended; that happens every third of the queue's
                visibility_timeout_seconds.
            InvalidSettingError: if it is not an asyncpg connection, or not in a transaction.
            InvalidJobError: outside a worker's handler, or a job that follows cannot be stored.
        """
        if self._complete is None:
            message = "job.complete() works inside a worker's handler; use acknowledge() elsewhere"
            raise InvalidJobError(message)
        await self._complete(self, connection, then, result)

    def __repr__(self) -> str:
        """Name the job, without its payload."""
        return f"<Job {self.queue}/{self.msg_id} attempt {self.attempt} of {self.max_attempts}>"


def has_links(headers: dict[str, Any]) -> bool:
    """Return whether something hangs on the end of a job with these headers: see `Settlement`."""
    return not _LINKING_HEADERS.isdisjoint(headers)


def moment_from(timestamp: float) -> datetime:
    """Return a moment; if Python cannot represent it, the nearest one that it can."""
    try:
        return datetime.fromtimestamp(timestamp, UTC)
    except (OverflowError, ValueError, OSError):
        is_late = timestamp > 0
        return datetime.max.replace(tzinfo=UTC) if is_late else datetime.min.replace(tzinfo=UTC)
