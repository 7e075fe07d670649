"""Messages as statements take them, made from the jobs of a producer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from pydantic import BaseModel

from meshhook.arguments import kind_of
from meshhook.errors import InvalidJobError
from meshhook.store.bodies import BodyDecoder, encode_body

if TYPE_CHECKING:
    from collections.abc import Iterable

Message: TypeAlias = tuple[str, str | None, float]
"""A message to store: its body and headers as JSON text, and its delay in seconds."""


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
            error.add_note(f"job {len(messages)} of the batch, counted from 0")
            raise
    return messages


def check_several(jobs: object, method_for_one: str) -> None:
    """Refuse a single job where several are expected: a string or mapping would be iterated over.

    Raises:
        InvalidJobError: naming the type received.
    """
    if isinstance(jobs, str | bytes | Mapping | BaseModel) or not hasattr(jobs, "__iter__"):
        raise InvalidJobError(
            f"jobs: expected a list of jobs, got {kind_of(jobs)}; one job is for {method_for_one}"
        )
