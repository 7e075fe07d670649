"""Rows about dead letters: a single one, a group by error type, and the figures of a queue."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from meshhook.arguments import MAX_ID
from meshhook.errors import InvalidPayloadError
from meshhook.jobs import DEAD_LETTER_HEADER
from meshhook.store.message_headers import decode_headers

if TYPE_CHECKING:
    import asyncpg


@dataclass(frozen=True, slots=True)
class DeadLetterJob:
    """A job that failed for good.

    The fields that describe its failure are None if another client put the message there.
    """

    id: int
    """The dead letter's own id."""
    queue: str
    """The queue that it came from."""
    body: str | None
    """The message as JSON text. None if it is too long: over 64 KiB in a list, over 16 MiB when
    read alone. The message is stored all the same and can be replayed."""
    headers: dict[str, Any]
    """The message's headers, without the one that describes its failure."""
    run_id: str | None
    """The run it belongs to, if the message names one."""
    workflow_id: str | None
    """The workflow it belongs to, if the message names one."""
    project_id: str | None
    """The project it belongs to, if the message names one."""
    msg_id: int | None
    """The id that the job had in its queue."""
    attempts: int | None
    """How many attempts it had."""
    error_type: str | None
    error_message: str | None
    error_stack: str | None
    worker: str | None
    """The worker that ran its last attempt."""
    first_enqueued_at: datetime | None
    """When the job was enqueued, or last replayed."""
    last_started_at: datetime | None
    """When its last attempt began."""
    dead_at: datetime
    """When it became a dead letter."""

    @property
    def payload(self) -> Any:
        """The payload as plain JSON values.

        Raises:
            InvalidPayloadError: if it is too long to be read (see `body`), or JSON that Python
                cannot represent.
        """
        if self.body is None:
            raise InvalidPayloadError(
                f"the body of dead letter {self.id} is too long to be read here; its size and what "
                f"was wrong with it: meshhook dlq show {self.queue} {self.id}"
            )
        try:
            body = json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise InvalidPayloadError(
                f"the body of dead letter {self.id} cannot be read: {error}"
            ) from None
        return body.get("payload", body) if isinstance(body, dict) else body


@dataclass(frozen=True, slots=True)
class DeadLetterError:
    """Why one dead letter failed."""

    id: int
    """The dead letter's id."""
    error_type: str | None
    """None if another client put the message there."""
    error_message: str | None
    dead_at: datetime
    """When it became a dead letter."""


@dataclass(frozen=True, slots=True)
class DlqMetrics:
    """The dead letters of one queue at one moment."""

    queue: str
    dead_letters: int
    """The number of dead letters, counted up to a limit."""
    capped: bool
    """Whether the count stopped at the limit: there are at least as many."""
    oldest_age_seconds: float | None
    """The age of the oldest dead letter; None if there is none."""
    newest_age_seconds: float | None
    """The age of the newest dead letter; None if there is none."""
    newest_errors: tuple[DeadLetterError, ...]
    """Why the five newest failed, newest first."""


@dataclass(frozen=True, slots=True)
class DeadLetterLine:
    """A dead letter as lists show it: without its message."""

    id: int
    """The dead letter's own id."""
    dead_at: datetime
    """When it became a dead letter."""
    attempts: int | None
    """How many attempts it had; None if another client put the message there."""
    error_type: str | None
    error_message: str | None
    """Its first 1,000 characters."""
    run_id: str | None
    """The run it belongs to, if the message names one."""


@dataclass(frozen=True, slots=True)
class ErrorGroup:
    """The dead letters that share an error type."""

    error_type: str | None
    """None for messages that another client put there."""
    count: int
    first_dead_at: datetime
    last_dead_at: datetime
    sample_id: int
    """The newest dead letter of the group."""
    sample_message: str | None
    """Its error message."""
    capped: bool
    """Whether there may be more: only the newest 10,000 dead letters of the queue were counted, or
    the count of this type ended at its limit."""


def dead_letter_from(row: asyncpg.Record, queue_name: str) -> DeadLetterJob:
    """Return the dead letter in a row, whatever JSON its headers hold."""
    headers = decode_headers(row["headers"])
    died = headers.get(DEAD_LETTER_HEADER)
    if isinstance(died, dict):
        del headers[DEAD_LETTER_HEADER]
    else:
        died = {}
    return DeadLetterJob(
        id=row["msg_id"],
        queue=_text(died.get("queue")) or queue_name,
        body=row["body"],
        headers=headers,
        run_id=row["run_id"],
        workflow_id=row["workflow_id"],
        project_id=row["project_id"],
        msg_id=_number(died.get("msg_id")),
        attempts=_number(died.get("attempts")),
        error_type=_text(died.get("error_type")),
        error_message=_text(died.get("error_message")),
        error_stack=_text(died.get("error_stack")),
        worker=_text(died.get("worker")),
        first_enqueued_at=_moment(died.get("first_enqueued_at")),
        last_started_at=_moment(died.get("last_started_at")),
        dead_at=row["enqueued_at"],
    )


def dead_letter_line_from(row: asyncpg.Record) -> DeadLetterLine:
    """Return the line in a row, whatever its headers hold."""
    values = dict(row)
    text = values["attempts"]
    attempts = int(text) if text is not None and text.isascii() and text.isdecimal() else None
    return DeadLetterLine(**{**values, "attempts": _number(attempts)})


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value <= MAX_ID else None


def _moment(value: object) -> datetime | None:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
        # At the limits of Python's dates, the time may not exist in every zone.
        return moment.astimezone(UTC) if moment is not None and moment.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None
