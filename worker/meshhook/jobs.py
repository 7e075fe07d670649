"""Jobs: what a producer enqueues, what a handler sees, and the JSON in between."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar
from uuid import UUID

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
)

from meshhook.errors import InvalidJobError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

PayloadT = TypeVar("PayloadT")

SETTLED_HEADER = "meshhook-settled"
"""The header with the number of attempts whose outcome is recorded."""
DEAD_LETTER_HEADER = "meshhook-dead-letter"
"""The header of a dead letter that says how it died."""

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
    """The workflow that is run."""
    project_id: JobId
    """The project that the workflow belongs to."""
    payload: Any = Field(default_factory=dict)
    """Anything that JSON can hold; models, UUIDs and times are written as JSON."""


class Job(Generic[PayloadT]):
    """A claimed message, as a handler sees it: one attempt of one job."""

    __slots__ = (
        "_complete",
        "_payload",
        "_read_payload",
        "attempt",
        "body",
        "claimed_timestamp",
        "enqueued_timestamp",
        "headers",
        "max_attempts",
        "msg_id",
        "project_id",
        "queue",
        "ready_timestamp",
        "run_id",
        "started_timestamp",
        "workflow_id",
    )

    queue: str
    """The queue it was claimed from."""
    msg_id: int
    """The message's id, unique in its queue."""
    attempt: int
    """Which attempt this is, from 1."""
    max_attempts: int
    """How many attempts the queue allows in all."""
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
    """The message as JSON text."""
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
        self.attempt = attempt
        self.max_attempts = max_attempts
        self.enqueued_timestamp = enqueued_timestamp
        self.ready_timestamp = ready_timestamp
        self.claimed_timestamp = claimed_timestamp
        self.started_timestamp = claimed_timestamp
        self.headers = headers
        self.body = body
        self.run_id = self.workflow_id = self.project_id = None
        self._complete: Callable[[Any], Awaitable[None]] | None = None
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
        """Let the payload be made of the body by `read`, when it is first asked for."""
        self._read_payload = read

    @property
    def enqueued_at(self) -> datetime:
        """When the job was enqueued, by the database's clock."""
        return datetime.fromtimestamp(self.enqueued_timestamp, UTC)

    @property
    def ready_at(self) -> datetime:
        """When it last became ready to run, by the database's clock."""
        return datetime.fromtimestamp(self.ready_timestamp, UTC)

    @property
    def claimed_at(self) -> datetime:
        """When its lease began, by the database's clock."""
        return datetime.fromtimestamp(self.claimed_timestamp, UTC)

    @property
    def started_at(self) -> datetime:
        """When this attempt began to run, by the database's clock."""
        return datetime.fromtimestamp(self.started_timestamp, UTC)

    @property
    def is_last_attempt(self) -> bool:
        """Whether a failure now would be final."""
        return self.attempt >= self.max_attempts

    @property
    def settled_attempts(self) -> int:
        """How many earlier attempts have a recorded outcome."""
        value = self.headers.get(SETTLED_HEADER, 0) if self.headers else 0
        return max(0, int(value)) if isinstance(value, int | float) else 0

    @property
    def lost_attempts(self) -> int:
        """How many earlier attempts ended without an outcome: their lease ran out."""
        return max(0, self.attempt - 1 - self.settled_attempts)

    @property
    def trace_id(self) -> str | None:
        """The trace that it was enqueued in, from the header `traceparent` (W3C Trace Context)."""
        found = _TRACEPARENT.fullmatch(str(self.headers.get("traceparent", "")))
        return None if found is None else found.group(1)

    async def complete(self, *, connection: Any) -> None:
        """Settle this job as done inside the caller's own transaction.

        The job is done if and only if that transaction commits, together with all else that it
        writes: an exactly-once effect in that database. Call it last, then return nothing.

        Args:
            connection: an asyncpg connection to the queue's database, inside a transaction.

        Raises:
            LeaseLostError: if the job is no longer this worker's; let it roll the transaction
                back.
            InvalidSettingError: outside a worker, or if no transaction is open.
        """
        if self._complete is None:
            message = "job.complete() works inside a worker's handler; use acknowledge() elsewhere"
            raise InvalidJobError(message)
        await self._complete(connection)

    def __repr__(self) -> str:
        """Name the job, and nothing of its payload."""
        return f"<Job {self.queue}/{self.msg_id} attempt {self.attempt} of {self.max_attempts}>"
