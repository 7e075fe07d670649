"""The verdict on a job when an attempt ends: a pure decision."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING

from meshhook.delays import delay_in_seconds
from meshhook.errors import (
    EncryptionKeysUnavailableError,
    InvalidJobError,
    InvalidPayloadError,
    MessageUnreadableError,
    UnknownEncryptionKeyError,
)
from meshhook.expiry import job_expired_message, shown_moment
from meshhook.observability.redaction import hide_in_text
from meshhook.outcomes import (
    JOB_EXPIRED,
    LEASE_LOST,
    AttemptOutcome,
    Cancel,
    DeadLetter,
    Done,
    Outcome,
    RetryAfter,
    Snooze,
    lease_lost_message,
)
from meshhook.retry import with_policy
from meshhook.store.results import encode_result
from meshhook.store.settlements import (
    MAX_ERROR_MESSAGE_LENGTH,
    MAX_ERROR_STACK_LENGTH,
    MAX_ERROR_TYPE_LENGTH,
    storable_text,
)
from meshhook.worker.error_texts import ErrorText, error_text, shown

if TYPE_CHECKING:
    from meshhook.cancellation import Cancellation
    from meshhook.errors import EncryptionError
    from meshhook.queue_config import QueueSettings
    from meshhook.retry import RetryPolicy
    from meshhook.store.messages import FollowUpMessage


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of an attempt, with its delay and error.

    Anyone who can read a queue can read its errors, so the worker's secrets are hidden in them.
    """

    outcome: AttemptOutcome
    delay_seconds: float = 0.0
    error_type: str | None = None
    error_message: str | None = None
    error_stack: str | None = None
    hold_seconds: float = 0.0
    """How long to hold the key of the job; 0 means not at all, infinite until it is resumed."""
    is_failure: bool = False
    """Whether it counts towards the failures in a row that open the breaker of the job's key."""
    follow_ups: tuple[FollowUpMessage, ...] = ()
    """What is enqueued with the outcome."""
    result: str | None = None
    """What is kept of what the handler returned, as JSON text."""


DONE = Verdict(AttemptOutcome.SUCCEEDED)

WITHHELD = "withheld, because the job is encrypted"
"""What stands in place of the message of an error of an encrypted job."""
RESULT_REFUSED = "ResultRefusedError"
"""The error type of a job that succeeded and whose result could not be kept."""


class JobTimeoutError(TimeoutError):
    """An attempt ran longer than the queue's `job_timeout_seconds`."""


class FollowUpRefusedError(Exception):
    """A job that a handler wanted to follow its own was refused; nothing was enqueued."""


class SlotEndedError(Exception):
    """The worker could not end an attempt; what its handler did is unknown."""


class CompletionRolledBackError(Exception):
    """The handler called `job.complete()`, and its transaction was rolled back."""

    def __init__(self) -> None:
        super().__init__("the handler called job.complete(), and its transaction was rolled back")


def verdict(
    ended: object,
    *,
    attempt: int,
    settings: QueueSettings,
    jitter_fraction: float,
    own: RetryPolicy | None = None,
    text: ErrorText | None = None,
) -> Verdict:
    """Decide what becomes of a job.

    Args:
        ended: what the handler returned or raised, as `meaning_of` returns it.
        attempt: which attempt it was, from 1.
        settings: the queue's settings.
        jitter_fraction: a random number from 0 up to 1.
        own: the job's own retry policy. Default: none.
        text: what is recorded of `ended`, if that is known. Default: it is read.
    """
    if isinstance(ended, Outcome):
        try:
            return _asked_for(ended, attempt, settings, own)
        except Exception as failure:  # noqa: BLE001 - of a subclass that lacks an attribute
            ended, text = failure, None
    if not isinstance(ended, BaseException):
        return DONE
    if isinstance(ended, InvalidPayloadError):
        # A payload that is decoded only on access; another attempt would fail in the same way.
        return invalid_payload(str(ended), settings)
    outcome, delay_seconds = _final_outcome(settings), 0.0
    if attempt < max_attempts(settings, own):
        strategy = settings.retry_strategy(lambda: jitter_fraction)
        if own is not None:
            strategy = with_policy(strategy, own)
        outcome, delay_seconds = AttemptOutcome.RETRIED, strategy.get_delay_seconds(attempt)
    return Verdict(outcome, delay_seconds, *(text or error_text(ended)), is_failure=True)


