"""Retries with exponential backoff and jitter."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TypeAlias

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    retry_if_exception_type,
    stop_after_attempt,
    stop_before_delay,
    stop_never,
)

from meshhook.observability.loggers import get_logger

_log = get_logger("meshhook.postgres.tries")

On: TypeAlias = type[Exception] | tuple[type[Exception], ...] | Callable[[BaseException], bool]

_MAX_DOUBLINGS = 30


def tries(
    *,
    on: On,
    limit: int | None = None,
    timeout_seconds: float | None = None,
    first_pause_seconds: float = 0.1,
    max_pause_seconds: float = 5.0,
    **fields: object,
) -> AsyncRetrying:
    """Return an iterator over tries, which ends when one succeeds; each is a context manager.

    The last error is raised unchanged. Each pause is twice as long as the previous one, less a
    random part of up to half, so that clients do not return all at once. Each pause is logged.

    Args:
        on: the errors that are retried: classes, or a function of the error.
        limit: the most tries. Default: no limit.
        timeout_seconds: after this time there is no further try. Default: no limit.
        first_pause_seconds: the longest first pause. Default 0.1.
        max_pause_seconds: the longest pause. Default 5.
        **fields: fields of the log line, for example `queue="orders", step="claim"`.
    """

    def pause_seconds(state: RetryCallState) -> float:
        doublings = min(state.attempt_number - 1, _MAX_DOUBLINGS)
        longest_seconds = min(first_pause_seconds * 2.0**doublings, max_pause_seconds)
        return longest_seconds * random.uniform(0.5, 1)  # noqa: S311 - spreads load

    def log(state: RetryCallState) -> None:
        error = None if state.outcome is None else state.outcome.exception()
        _log.warning(
            "failed, and is tried again",
            **fields,
            tries=state.attempt_number,
            pause_seconds=round(state.upcoming_sleep, 3),
            error=str(error) or type(error).__name__,
        )

    retry = retry_if_exception_type(on) if isinstance(on, type | tuple) else retry_if_exception(on)
    stop = stop_never if limit is None else stop_after_attempt(limit)
    return AsyncRetrying(
        retry=retry,
        stop=stop if timeout_seconds is None else stop | stop_before_delay(timeout_seconds),
        wait=pause_seconds,
        before_sleep=log,
        reraise=True,
    )
