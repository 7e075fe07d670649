"""Follow-ups: jobs that are enqueued when another job, or a group of jobs, is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

from meshhook.arguments import headers_with_key
from meshhook.delays import delay_in_seconds
from meshhook.errors import InvalidJobError
from meshhook.escaping import quoted
from meshhook.jobs import MAX_ID_LENGTH, WorkflowJob
from meshhook.names import validate_queue_name
from meshhook.own_headers import own_headers, with_own_headers
from meshhook.priorities import headers_with_priority

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from meshhook.priorities import AnyPriority
    from meshhook.retry import RetryPolicy

MAX_FOLLOW_UPS = 1_000
"""How many jobs may follow one job."""


@dataclass(frozen=True, slots=True)
class FollowUp:
    """A job to enqueue later: `Done(then=[...])`, or the callback of a group.

    Raises:
        InvalidQueueNameError, InvalidSettingError, InvalidJobError: naming the argument.
    """

    queue: str
    """The queue that it goes to."""
    payload: Any = field(default_factory=dict)
    """What its handler receives: a model or anything that JSON can represent. Or a `WorkflowJob`,
    which includes its payload. Default: an empty object."""
    delay: float | timedelta = field(default=0, kw_only=True)
    """How long after the end until it is ready, in seconds or as a timedelta, 0 to 366 days.
    Default 0."""
    key: str | UUID | None = field(default=None, kw_only=True)
    """Whose job it is, for a keyed queue: a string of 1 to 200 characters or a UUID. Default:
    none."""
    run_id: str | UUID | None = field(default=None, kw_only=True)
    """The run that it belongs to; the same types. Default: the run of the job that it follows."""
    workflow_id: str | UUID | None = field(default=None, kw_only=True)
    """The workflow that is run; the same types. Default: that of the job that it follows."""
    project_id: str | UUID | None = field(default=None, kw_only=True)
    """The project of the workflow; the same types. Default: that of the job that it follows."""
    headers: Mapping[str, Any] | None = field(default=None, kw_only=True)
    """Message headers. Default: none."""
    priority: AnyPriority | None = field(default=None, kw_only=True)
    """How urgent it is: `urgent`, `high`, `normal` or `low`, or 0 to 3. Default: normal."""
    retry: RetryPolicy | None = field(default=None, kw_only=True)
    """When it is retried. Default: as the settings of its queue say."""
    expires_at: datetime | None = field(default=None, kw_only=True)
    """When it expires: it is not started at that time or later. A datetime with a time zone.
    Default: the `job_expiry_seconds` of its queue."""
    expires_in: float | timedelta | None = field(default=None, kw_only=True)
    """The same as a time after it is enqueued: 0.001 seconds to 366 days, in seconds or as a
    timedelta."""

    def __post_init__(self) -> None:
        """Check what can be checked without the database."""
        validate_queue_name(self.queue)
        delay_in_seconds(self.delay)
        if self.headers is not None and not isinstance(self.headers, Mapping):
            raise InvalidJobError(
                f"headers are a mapping of names to JSON values, got {quoted(self.headers)}"
            )
        headers_with_key(self.headers, self.key, None)
        stored_headers(self)
        for name, value in given_ids(self).items():
            if isinstance(self.payload, WorkflowJob):
                raise InvalidJobError(
                    f"{name} was given with a WorkflowJob, which already contains one; "
                    "pass its payload instead"
                )
            if not isinstance(value, str) or not 1 <= len(value) <= MAX_ID_LENGTH:
                raise InvalidJobError(
                    f"{name} is a string of 1 to {MAX_ID_LENGTH} characters or a UUID, "
                    f"got {quoted(value)}"
                )


def stored_headers(follow_up: FollowUp) -> Mapping[str, Any] | None:
    """Return the headers of a follow-up with its priority and its own policies among them.

    Raises:
        InvalidSettingError, InvalidJobError: naming the argument.
    """
    own = own_headers(follow_up.retry, follow_up.expires_at, follow_up.expires_in)
    headers = headers_with_priority(follow_up.headers, follow_up.priority)
    return with_own_headers(headers, own)


def given_ids(follow_up: FollowUp) -> dict[str, Any]:
    """Return the identifiers that a follow-up has itself, UUIDs as strings."""
    named = {
        "run_id": follow_up.run_id,
        "workflow_id": follow_up.workflow_id,
        "project_id": follow_up.project_id,
    }
    return {
        name: str(value) if isinstance(value, UUID) else value
        for name, value in named.items()
        if value is not None
    }


def checked_follow_ups(name: str, given: object) -> tuple[FollowUp, ...]:
    """Return follow-ups; one alone counts as a list of one.

    Raises:
        InvalidJobError: if it is anything else.
    """
    if isinstance(given, FollowUp):
        return (given,)
    if isinstance(given, list | tuple) and all(isinstance(each, FollowUp) for each in given):
        if len(given) > MAX_FOLLOW_UPS:
            raise InvalidJobError(
                f"{name} takes at most {MAX_FOLLOW_UPS} jobs, got {len(given)}; enqueue more with "
                "enqueue_many() in a job of their own"
            )
        return tuple(given)
    raise InvalidJobError(
        f"{name} takes FollowUp('queue', payload), or a list of them, got {quoted(given)}"
    )
