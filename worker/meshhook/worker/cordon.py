"""Whether a worker is cordoned for a queue: it claims no more and finishes what it runs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from meshhook.observability.loggers import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

_log = get_logger("meshhook.worker.cordon")


class Cordon:
    """What the operator has asked of this worker for one queue, as the last report was answered.

    A cordon ends by itself, by the monotonic clock: a worker that cannot reach the database takes
    jobs again when the time that it was told has passed.
    """

    def __init__(self, queue_name: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Take the queue's name, and a clock in seconds. Default: the monotonic clock."""
        self._queue_name = queue_name
        self._clock = clock
        self._ends_at: float | None = None

    @property
    def is_on(self) -> bool:
        """Whether nothing is to be claimed. Can be read from any thread."""
        ends_at = self._ends_at
        return ends_at is not None and self._clock() < ends_at

    def note(self, seconds: float, asked_at: float) -> bool:
        """Note what the database has answered, and return whether a cordon begins.

        Args:
            seconds: for how long the worker is cordoned; 0 if it is not.
            asked_at: when the database was asked, by the same clock.
        """
        self.note_end()
        was_on = self._ends_at is not None
        ends_at = asked_at + seconds
        if seconds > 0 and ends_at > self._clock():
            self._ends_at = ends_at
            if not was_on:
                _log.info("cordoned: no more jobs are claimed", queue=self._queue_name)
            return not was_on
        if was_on:
            self._ends_at = None
            _log.info("uncordoned: jobs are claimed again", queue=self._queue_name)
        return False

    def note_end(self) -> None:
        """Log the end of a cordon that was not renewed."""
        if self._ends_at is not None and not self.is_on:
            self._ends_at = None
            _log.info("cordon ended: jobs are claimed again", queue=self._queue_name)
