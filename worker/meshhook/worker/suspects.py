"""Running suspects, jobs that may have killed their process, while nothing else runs here."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from meshhook.jobs import JobKey
    from meshhook.observability.loops import WatchedLoop
    from meshhook.worker.held_job import HeldJob
    from meshhook.worker.held_jobs import HeldJobs
    from meshhook.worker.releaser import Releaser

HAND_BACK_PATIENCE_SECONDS = 1.0
"""How long suspects wait for running jobs here before another worker may take them."""
HAND_BACK_DELAY_SECONDS = 1.0
"""How long suspects that were handed back are not ready, on average."""
HAND_BACK_SECONDS = 60.0
"""For how long a worker keeps handing the same suspect back."""
MAX_REMEMBERED = 10_000


class Suspects:
    """Runs the suspects of one queue apart, so that a crash takes no other job with it."""

    def __init__(
        self,
        *,
        held_jobs: HeldJobs,
        all_held_jobs: Sequence[HeldJobs],
        releaser: Releaser,
        loop: WatchedLoop,
        is_cordoned: Callable[[], bool],
    ) -> None:
        """Take what it works with.

        Args:
            held_jobs: the held jobs of the queue.
            all_held_jobs: those of all queues of this worker; none may run at the same time.
            releaser: gives suspects back.
            loop: is told at every turn.
            is_cordoned: returns whether the worker is to start no job of the queue.
        """
        self._is_cordoned = is_cordoned
        self._held_jobs = held_jobs
        self._all_held_jobs = all_held_jobs
        self._releaser = releaser
        self._loop = loop
        self._hand_backs = HandBacks()
        self._patience: asyncio.Timeout | None = None
        self._is_stopping = False

    def stop(self) -> None:
        """Wait no longer, and give back suspects that have not started."""
        self._is_stopping = True
        self._lose_patience()

    def hand_back(self) -> None:
        """Give back suspects that have not started, because a cordon begins."""
        self._lose_patience()

    def _lose_patience(self) -> None:
        if self._patience is not None and not self._patience.expired():
            self._patience.reschedule(asyncio.get_running_loop().time())

    async def run_apart(self, jobs: Sequence[HeldJob]) -> None:
        """Run claimed suspects once nothing else runs in this process, and wait until they end."""
        if not jobs:
            return
        try:
            if not await self._wait_until_alone(jobs):
                return
        except BaseException:
            self._give_back(jobs)
            raise
        if self._must_give_back:
            self._give_back(jobs)
            return
        self._held_jobs.queue(jobs)
        await self._loop.wait_for(self._held_jobs.wait_idle())

    async def _wait_until_alone(self, jobs: Sequence[HeldJob]) -> bool:
        """Wait until nothing else runs. Returns false if the suspects were given back instead.

        No job is claimed in this process in the meantime. So a worker whose jobs run for long hands
        suspects back to idle workers. It does so for a minute at most, because all workers may be
        busy all the time.
        """
        may_hand_back = self._hand_backs.may_hand_back(jobs, time.monotonic())
        patience_seconds: float | None = None
        if may_hand_back:
            longest = max(each.running.longest_run_seconds for each in self._all_held_jobs)
            runs_long = longest > HAND_BACK_PATIENCE_SECONDS
            patience_seconds = 0.0 if runs_long else HAND_BACK_PATIENCE_SECONDS
        if self._must_give_back:
            patience_seconds = 0.0
        for each in self._all_held_jobs:
            each.start_gathered()
        try:
            async with asyncio.timeout(patience_seconds) as self._patience:
                await self._loop.wait_for(all_ended(self._all_held_jobs))
        except TimeoutError:
            if may_hand_back and not self._must_give_back:
                spread = random.uniform(0.5, 1.5)  # noqa: S311 - spreads the fleet
                self._give_back(jobs, HAND_BACK_DELAY_SECONDS * spread)
                return False
        finally:
            self._patience = None
        self._hand_backs.forget(jobs)
        return True

    @property
    def _must_give_back(self) -> bool:
        return self._is_stopping or self._is_cordoned()

    def _give_back(self, jobs: Sequence[HeldJob], delay_seconds: float = 0.0) -> None:
        # A suspect whose lease was lost in the meantime belongs to another worker.
        still_held = [held for held in jobs if held.has_lease]
        self._releaser.release(still_held, delay_seconds)


async def all_ended(all_held_jobs: Sequence[HeldJobs]) -> None:
    """Wait until no job of any queue runs, and all outcomes are recorded or put off."""
    for held_jobs in all_held_jobs:
        await held_jobs.wait_idle()
    for held_jobs in all_held_jobs:
        await held_jobs.ended.wait_idle()


class HandBacks:
    """Since when this worker has handed suspects back, in seconds of a monotonic clock."""

    def __init__(self) -> None:
        self._since: dict[JobKey, float] = {}

    def may_hand_back(self, jobs: Iterable[HeldJob], now: float) -> bool:
        """Return whether suspects may be handed back: not if any has been for a minute already."""
        if len(self._since) > MAX_REMEMBERED:
            # Others have run them by now. One forgotten too early is handed back a minute longer.
            self._since.clear()
        since = [self._since.setdefault(held.key, now) for held in jobs]
        return all(now - each < HAND_BACK_SECONDS for each in since)

    def forget(self, jobs: Iterable[HeldJob]) -> None:
        """Forget suspects that run here."""
        for held in jobs:
            self._since.pop(held.key, None)