def max_attempts(settings: QueueSettings, own: RetryPolicy | None) -> int:
    """Return how many attempts a job has in total, by its own policy or else by the queue's."""
    given = None if own is None else own.max_attempts
    return settings.max_retry_attempts if given is None else given


def given_up(end: Verdict, settings: QueueSettings) -> Verdict:
    """Return the verdict on a failed attempt after which its job is not tried again after all."""
    return replace(end, outcome=_final_outcome(settings), delay_seconds=0.0)


def with_result(end: Verdict, result: object) -> Verdict:
    """Return the verdict on a job that has succeeded, with its result.

    One that cannot be kept makes no failure of it: the work is done, and would be done again.
    """
    if result is None:
        return end
    try:
        return replace(end, result=encode_result(result))
    except InvalidJobError as error:
        return replace(
            end,
            error_type=RESULT_REFUSED,
            error_message=storable_text(hide_in_text(str(error)), MAX_ERROR_MESSAGE_LENGTH),
        )


def invalid_payload(message: str, settings: QueueSettings) -> Verdict:
    """Decide what becomes of a message whose payload the handler's model rejects."""
    return _final("InvalidPayload", message, None, settings)


def undecrypted(
    error: EncryptionError,
    *,
    attempt: int,
    settings: QueueSettings,
    jitter_fraction: float,
    own: RetryPolicy | None = None,
) -> Verdict:
    """Decide what becomes of a message that is not decrypted, or that had to be encrypted.

    A key that is missing may come later, so that its job is tried again like one that failed, but
    without a failure of the job's key. Nothing else passes by waiting.
    """
    if isinstance(error, UnknownEncryptionKeyError | EncryptionKeysUnavailableError):
        end = verdict(
            error,
            attempt=attempt,
            settings=settings,
            jitter_fraction=jitter_fraction,
            own=own,
        )
        return replace(end, error_stack=None, is_failure=False)
    return _final(type(error).__name__, str(error), None, settings)


def withheld(end: Verdict, ended: object = None) -> Verdict:
    """Return the verdict on an encrypted job without what its handler says of an error.

    The messages and stacks of exceptions often hold values of the payload.

    Args:
        end: the verdict.
        ended: what its handler returned or raised. Default: it did not run.
    """
    if end.error_message is None and end.error_stack is None:
        return end
    if isinstance(ended, JobTimeoutError | CompletionRolledBackError):
        return replace(end, error_stack=None)  # the worker's own words
    return replace(end, error_message=WITHHELD, error_stack=None)


def unreadable(error: MessageUnreadableError, settings: QueueSettings) -> Verdict:
    """Decide what becomes of a message that no attempt can read."""
    return _final(type(error).__name__, str(error), None, settings)


def lease_lost(lost_attempts: int, settings: QueueSettings) -> Verdict:
    """Decide what becomes of a job whose last attempts ended without an outcome."""
    return _final(LEASE_LOST, lease_lost_message(lost_attempts), None, settings)


def expired(deadline: float, settings: QueueSettings) -> Verdict:
    """Decide what becomes of a job that was not started before its deadline.

    `deadline` is in seconds since 1970, by the database's clock.
    """
    return _failed(_expired_outcome(settings), JOB_EXPIRED, job_expired_message(deadline), None)


def expired_before_retry(end: Verdict, deadline: float, settings: QueueSettings) -> Verdict:
    """Decide what becomes of a job whose next attempt would start after its deadline.

    The error of the last attempt is kept.
    """
    message = f"its next attempt would start after its deadline, {shown_moment(deadline)}"
    if end.error_message:
        message = f"{message}; the last one ended with: {end.error_message}"
    return replace(
        end,
        outcome=_expired_outcome(settings),
        delay_seconds=0.0,
        error_type=end.error_type or JOB_EXPIRED,
        error_message=_text(message),
    )


def _expired_outcome(settings: QueueSettings) -> AttemptOutcome:
    is_dead = settings.on_expiry == "dead_letter" and settings.dlq_enabled
    return AttemptOutcome.DEAD_LETTERED if is_dead else AttemptOutcome.EXPIRED


def cancelled(cancellation: Cancellation) -> Verdict:
    """Decide what becomes of a job that was cancelled before it ran, or was stopped for it."""
    reason = cancellation.reason or f"cancelled by {cancellation.requested_by}"
    return Verdict(AttemptOutcome.CANCELLED, error_message=_text(reason))


