"""Messages as statements take them, made from the jobs of a producer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from pydantic import BaseModel

from meshhook.arguments import kind_of
from meshhook.delays import delay_in_seconds
from meshhook.encryption.envelope import Place
from meshhook.encryption.messages import encrypted_body
from meshhook.errors import EncryptionRequiredError, InvalidJobError
from meshhook.follow_ups import FollowUp, given_ids, stored_headers
from meshhook.jobs import WorkflowJob
from meshhook.store.bodies import encode_body, is_envelope
from meshhook.store.body_decoder import BodyDecoder
from meshhook.store.encrypted_headers import encrypted_headers
from meshhook.store.message_headers import encode_headers

if TYPE_CHECKING:
    from collections.abc import Iterable

    from meshhook.encryption.key_ring import KeyRing
    from meshhook.jobs import Job

Message: TypeAlias = tuple[str, str | None, float]
"""A message to store: its body and headers as JSON text, and its delay in seconds."""

MAX_MESSAGE_BYTES = 104_857_600
"""The largest message of any queue; the database knows the limit of each."""
MAX_FOLLOW_UPS_BYTES = 104_857_600
"""How large the messages that follow one job may be together: one statement stores them."""


class FollowUpMessage(NamedTuple):
    """A follow-up as statements take it."""

    queue: str
    body: str
    headers: str | None
    key: str | None
    delay_seconds: float


def encoded(decoder: BodyDecoder[Any], job: object, max_bytes: int) -> str:
    """Return the body of a job's message, which the decoder can read.

    Raises:
        InvalidJobError, JobTooLargeError: it cannot be stored.
    """
    text = encode_body(job, max_bytes, is_payload=type(job) is decoder.model)
    decoder.check(job, text)
    return text


def encoded_many(
    decoder: BodyDecoder[Any],
    jobs: Iterable[object],
    max_bytes: int,
    *,
    headers: str | None,
    delay_seconds: float,
) -> list[Message]:
    """Return the messages of jobs, each with these headers and this delay.

    Raises:
        InvalidJobError, JobTooLargeError: one cannot be stored; a note says which.
    """
    messages: list[Message] = []
    for job in jobs:
        try:
            messages.append((encoded(decoder, job, max_bytes), headers, delay_seconds))
        except ValueError as error:
            note_position(error, len(messages))
            raise
    return messages


def note_position(error: ValueError, position: int) -> None:
    """Note on an error which job of a batch it is about, if not about all of them."""
    if not isinstance(error, EncryptionRequiredError):
        error.add_note(f"job {position} of the batch, counted from 0")


def check_several(jobs: object, method_for_one: str) -> None:
    """Refuse a single job where several are expected: a string or mapping would be iterated over.

    Raises:
        InvalidJobError: naming the type received.
    """
    if isinstance(jobs, str | bytes | Mapping | BaseModel) or not hasattr(jobs, "__iter__"):
        raise InvalidJobError(
            f"jobs: expected a list of jobs, got {kind_of(jobs)}; one job is for {method_for_one}"
        )


def job_of(payload: object, ids: Mapping[str, str]) -> object:
    """Return what to enqueue so that the handler receives exactly `payload`.

    Raises:
        InvalidJobError: if identifiers are given beside a `WorkflowJob`, which has its own.
    """
    if isinstance(payload, WorkflowJob):
        if ids:
            raise InvalidJobError(
                f"{next(iter(ids))} was given with a WorkflowJob, which already contains one; "
                "enqueue its payload instead"
            )
        return payload
    return {**ids, "payload": payload} if ids or is_envelope(payload) else payload


def follow_up_message(
    follow_up: FollowUp, job: Job[Any] | None = None, trace: Mapping[str, str] | None = None
) -> FollowUpMessage:
    """Return the message of a follow-up, with the identifiers of `job` where it has none.

    Headers that name no trace themselves get those of `trace`.

    Raises:
        InvalidJobError, JobTooLargeError: it cannot be stored.
    """
    ids = given_ids(follow_up)
    if job is not None and not isinstance(follow_up.payload, WorkflowJob):
        of_job = {
            "run_id": job.run_id,
            "workflow_id": job.workflow_id,
            "project_id": job.project_id,
        }
        ids = {name: value for name, value in of_job.items() if value is not None} | ids
    headers = stored_headers(follow_up)
    if trace and "traceparent" not in (headers or {}):
        headers = {**trace, **(headers or {})}
    return FollowUpMessage(
        follow_up.queue,
        encode_body(job_of(follow_up.payload, ids), MAX_MESSAGE_BYTES, is_payload=True),
        encode_headers(headers),
        None if follow_up.key is None else str(follow_up.key),
        delay_in_seconds(follow_up.delay),
    )


def encrypted_follow_up(message: FollowUpMessage, ring: KeyRing) -> FollowUpMessage:
    """Return a follow-up encrypted for its queue.

    Raises:
        EncryptionKeysUnavailableError, JobTooLargeError: it cannot be stored.
    """
    place = Place("queue", message.queue)
    body = encrypted_body(message.body, ring, place, max_bytes=MAX_MESSAGE_BYTES)
    headers = encrypted_headers(message.headers, message.body, ring)
    return message._replace(body=body, headers=headers)


def follow_up_messages(
    follow_ups: Iterable[FollowUp],
    job: Job[Any],
    trace: Mapping[str, str],
    ring: KeyRing | None = None,
) -> tuple[FollowUpMessage, ...]:
    """Return the messages of all jobs that follow a job, encrypted if there are keys.

    Raises:
        InvalidJobError, JobTooLargeError: one cannot be stored, or they are too large together.
    """
    messages: list[FollowUpMessage] = []
    characters = 0
    for each in follow_ups:
        message = follow_up_message(each, job, trace)
        if ring is not None:
            message = encrypted_follow_up(message, ring)
        characters += len(message.body)
        if characters > MAX_FOLLOW_UPS_BYTES:
            raise InvalidJobError(
                f"the jobs that follow one job have at most {MAX_FOLLOW_UPS_BYTES:,} bytes; "
                "store the data elsewhere and enqueue references, or enqueue them from a job of "
                "their own"
            )
        messages.append(message)
    return tuple(messages)
