"""What the answer of a receiver means for the delivery: a pure decision."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import Final

from meshhook.errors import ReceiverError
from meshhook.escaping import shown
from meshhook.http.retry_after import retry_after_seconds
from meshhook.outcomes import DeadLetter, RetryAfter

EXCERPT_CHARACTERS: Final = 300
"""How many characters of a response body an error message shows."""
_ASK_TO_WAIT = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
_PASSING = frozenset(
    # These two say of themselves that the same request may succeed.
    {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
)
_REDIRECTS = range(300, 400)


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of a receiver, as far as it was read."""

    status: int
    retry_after: str | None = None
    """The header Retry-After."""
    location: str | None = None
    """The header Location."""
    body: bytes = b""
    """The beginning of the body."""
    is_cut: bool = False
    """Whether the body went on, or did not end in time."""

    @property
    def is_accepted(self) -> bool:
        """Whether the receiver took the delivery."""
        return HTTPStatus.OK <= self.status < HTTPStatus.MULTIPLE_CHOICES

    @property
    def is_gone(self) -> bool:
        """Whether the receiver says that it wants no deliveries any more."""
        return self.status == HTTPStatus.GONE


def failure(
    answer: Answer, destination: str, *, now: datetime, max_retry_after_seconds: float
) -> Exception | None:
    """Return what to raise for an answer, or None if the delivery is done.

    Args:
        answer: the answer.
        destination: what to call the receiver.
        now: the present moment.
        max_retry_after_seconds: the longest wait that a receiver may ask for.

    Returns:
        `RetryAfter` where a 429 or 503 says how long to wait, with a hold of the job's key, so that
        other deliveries to the same receiver wait too; `ReceiverError`, which is retried
        with backoff, for other answers that may pass; `DeadLetter` for the rest, for a 410 with a
        hold that has no end.
    """
    if answer.is_accepted:
        return None
    kind = f"HTTP {answer.status}"
    message = f"{destination} answered {_described(answer)}"
    if answer.status in _ASK_TO_WAIT:
        seconds = retry_after_seconds(answer.retry_after, now, max_retry_after_seconds)
        if seconds is not None:
            return RetryAfter(seconds, message, error_type=kind, hold_key=True)
    if answer.status in _PASSING or answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return ReceiverError(message, answer.status)
    if answer.is_gone:
        message = f"the destination is gone: {message}"
        return DeadLetter(message, error_type=kind, hold_key=True)
    if answer.status in _REDIRECTS:
        message += "; a redirect is not followed: send to the new URL (follow_redirects)"
    return DeadLetter(message, error_type=kind)


def _described(answer: Answer) -> str:
    """Return status and beginning of the body, on one line and safe to show."""
    try:
        status = f"{answer.status} {HTTPStatus(answer.status).phrase}"
    except ValueError:
        status = str(answer.status)
    text = " ".join(answer.body.decode("utf-8", "replace").split())
    if not text:
        return status
    excerpt = shown(text, limit=EXCERPT_CHARACTERS)
    return f"{status}: {excerpt}{'…' if answer.is_cut and len(text) <= EXCERPT_CHARACTERS else ''}"
