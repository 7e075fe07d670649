"""What wakes a waiting producer, and how a fleet shares the answers to one wake-up."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

POLL_SECONDS = 1.0
SECONDS_A_WORKER = 0.001
LEAST_SPAN_SECONDS = 0.0005
MAX_BUSY_SECONDS = 0.01


class Wakeups:
    """What ends the wait of one queue's producer early."""

    def __init__(self) -> None:
        self._delay = WakeDelay()
        self._was_notified = False
        self._woken = asyncio.Event()

    def notify(self) -> None:
        """End the wait: a message was inserted, and every waiting worker was told."""
        self._was_notified = True
        self._woken.set()

    def wake(self) -> None:
        """End the wait: this worker has a reason to claim."""
        self._woken.set()

    def wake_in(self, seconds: float) -> None:
        """End the wait when a message that this worker has delayed falls due, if that is soon."""
        if seconds < POLL_SECONDS:
            asyncio.get_running_loop().call_later(seconds + 0.001, self.wake)

    def note_workers(self, workers: int) -> None:
        """Note how many workers the queue has, including this one."""
        self._delay.workers = max(workers, 1)

    @property
    def workers(self) -> int:
        """How many workers the queue has, including this one."""
        return self._delay.workers

    def clear(self) -> None:
        """Forget earlier wake-ups, before a claim that sees what they were about."""
        self._woken.clear()

    def note_claim(self, messages: int) -> None:
        """Note how many messages a claim found, if it followed a notification."""
        if self._was_notified:
            self._was_notified = False
            self._delay.found(messages)

    async def wait(self, seconds: float) -> None:
        """Wait for a wake-up, at most for so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            pass

    def delay_seconds(self, utilisation: float) -> float:
        """Return how long to wait between the wait that has just ended and a claim.

        Args:
            utilisation: the share of this worker's slots that are taken, 0 to 1.
        """
        if not self._was_notified:
            return 0.0
        return self._delay.seconds(random.random(), utilisation)  # noqa: S311 - spreads the fleet


@dataclass(slots=True)
class WakeDelay:
    """How long a worker waits between a wake-up and its claim.

    A notification reaches every waiting worker of a queue, and one of them gets the message. If all
    of them claimed at once, 128 idle workers would make 128 claims per message. So each waits for a
    random part of a span. The span doubles when a claim comes too late, and halves when it finds
    something: a few workers answer at once while many stand by. A single worker never waits. Busy
    workers wait longer, so that idle ones get the work.
    """

    workers: int = 1
    """How many workers the queue has, including this one."""
    _span_seconds: float = 0.0

    def seconds(self, fraction: float, utilisation: float) -> float:
        """Return how long to wait now.

        Args:
            fraction: a random number from 0 up to 1.
            utilisation: the share of this worker's slots that are taken, 0 to 1.
        """
        limit = self._limit_seconds
        busy = min(limit, MAX_BUSY_SECONDS) * utilisation
        return fraction * min(self._span_seconds, limit) + busy

    def found(self, messages: int) -> None:
        """Note how many messages the claim after a wake-up found."""
        if messages:
            self._span_seconds /= 2
            if self._span_seconds < LEAST_SPAN_SECONDS:
                self._span_seconds = 0.0
        else:
            doubled = max(self._span_seconds * 2, SECONDS_A_WORKER)
            self._span_seconds = min(doubled, self._limit_seconds)

    @property
    def _limit_seconds(self) -> float:
        # With n spans of n milliseconds each, the shortest wait is about a millisecond.
        return (self.workers - 1) * SECONDS_A_WORKER
