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
MAX_BATCH_CHARACTERS = 8_388_608
"""How much follow-ups of one batch may have together: a statement has at most a gigabyte."""
# Looked up once: in Python 3.11 access to an enum member is a function call.
_SUCCEEDED = AttemptOutcome.SUCCEEDED


class EndedJobs:
    """The jobs of one queue whose outcome is not recorded yet.

    Each waits for the next batch, is in the batch under way, or is put off because the database
    refuses its outcome or a transaction has locked its message.
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
        # A job that was put off returns behind younger ones, so all are checked. The lists are
        # copied because they can change at the same time.
        lists = (self._in_flight, self._succeeded, self._others, self._put_off)
        ends = [held.ended_at for each in lists for held in list(each)]
        return max(0.0, time.monotonic() - min(ends)) if ends else 0.0

    def put(self, held: HeldJob) -> None:
        """Add a job that has just ended, or that is to be tried again."""
        # Inlined `_list_for`: this runs for every job.
        (self._succeeded if held.settlement.outcome is _SUCCEEDED else self._others).append(held)
        if not self._has_waiting.is_set():
            self._has_waiting.set()
            self._is_idle.clear()
            self._is_empty.clear()

    def put_all(self, jobs: Sequence[HeldJob]) -> None:
        """Add jobs that have just ended, at least one."""
        self.put(jobs[0])
        for held in jobs[1:]:
            self._list_for(held).append(held)

    async def wait(self) -> None:
        """Wait until there is a batch to take."""
        await self._has_waiting.wait()

    @property
    def has_waiting(self) -> bool:
        """Whether there is a batch to take."""
        return self._has_waiting.is_set()

    def take_batch(self) -> Sequence[HeldJob]:
        """Take the next batch. It counts as under way until `batch_done`.

        Successes and other outcomes take turns: a batch of successes only is twice as fast.
        """
        self._is_turn_of_successes = bool(self._succeeded) and not (
            self._is_turn_of_successes and self._others
        )
        waiting = self._succeeded if self._is_turn_of_successes else self._others
        batch = waiting[:MAX_BATCH_SETTLEMENTS]
        if any(held.settlement.follow_ups for held in batch):
            batch = _light_part(batch)
        del waiting[: len(batch)]
        self._in_flight = batch
        return batch

    def put_back(self, batch: Sequence[HeldJob]) -> None:
        """Return an interrupted batch to the front, without what is settled or put off already.

        Its outcomes may or may not be recorded.
        """
        elsewhere = {*self._succeeded, *self._others, *self._put_off}
        left = [held for held in batch if held.state is ENDED and held not in elsewhere]
        self._list_for(batch[0])[:0] = left

    def batch_done(self) -> None:
        """Note that no batch is under way."""
        self._in_flight = ()
        if not self._succeeded and not self._others:
            self._has_waiting.clear()
            self._is_idle.set()
            if not self._put_off:
                self._is_empty.set()

    def put_off(self, batch: Iterable[HeldJob]) -> None:
        """Put jobs of the batch under way aside until `put_again`."""
        self._put_off.update(dict.fromkeys(batch))

    def put_again(self, batch: Iterable[HeldJob]) -> None:
        """Return jobs that were put off to the next batches."""
        for held in batch:
            del self._put_off[held]
            self.put(held)

    async def wait_empty(self) -> None:
        """Wait until every outcome is recorded."""
        await self._is_empty.wait()

    async def wait_idle(self) -> None:
        """Wait until every outcome is recorded or put off.

        A permanently refused outcome must not block callers that wait for other jobs.
        """
        await self._is_idle.wait()

    def _list_for(self, held: HeldJob) -> list[HeldJob]:
        return self._succeeded if held.settlement.outcome is _SUCCEEDED else self._others


def _light_part(batch: list[HeldJob]) -> list[HeldJob]:
    """Return as many of the first jobs of a batch as have follow-ups that fit into one."""
    characters = 0
    for position, held in enumerate(batch):
        characters += sum(len(each.body) for each in held.settlement.follow_ups)
        if position and characters > MAX_BATCH_CHARACTERS:
            return batch[:position]
    return batch
