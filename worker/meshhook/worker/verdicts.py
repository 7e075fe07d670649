"""What becomes of a job when an attempt ends: a pure decision."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshhook.errors import InvalidPayloadError
from meshhook.outcomes import AttemptOutcome, Cancel, DeadLetter, Outcome, RetryAfter, Snooze
from meshhook.settlements import (
    MAX_ERROR_MESSAGE_LENGTH,
    MAX_ERROR_STACK_LENGTH,
    MAX_ERROR_TYPE_LENGTH,
    storable_text,
)

if TYPE_CHECKING:
    from meshhook.queue_config import QueueSettings


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of an attempt, with the delay and the error that belong to it."""

    outcome: AttemptOutcome
    delay_seconds: float = 0.0
    error_type: str | None = None
    error_message: str | None = None
    error_stack: str | None = None


_OWN_MODULES = (
    "meshhook.worker.attempting",
    "meshhook.worker.coroutines",
    "meshhook.worker.handler_threads",
)

DONE = Verdict(AttemptOutcome.SUCCEEDED)


class JobTimeoutError(TimeoutError):
    """An attempt ran longer than the queue's `job_timeout_seconds`."""


class CompletionRolledBackError(Exception):
    """The handler called `job.complete()`, and its transaction was rolled back."""

    def __init__(self) -> None:
        super().__init__("the handler called job.complete(), and its transaction was rolled back")


def verdict(
    ended: object, *, attempt: int, settings: QueueSettings, jitter_fraction: float
) -> Verdict:
    """Decide what becomes of a job.

    Args:
        ended: what the handler returned or raised.
        attempt: which attempt it was, from 1.
        settings: the queue's settings.
        jitter_fraction: a random number from 0 up to 1.
    """
    if isinstance(ended, Outcome):
        return _asked_for(ended, attempt, settings)
    if not isinstance(ended, BaseException):
        return DONE
    if isinstance(ended, InvalidPayloadError):
        # A payload that is read only when it is asked for; another attempt would find the same.
        return invalid_payload(str(ended), settings)
    error = (type(ended).__qualname__, _shown(ended) or type(ended).__qualname__, _stack(ended))
    if attempt >= settings.max_retry_attempts:
        return _final(*error, settings)
    strategy = settings.retry_strategy(lambda: jitter_fraction)
    return _failed(
        AttemptOutcome.RETRIED, *error, delay_seconds=strategy.get_delay_seconds(attempt)
    )


def invalid_payload(message: str, settings: QueueSettings) -> Verdict:
    """Decide what becomes of a message whose payload the handler's model rejects."""
    return _final("InvalidPayload", message, None, settings)


def lease_lost(lost_attempts: int, settings: QueueSettings) -> Verdict:
    """Decide what becomes of a job whose last attempts ended with no outcome."""
    message = (
        f"the lease ran out with no outcome, {lost_attempts} times: "
        "the job may kill the process that runs it, or block it for good"
    )
    return _final("LeaseLost", message, None, settings)


def _asked_for(ended: Outcome, attempt: int, settings: QueueSettings) -> Verdict:
    if isinstance(ended, RetryAfter):
        if attempt >= settings.max_retry_attempts:
            return _final(ended.error_type, ended.message, None, settings)
        return _failed(
            AttemptOutcome.RETRIED,
            ended.error_type,
            ended.message,
            None,
            delay_seconds=ended.delay_seconds,
        )
    if isinstance(ended, Snooze):
        return Verdict(
            AttemptOutcome.SNOOZED, ended.delay_seconds, error_message=_text(ended.message)
        )
    if isinstance(ended, DeadLetter):
        return _final(ended.error_type, ended.message, None, settings)
    if isinstance(ended, Cancel):
        return Verdict(AttemptOutcome.CANCELLED, error_message=_text(ended.message))
    return DONE


def _final(error_type: str, message: str, stack: str | None, settings: QueueSettings) -> Verdict:
    outcome = AttemptOutcome.DEAD_LETTERED if settings.dlq_enabled else AttemptOutcome.ARCHIVED
    return _failed(outcome, error_type, message, stack)


def _failed(
    outcome: AttemptOutcome,
    error_type: str,
    message: str,
    stack: str | None,
    delay_seconds: float = 0.0,
) -> Verdict:
    return Verdict(
        outcome,
        delay_seconds,
        storable_text(_shown(error_type), MAX_ERROR_TYPE_LENGTH),
        storable_text(_shown(message), MAX_ERROR_MESSAGE_LENGTH),
        None if stack is None else storable_text(stack, MAX_ERROR_STACK_LENGTH),
    )


def _text(message: str) -> str | None:
    return storable_text(_shown(message), MAX_ERROR_MESSAGE_LENGTH) if message else None


def _shown(value: object) -> str:
    # A handler's own exception may fail even at this; its job must be settled all the same.
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - whatever a __str__ raises
        return f"({type(value).__qualname__} that cannot be shown)"


def _stack(error: BaseException) -> str:
    # From the handler on: how the worker came to call it tells a reader nothing.
    tail = error.__traceback__
    while tail is not None and tail.tb_frame.f_globals.get("__name__") in _OWN_MODULES:
        tail = tail.tb_next
    return "".join(traceback.format_exception(type(error), error, tail))
