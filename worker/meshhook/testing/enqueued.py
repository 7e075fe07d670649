"""Jobs in a queue and dead letters, as tests see them, and a line of text about each."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from meshhook.encryption.envelope import is_sealed
from meshhook.encryption.messages import decrypted_body
from meshhook.errors import EncryptionError
from meshhook.escaping import shown
from meshhook.store.bodies import is_envelope
from meshhook.store.message_headers import decode_headers

if TYPE_CHECKING:
    import asyncpg

    from meshhook.encryption.key_ring import KeyRing
    from meshhook.store.dead_letter_rows import DeadLetterJob

_SHOWN_CHARACTERS = 120


@dataclass(frozen=True, slots=True)
class EnqueuedJob:
    """A job in its queue, in any state: it has not ended yet."""

    queue: str
    """The queue."""
    msg_id: int
    """The message's id, unique in its queue."""
    state: str
    """ready, scheduled, running, retrying or lost."""
    attempts: int
    """How many attempts it has had, the one that is running included."""
    payload: Any
    """The payload as plain JSON values."""
    headers: dict[str, Any] = field(repr=False)
    """The message's headers."""
    run_id: str | None
    """The run it belongs to, if the message names one."""
    workflow_id: str | None
    """The workflow it belongs to, if the message names one."""
    project_id: str | None
    """The project it belongs to, if the message names one."""
    enqueued_at: datetime
    """When it was enqueued, by the database's clock."""
    ready_at: datetime
    """When it is due, or when its lease ends if it is running, by the database's clock."""
    due_in_seconds: float
    """How far in the future `ready_at` was when the job was read; negative if it had passed."""
    is_encrypted: bool = False
    """Whether its message is encrypted; `payload` is what it says if the keys are known, else the
    message as it is stored."""

    @property
    def delay_seconds(self) -> float:
        """The time from `enqueued_at` to `ready_at`: the delay of a job without an attempt.

        It may be a few milliseconds off, since the two are read from the clock one after the other.
        """
        return (self.ready_at - self.enqueued_at).total_seconds()

    @classmethod
    def from_row(
        cls, queue: str, row: asyncpg.Record, encryption: KeyRing | None = None
    ) -> EnqueuedJob:
        """Return the job of a row of `list_messages.sql`, decrypted as far as there are keys."""
        body = json.loads(plain_body(row["body"], encryption, queue))
        return cls(
            queue=queue,
            msg_id=row["msg_id"],
            state=row["state"],
            attempts=row["attempts"],
            payload=body["payload"] if is_envelope(body) else body,
            headers=decode_headers(row["headers"]),
            run_id=row["run_id"],
            workflow_id=row["workflow_id"],
            project_id=row["project_id"],
            enqueued_at=row["enqueued_at"],
            ready_at=row["ready_at"],
            due_in_seconds=row["due_in_seconds"],
            is_encrypted=is_sealed(row["body"]),
        )


def plain_body(body: str, encryption: KeyRing | None, queue: str) -> str:
    """Return the JSON of a message as it was enqueued; one that cannot be decrypted as it is."""
    if encryption is None or not is_sealed(body):
        return body
    try:
        return decrypted_body(body, encryption, queue)
    except EncryptionError:
        return body


def describe(job: EnqueuedJob, *, with_queue: bool) -> str:
    """Return a line about a job."""
    name = f"{job.queue}/{job.msg_id}" if with_queue else str(job.msg_id)
    state = job.state
    if state in ("scheduled", "retrying"):
        state = f"{state}, due in {job.due_in_seconds:.1f} s"
    return f"{name} ({state}){_run(job.run_id)} {_payload(job.payload)}"


def describe_dead_letter(letter: DeadLetterJob, *, with_queue: bool) -> str:
    """Return a line about a dead letter."""
    name = f"{letter.queue}/{letter.id}" if with_queue else str(letter.id)
    died_of = f"{letter.error_type}: {letter.error_message}"
    return (
        f"{name} ({shown(died_of, limit=_SHOWN_CHARACTERS)}; {letter.attempts} attempts)"
        f"{_run(letter.run_id)} {shown(letter.body or '', limit=_SHOWN_CHARACTERS)}"
    )


def _run(run_id: str | None) -> str:
    return "" if run_id is None else f" run_id={run_id!r}"


def _payload(payload: Any) -> str:
    return shown(json.dumps(payload, ensure_ascii=False), limit=_SHOWN_CHARACTERS)
