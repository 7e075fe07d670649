"""Jobs that have ended and whose outcome is not recorded yet: what the completer works on."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from meshhook.outcomes import AttemptOutcome
from meshhook.worker.held_job import ENDED

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from meshhook.worker.held_job import HeldJob

MAX_BATCH_SETTLEMENTS = 500
# Bound once: Python 3.11 looks a member of an enumeration up by a function call.
_SUCCEEDED = AttemptOutcome.SUCCEEDED


class EndedJobs:
    """The jobs of one queue that wait for their outcome to be recorded.

    Each is in one of three places: waiting for the next batch, in the batch under way, or put off
    because the database refuses its outcome or a transaction has locked its message.
    """

    def __init__(self) -> None:
        self._succeeded: list[HeldJob] = []
        self._others: list[HeldJob] = []
        self._is_turn_of_successes = False
        self._in_flight: Sequence[HeldJob] = ()
        self._put_off: dict[HeldJob, None] = {}
        self._has_waiting = asyncio.Event()
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._is_empty = asyncio.Event()
        self._is_empty.set()

    def __len__(self) -> int:
        """Return how many outcomes are not recorded yet."""
        return len(self._succeeded) + len(self._others) + len(self._in_flight) + len(self._put_off)

    @property
    def oldest_seconds(self) -> float:
        """How long the oldest outcome has waited; 0 if none waits. Any thread may ask."""
        # A job that was put off comes back behind younger ones, so all are looked at. The lists
        # are copied because they may change meanwhile.
        lists = (self._in_flight, self._succeeded, self._others, self._put_off)
        ends = [held.ended_at for each in lists for held in list(each)]
        return max(0.0, time.monotonic() - min(ends)) if ends else 0.0

    def put(self, held: HeldJob) -> None:
        """Add a job that has just ended, or has waited long enough after it was put off."""
        # As in `_list_for`, without a call.
        (self._succeeded if held.settlement.outcome is _SUCCEEDED else self._others).append(held)
        if not self._has_waiting.is_set():
            self._has_waiting.set()
            self._is_idle.clear()
            self._is_empty.clear()

    async def wait(self) -> None:
        """Wait until there is a batch to take."""
        await self._has_waiting.wait()

    @property
    def has_waiting(self) -> bool:
        """Whether there is a batch to take."""
        return self._has_waiting.is_set()

    def take_batch(self) -> Sequence[HeldJob]:
        """Take the next batch, and count it as under way until `batch_done`.

        Successes and other outcomes take turns: a batch of successes alone costs half as much.
        """
        self._is_turn_of_successes = bool(self._succeeded) and not (
            self._is_turn_of_successes and self._others
        )
        waiting = self._succeeded if self._is_turn_of_successes else self._others
        batch = waiting[:MAX_BATCH_SETTLEMENTS]
        del waiting[: len(batch)]
        self._in_flight = batch
        return batch

    def put_back(self, batch: Sequence[HeldJob]) -> None:
        """Put what is left of a batch that was interrupted back in front.

        It may or may not be recorded. What was settled, put off or put again already stays there.
        """
        elsewhere = {*self._succeeded, *self._others, *self._put_off}
        left = [held for held in batch if held.state is ENDED and held not in elsewhere]
        self._list_for(batch[0])[:0] = left

    def batch_done(self) -> None:
        """Note that no batch is under way any more."""
        self._in_flight = ()
        if not self._succeeded and not self._others:
            self._has_waiting.clear()
            self._is_idle.set()
            if not self._put_off:
                self._is_empty.set()

    def put_off(self, batch: Iterable[HeldJob]) -> None:
        """Set jobs of the batch under way aside until `put_again`."""
        self._put_off.update(dict.fromkeys(batch))

    def put_again(self, batch: Iterable[HeldJob]) -> None:
        """Let jobs that were put off into the next batches."""
        for held in batch:
            del self._put_off[held]
            self.put(held)

    async def wait_empty(self) -> None:
        """Wait until every outcome is recorded."""
        await self._is_empty.wait()

    async def wait_idle(self) -> None:
        """Wait until every outcome is recorded or put off.

        An outcome that is refused for good must not block callers that wait for other jobs.
        """
        await self._is_idle.wait()

    def _list_for(self, held: HeldJob) -> list[HeldJob]:
        return self._succeeded if held.settlement.outcome is _SUCCEEDED else self._others
