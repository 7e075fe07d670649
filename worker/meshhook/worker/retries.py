"""Retries: the verdict on a failed attempt by the queue's policy, the job's own, and the app's."""

from __future__ import annotations

import inspect
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from meshhook.errors import InvalidSettingError
from meshhook.expiry import deadline_of
from meshhook.jobs import RETRY_HEADER
from meshhook.observability.job_context import fields_of
from meshhook.observability.loggers import get_logger
from meshhook.outcomes import AttemptOutcome, Outcome
from meshhook.retry import FailedAttempt, chosen_delay_seconds, policy_from_header
from meshhook.worker.attempt import is_ctrl_c
from meshhook.worker.error_texts import shown
from meshhook.worker.verdicts import (
    WITHHELD,
    Verdict,
    expired_before_retry,
    given_up,
    undecrypted,
    verdict,
)

if TYPE_CHECKING:
    from meshhook.errors import EncryptionError
    from meshhook.jobs import Job
    from meshhook.queue_config import QueueSettings
    from meshhook.retry import RetryFunction, RetryPolicy
    from meshhook.worker.error_texts import ErrorText
    from meshhook.worker.queue_context import QueueContext

_log = get_logger("meshhook.worker.retries")

_COMES_BACK = (AttemptOutcome.RETRIED, AttemptOutcome.SNOOZED)


def verdict_on(
    job: Job[Any],
    ended: object,
    queue: QueueContext,
    settings: QueueSettings,
    ran_seconds: float = 0.0,
    *,
    text: ErrorText | None = None,
) -> Verdict:
    """Return the verdict on an attempt, with a random delay if the job is retried.

    Args:
        job: its job, whose own retry policy counts before that of the queue.
        ended: what its handler returned or raised, as `meaning_of` returns it.
        queue: the queue. The function of its handler that decides about retries, if it has one,
            counts before both policies.
        settings: the queue's settings when the attempt began.
        ran_seconds: how long ago it began. Default 0: a job that expires before its next attempt
            may then be found so when it is claimed.
        text: what is recorded of `ended`, if that is known. Default: it is read.
    """
    end = _retry_verdict(job, ended, queue, settings, text)
    if end.outcome in _COMES_BACK:
        deadline = deadline_of(job, settings.job_expiry_seconds)
        if job.started_timestamp + ran_seconds + end.delay_seconds >= deadline:
            return expired_before_retry(end, deadline, settings)
    return end


def _retry_verdict(
    job: Job[Any],
    ended: object,
    queue: QueueContext,
    settings: QueueSettings,
    text: ErrorText | None,
) -> Verdict:
    jitter_fraction = random.random()  # noqa: S311 - jitter, not a secret
    own = None
    if job.headers and RETRY_HEADER in job.headers:
        own = own_policy(job, queue)
    end = verdict(
        ended,
        attempt=job.attempt,
        settings=settings,
        jitter_fraction=jitter_fraction,
        own=own,
        text=text,
    )
    choose = queue.handler.retry
    if choose is None or end.outcome is not AttemptOutcome.RETRIED:
        return end
    if not isinstance(ended, BaseException) or isinstance(ended, Outcome):
        return end
    jitter = settings.retry_jitter if own is None or own.jitter is None else own.jitter
    return _chosen(
        choose, job, ended, end, queue=queue, settings=settings, jitter=jitter * jitter_fraction
    )


def undecrypted_on(
    job: Job[Any], error: EncryptionError, queue: QueueContext, settings: QueueSettings
) -> Verdict:
    """Return the verdict on a job whose message is not decrypted; its handler is not asked.

    Args:
        job: the job, whose own retry policy counts before that of the queue.
        error: why it is not decrypted.
        queue: the queue.
        settings: the queue's settings.
    """
    return undecrypted(
        error,
        attempt=job.attempt,
        settings=settings,
        jitter_fraction=random.random(),  # noqa: S311 - jitter, not a secret
        own=own_policy(job, queue) if job.headers else None,
    )


def own_policy(job: Job[Any], queue: QueueContext) -> RetryPolicy | None:
    """Return a job's own retry policy, or None if it has none, or none that makes sense.

    Other clients may write anything under its name: the log says so once for each queue, and the
    job is retried as the queue's settings say.
    """
    try:
        return policy_from_header(job.headers[RETRY_HEADER])
    except KeyError:
        return None
    except InvalidSettingError as error:
        if not queue.has_warned_of_policy:
            queue.has_warned_of_policy = True
            _log.warning(
                "a job's own retry policy is unusable: the queue's settings apply. Further ones of "
                "this queue are not logged",
                **fields_of(job),
                error=str(error),
            )
        return None


def _chosen(
    choose: RetryFunction,
    job: Job[Any],
    failure: BaseException,
    end: Verdict,
    *,
    queue: QueueContext,
    settings: QueueSettings,
    jitter: float,
) -> Verdict:
    """Return the verdict as the app's function has it; as it was if the function fails."""
    failed = FailedAttempt(
        attempt=job.attempt,
        max_attempts=job.max_attempts,
        error=failure,
        queue=job.queue,
        msg_id=job.msg_id,
        run_id=job.run_id,
        workflow_id=job.workflow_id,
        project_id=job.project_id,
        enqueued_at=job.enqueued_at,
    )
    try:
        chosen: Any = choose(failed)
        if inspect.iscoroutine(chosen):
            chosen.close()
        delay_seconds = chosen_delay_seconds(chosen)
    except BaseException as error:
        if is_ctrl_c(error):
            raise
        _log.error(
            "the retry function failed: the retry policy of the queue applies",
            **fields_of(job),
            error_type=type(error).__name__,
            error=WITHHELD if queue.withholds(job) else shown(error),
        )
        return end
    if delay_seconds is None:
        return given_up(end, settings)
    return replace(end, delay_seconds=delay_seconds - delay_seconds * jitter)
