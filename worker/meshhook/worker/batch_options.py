"""How the jobs of a queue are put together for a handler that takes several at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from meshhook.arguments import check_range, checked_seconds
from meshhook.errors import InvalidSettingError

MAX_BATCH_JOBS = 1_000
MAX_BATCH_WAIT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """How many jobs a batch has, and how long it waits for them."""

    jobs: int
    """The most jobs of a batch, 1 to 1000."""
    wait_seconds: float = 0.0
    """How long a batch waits for more jobs, from the claim of its first one: 0 to 60 seconds.
    Default 0: it takes what is there."""


def checked_batch(batch: Any, wait_seconds: Any) -> BatchOptions | None:
    """Return the options of batches; None if the handler takes one job at a time.

    Args:
        batch: the most jobs of a batch, 1 to 1000; None for a handler of one job.
        wait_seconds: how long a batch waits for more jobs, 0 to 60; None means 0.

    Raises:
        InvalidSettingError: naming the argument.
    """
    if batch is None:
        if wait_seconds is not None:
            raise InvalidSettingError(
                "batch_wait_seconds is only for a handler of batches: pass batch=100, for "
                "example, or leave batch_wait_seconds out"
            )
        return None
    check_range("batch", batch, MAX_BATCH_JOBS)
    if wait_seconds is None:
        return BatchOptions(batch)
    seconds = checked_seconds("batch_wait_seconds", wait_seconds, 0, MAX_BATCH_WAIT_SECONDS)
    return BatchOptions(batch, seconds)