def instead_of_retry(end: Verdict, ended: object, cancellation: Cancellation) -> Verdict:
    """Decide what becomes of a job whose handler ended while it was to be cancelled.

    What the handler decided for good holds. A failure, a retry and a snooze do not: the error is
    kept beside the reason of the request.

    Args:
        end: the verdict as if there were no request.
        ended: what the handler returned or raised.
        cancellation: the request.
    """
    is_failure = isinstance(ended, BaseException) and not isinstance(ended, Outcome)
    if not is_failure and end.outcome not in (AttemptOutcome.RETRIED, AttemptOutcome.SNOOZED):
        return end
    plain = cancelled(cancellation)
    message = plain.error_message
    if end.error_message:
        message = _text(f"{message}; while it was stopped: {end.error_message}")
    return replace(
        plain, error_type=end.error_type, error_message=message, error_stack=end.error_stack
    )


def _asked_for(
    ended: Outcome, attempt: int, settings: QueueSettings, own: RetryPolicy | None
) -> Verdict:
    if isinstance(ended, RetryAfter):
        delay_seconds = delay_in_seconds(ended.delay_seconds)
        hold_seconds = delay_seconds if ended.hold_key else 0.0
        if attempt >= max_attempts(settings, own):
            end = _final(ended.error_type, ended.message, None, settings)
        else:
            end = _failed(
                AttemptOutcome.RETRIED,
                ended.error_type,
                ended.message,
                None,
                delay_seconds=delay_seconds,
            )
        # With a hold, the handler has said itself how long the key is to wait.
        return replace(end, hold_seconds=hold_seconds, is_failure=not ended.hold_key)
    if isinstance(ended, Snooze):
        delay_seconds = delay_in_seconds(ended.delay_seconds)
        return Verdict(
            AttemptOutcome.SNOOZED,
            delay_seconds,
            error_message=_text(ended.message),
            hold_seconds=delay_seconds if ended.hold_key else 0.0,
        )
    if isinstance(ended, DeadLetter):
        end = _final(ended.error_type, ended.message, None, settings)
        return replace(end, hold_seconds=inf if ended.hold_key else 0.0)
    if isinstance(ended, Cancel):
        return Verdict(AttemptOutcome.CANCELLED, error_message=_text(ended.message))
    return DONE


def _final(error_type: str, message: str, stack: str | None, settings: QueueSettings) -> Verdict:
    return _failed(_final_outcome(settings), error_type, message, stack)


def _final_outcome(settings: QueueSettings) -> AttemptOutcome:
    return AttemptOutcome.DEAD_LETTERED if settings.dlq_enabled else AttemptOutcome.ARCHIVED


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
        storable_text(hide_in_text(shown(error_type)), MAX_ERROR_TYPE_LENGTH),
        storable_text(hide_in_text(shown(message)), MAX_ERROR_MESSAGE_LENGTH),
        None if stack is None else storable_text(hide_in_text(stack), MAX_ERROR_STACK_LENGTH),
    )


def _text(message: str) -> str | None:
    if not message:
        return None
    return storable_text(hide_in_text(shown(message)), MAX_ERROR_MESSAGE_LENGTH)


def meaning_of(ended: object) -> object:
    """Return what a handler means by its end: of a group, the outcome, if it holds only one kind.

    If a task of a `TaskGroup` raises an outcome, the handler ends with such a group. Of several
    outcomes the one with the longest delay counts. Anything else in the group makes it a failure.
    """
    if not isinstance(ended, BaseExceptionGroup):
        return ended
    found: list[BaseException] = []
    groups: list[BaseExceptionGroup[BaseException]] = [ended]
    while groups:
        for each in groups.pop().exceptions:
            if isinstance(each, BaseExceptionGroup):
                groups.append(each)
            else:
                found.append(each)
    first = found[0]
    if all(isinstance(each, Done) for each in found):
        then = [next_job for each in found if isinstance(each, Done) for next_job in each.then]
        results = [each.result for each in found if isinstance(each, Done)]
        return Done(then=then, result=next((each for each in results if each is not None), None))
    if not isinstance(first, Outcome | InvalidPayloadError):
        return ended
    if any(type(each) is not type(first) for each in found):
        return ended
    return max(found, key=lambda each: getattr(each, "delay_seconds", 0.0))
