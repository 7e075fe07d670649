"""The producer: claims jobs to keep the slots busy, and waits for inserts while there are none."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from meshhook.administration import describe_tables
from meshhook.encryption.envelope import is_sealed, key_id_of
from meshhook.errors import (
    DatabaseConflictError,
    DatabaseError,
    DatabaseLockedError,
    DatabaseUnavailableError,
    QueueNotFoundError,
    SchemaMissingError,
)
from meshhook.observability.loggers import get_logger
from meshhook.observability.loops import WAIT_SECONDS
from meshhook.postgres.database import Database
from meshhook.postgres.tries import tries
from meshhook.store import queries
from meshhook.store.claims import ClaimClass
from meshhook.worker.claim_size import FinishRate, claim_size, claimed_ahead
from meshhook.worker.priority_windows import places_of
from meshhook.worker.queue_claims import QueueClaims
from meshhook.worker.suspects import Suspects
from meshhook.worker.wakeups import POLL_SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from meshhook.encryption.key_ring import KeyRing
    from meshhook.jobs import Job
    from meshhook.observability.loops import WatchedLoop
    from meshhook.worker.connections import WorkerConnection
    from meshhook.worker.cordon import Cordon
    from meshhook.worker.held_job import HeldJob
    from meshhook.worker.held_jobs import HeldJobs
    from meshhook.worker.queue_claims import Taken
    from meshhook.worker.queue_context import QueueContext
    from meshhook.worker.releaser import Releaser
    from meshhook.worker.wakeups import Wakeups

_log = get_logger("meshhook.worker.producer")

WAITING_SECONDS = 2.0
REFUSED_RETRY_SECONDS = 5.0
MAX_UNSETTLED = 10_000
HELD_BACK_SECONDS = 0.1
"""How long to wait, on average, where limits hold back what is ready; the end of a job ends it."""
HELD_BACK_SECONDS_A_WORKER = 0.05
"""The same for each worker of the queue, if that is more: a fleet looks some 20 times a second."""
URGENT_LOOK_SECONDS = 0.005
"""How often to look for urgent jobs while only slots that are kept for them are free."""
URGENT_LOOK_SECONDS_A_WORKER = 0.0025
"""The same for each worker of the queue, if that is more: a fleet looks some 400 times a second."""


class Producer:
    """Claims jobs of one queue. `run` works until stopped or cancelled.

    Claimed jobs are added to the held jobs at once, so cancelling it loses only a claim under way,
    whose leases expire.
    """

    def __init__(
        self,
        *,
        connection: WorkerConnection,
        queue: QueueContext,
        held_jobs: HeldJobs,
        all_held_jobs: Sequence[HeldJobs],
        releaser: Releaser,
        wakeups: Wakeups,
        cordon: Cordon,
        loop: WatchedLoop,
        listens: bool,
        line: asyncio.Lock,
    ) -> None:
        """Take what it works with.

        Args:
            connection: where to claim.
            queue: the queue.
            held_jobs: takes the jobs, and knows how many there is room for.
            all_held_jobs: those of all queues of this worker.
            releaser: gives back jobs that are not to run here.
            wakeups: end its wait early.
            cordon: while it is on, nothing is claimed.
            loop: is told at every turn.
            listens: whether inserts can wake it.
            line: makes the producers of a worker claim one at a time; one that runs suspects apart
                keeps the others waiting.
        """
        self._connection = connection
        self._queue = queue
        self._tables = queue.tables
        self._held_jobs = held_jobs
        self._releaser = releaser
        self._cordon = cordon
        self._suspects = Suspects(
            held_jobs=held_jobs,
            all_held_jobs=all_held_jobs,
            releaser=releaser,
            loop=loop,
            is_cordoned=lambda: cordon.is_on,
        )
        self._wakeups = wakeups
        self._loop = loop
        self._listens = listens
        self._line = line
        self.fault: str | None = None
        """Why claims fail, None if they do not. Can be read from any thread."""
        self._claims = QueueClaims(connection=connection, queue=queue, wakeups=wakeups)
        self._is_only_urgent = False
        """Whether the last claim had room for urgent jobs only."""
        self._rate = FinishRate()
        self._batch_jobs = 1 if queue.handler.batch is None else queue.handler.batch.jobs
        self._waiting_until = 0.0
        self._is_stopping = False
        self._wait_sql = queries.load("wait", queue.tables)
        self._waiting_sequence = f'meshhook."waiting_{queue.name}"'

    def stop(self) -> None:
        """Let `run` end after the claim under way."""
        self._is_stopping = True
        self._wakeups.wake()
        self._held_jobs.end_wait_for_room()
        self._suspects.stop()

    def hand_back(self) -> None:
        """Give back what has not started, because a cordon begins."""
        self._releaser.release_unstarted()
        self._wakeups.wake()
        self._held_jobs.end_wait_for_room()
        self._suspects.hand_back()

    async def run(self) -> None:
        """Claim until stopped or cancelled. Waits while the database is unavailable."""
        while not self._is_stopping:
            try:
                try:
                    await self._turn()
                except DatabaseUnavailableError:
                    await self._take_turn_when_reachable()
                self.fault = None
            except DatabaseUnavailableError:
                return  # stopping
            except DatabaseConflictError as error:
                _log.info("claim repeated", queue=self._queue.name, error=str(error))
            except DatabaseLockedError as error:
                _log.warning("claim waits", queue=self._queue.name, error=str(error))
                await self._sleep(POLL_SECONDS)
            except DatabaseError as error:
                if self._claims.cap.refused():
                    continue
                reason = await self._reason_of(error)
                if reason != self.fault:
                    _log.error("claim refused", queue=self._queue.name, error=reason)
                self.fault = reason
                await self._sleep(REFUSED_RETRY_SECONDS)

    async def _take_turn_when_reachable(self) -> None:
        async for attempt in tries(on=self._is_away, queue=self._queue.name, step="claim"):
            with attempt:
                await self._turn()

    async def _reason_of(self, error: DatabaseError) -> str:
        """Return why claims are refused. If the queue was dropped, say so."""
        if isinstance(error, SchemaMissingError):
            try:
                await describe_tables(Database(self._connection), self._queue.name)
            except QueueNotFoundError as missing:
                return str(missing)
            except DatabaseError:
                pass
        return str(error)

    def _is_away(self, error: BaseException) -> bool:
        return isinstance(error, DatabaseUnavailableError) and not self._is_stopping

    async def _turn(self) -> None:
        self._loop.turn()
        self._cordon.note_end()
        if self._queue.config.paused or self._cordon.is_on:
            self._wakeups.clear()
            self._ask(for_more=False)
            await self._sleep(POLL_SECONDS)
            return
        try:
            self._ask(for_more=self._held_jobs.unsettled < MAX_UNSETTLED)
            if not await self._has_room():
                return
            # A wake-up from here on is about messages that this claim may not see.
            self._wakeups.clear()
            if await self._claim_and_hand_over():
                if self._batch_jobs == 1:
                    # Let the jobs start before the next claim.
                    await asyncio.sleep(0)
                # Batches are so quick that the database would wait for them: it makes the next
                # claim while those of this one run. Jobs that have not started are counted.
                return
            if self._is_only_urgent:
                await self._wait_for_room_for_others()
                return
            if self._claims.is_held_back:
                # Not for messages: those that come may be held back, too.
                seconds = max(HELD_BACK_SECONDS, self._wakeups.workers * HELD_BACK_SECONDS_A_WORKER)
                spread = random.uniform(0.5, 1.5)  # noqa: S311 - spreads the fleet
                await self._sleep(min(seconds, POLL_SECONDS) * spread)
                return
            await self._wait_for_messages()
        except BaseException:
            self._ask(for_more=False)
            raise

    def _ask(self, *, for_more: bool) -> None:
        # A queue that has no more work leaves its slots to the other queues.
        self._held_jobs.share.wants_more = for_more

    def _room(self) -> int:
        """Return how many messages to claim now."""
        if not self._may_claim:
            return 0
        held_jobs = self._held_jobs
        return claim_size(
            free_slots=held_jobs.free, unstarted=held_jobs.unstarted, ahead=self._ahead
        )

    def _room_for_urgent(self) -> int:
        """Return how many messages to claim if they are urgent, where others have no room."""
        is_prioritized = self._queue.config.prioritized
        return self._held_jobs.free_for_urgent if is_prioritized and self._may_claim else 0

    @property
    def _may_claim(self) -> bool:
        held_jobs = self._held_jobs
        if self._is_stopping or self._queue.config.paused or held_jobs.unsettled >= MAX_UNSETTLED:
            return False
        # If leases cannot be extended, a job claimed now might outlive its lease and run elsewhere
        # at the same time.
        return not self._cordon.is_on and not held_jobs.cannot_be_extended

    @property
    def _ahead(self) -> int:
        config = self._queue.config
        return claimed_ahead(
            self._rate.per_second,
            self._claims.seconds,
            has_turns=config.keys is not None or config.prioritized,
            batch_jobs=self._batch_jobs,
        )

    async def _has_room(self) -> bool:
        """Return whether there is room for more jobs; if not, wait for room, at most a second."""
        self._rate.update(self._held_jobs.running.finished, time.monotonic())
        self._held_jobs.keep_slots(self._queue.config.urgent_slots)
        if self._room() or self._room_for_urgent():
            return True
        try:
            async with asyncio.timeout(POLL_SECONDS):
                await self._held_jobs.wait_for_room(self._ahead // 2, for_urgent=True)
        except TimeoutError:
            pass
        return False

    async def _wait_for_room_for_others(self) -> None:
        """Wait for room for jobs that are not urgent, or until it is time to look for urgent ones.

        Inserts do not end it: among those of a flood, each would wake every worker.
        """
        workers = self._wakeups.workers
        seconds = max(URGENT_LOOK_SECONDS, workers * URGENT_LOOK_SECONDS_A_WORKER)
        spread = random.uniform(0.5, 1.5)  # noqa: S311 - spreads the fleet
        try:
            async with asyncio.timeout(min(seconds, POLL_SECONDS) * spread):
                await self._held_jobs.wait_for_room(self._ahead // 2)
        except TimeoutError:
            pass

    async def _claim_and_hand_over(self) -> bool:
        """Claim and hand over what was found. Returns whether to go on claiming."""
        async with self._place_in_line():
            # Another queue's claims may have taken the room.
            self._ask(for_more=True)
            room = self._room()
            self._is_only_urgent = not room and self._room_for_urgent() > 0
            if self._is_only_urgent:
                room = self._room_for_urgent()
            if room == 0:
                return True
            limit = self._claims.cap.cut(room)
            taken = await self._claims.claim(limit, only_urgent=self._is_only_urgent)
            jobs = taken.claim.jobs
            if not taken.is_full and not self._is_only_urgent:
                self._ask(for_more=False)
            if jobs:
                if self._queue.encryption is not None:
                    _leave_unread(jobs, self._queue.encryption)
                await self._hand_over(taken)
        return bool(jobs)

    @asynccontextmanager
    async def _place_in_line(self) -> AsyncIterator[None]:
        # Another queue may run a suspect for a long time before its producer leaves the line.
        while True:
            try:
                async with asyncio.timeout(WAIT_SECONDS):
                    await self._line.acquire()
                break
            except TimeoutError:
                self._loop.turn()
        try:
            yield
        finally:
            self._line.release()

    async def _hand_over(self, taken: Taken) -> None:
        claimed, claimed_at = taken.claim, time.monotonic()
        config, places = self._queue.config, None
        if claimed.bands is not None:
            places = places_of(claimed, config.aged_seconds, claimed_at)
        held = self._held_jobs.claim(
            claimed.jobs, taken.asked_at, claimed_at, claimed.shares, places
        )
        self._held_jobs.keep_slots(config.urgent_slots)
        if held.to_release:
            delay_seconds = config.retry_strategy().get_delay_seconds(1)
            self._releaser.release(held.to_release, max(delay_seconds, 1.0))
        if self._cordon.is_on:  # it began while this claim was under way
            self._releaser.release(held.to_start)
        elif claimed.claim_class is ClaimClass.HEALTHY:
            self._held_jobs.queue(held.to_start)
        else:
            _log.warning(
                "leases expired without an outcome",
                queue=self._queue.name,
                msg_ids=[job.msg_id for job in claimed.jobs][:20],
                jobs=len(claimed.jobs),
            )
            await self._run_apart(held.to_start)
        if self._listens and self._waiting_until and taken.is_full:
            # There is plenty of work: inserts need not notify.
            self._waiting_until = 0.0
            await self._connection.fetch(queries.load("stop_waiting"), self._waiting_sequence)

    async def _run_apart(self, jobs: Sequence[HeldJob]) -> None:
        if jobs:
            self._ask(for_more=False)
            await self._suspects.run_apart(jobs)

    async def _wait_for_messages(self) -> None:
        """Wait for a wake-up, for the next message that falls due, or for a second."""
        now = time.monotonic()
        was_waiting = self._waiting_until > now
        row = await self._connection.fetchrow(
            self._wait_sql, WAITING_SECONDS, self._waiting_sequence
        )
        self._waiting_until = now + WAITING_SECONDS
        # Messages inserted before anyone waited did not notify.
        if not was_waiting and await self._claim_and_hand_over():
            return
        pause = POLL_SECONDS * random.uniform(0.9, 1.1)  # noqa: S311 - spreads the fleet
        if row is not None and row["next_due_seconds"] is not None:
            pause = min(pause, max(row["next_due_seconds"], 0.0) + 0.001)
        to_sweep = self._claims.seconds_to_sweep(time.monotonic())
        if to_sweep is not None:
            pause = min(pause, to_sweep)
        await self._sleep(pause)
        if not self._is_stopping:
            delay = self._wakeups.delay_seconds(self._held_jobs.share.utilisation)
            if delay:
                await asyncio.sleep(delay)

    async def _sleep(self, seconds: float) -> None:
        if not self._is_stopping:
            await self._wakeups.wait(seconds)


def _leave_unread(jobs: Sequence[Job[Any]], encryption: KeyRing) -> None:
    """Leave jobs to the message reader whose key is unknown: it can wait while keys are loaded."""
    for job in jobs:
        if job.body and is_sealed(job.body):
            key_id = key_id_of(job.body)
            if key_id is not None and encryption.may_learn(key_id):
                job.body = ""
