"""The claimer: keeps the slots supplied, sleeps while there is nothing, and wakes on an insert."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from meshhook.administration import describe_tables
from meshhook.errors import (
    DatabaseConflictError,
    DatabaseError,
    DatabaseLockedError,
    DatabaseUnavailableError,
    QueueNotFoundError,
    SchemaMissingError,
    UncertainCommitError,
)
from meshhook.observability.loggers import get_logger
from meshhook.observability.loops import WAIT_SECONDS
from meshhook.postgres.database import Database
from meshhook.postgres.tries import tries
from meshhook.store import queries
from meshhook.store.claims import Claim, ClaimClass, claim
from meshhook.store.unread_messages import read_short_messages
from meshhook.worker.claim_plan import (
    ClaimCap,
    ClaimWindow,
    FinishRate,
    claim_size,
    claimed_ahead,
)
from meshhook.worker.hand_backs import HandBacks
from meshhook.worker.wake_delay import WakeDelay

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from meshhook.jobs import Job
    from meshhook.observability.loops import WatchedLoop
    from meshhook.observability.worker_metrics import WorkerMetrics
    from meshhook.queue_config import QueueSettings
    from meshhook.worker.connections import WorkerConnection
    from meshhook.worker.handlers import JobHandler
    from meshhook.worker.leases import LeaseTable
    from meshhook.worker.running import Runner
    from meshhook.worker.settling import Settler
    from meshhook.worker.slots import Share
    from meshhook.worker.sweep import VtRange

_log = get_logger("meshhook.worker.claiming")

POLL_SECONDS = 1.0
WAITING_SECONDS = 2.0
REFUSED_RETRY_SECONDS = 5.0
MAX_UNSETTLED = 10_000
CLAIM_WEIGHT = 0.2
SLOW_CLAIM_SECONDS = 0.4
"""After how long a claim may have left out messages that are short, as `claim.sql` says."""
HAND_BACK_PATIENCE_SECONDS = 1.0
"""How long suspects wait for what runs here, where another worker may take them."""
HAND_BACK_DELAY_SECONDS = 1.0
"""How long suspects that were handed back are out of sight, on average."""


class Claimer:
    """Claims for one queue. `run` works until cancelled; `wake` ends a wait early.

    It never holds jobs while it waits: what it claims goes to the runner at once, so cancelling
    it loses nothing but a claim under way, whose leases run out.
    """

    def __init__(
        self,
        *,
        connection: WorkerConnection,
        tables: queries.QueueTables,
        handler: JobHandler[Any],
        runner: Runner,
        settler: Settler,
        leases: LeaseTable,
        settings: Callable[[], QueueSettings],
        metrics: WorkerMetrics,
        loop: WatchedLoop,
        listens: bool,
        line: asyncio.Lock,
        all_ended: Callable[[], Awaitable[None]],
        longest_run_seconds: Callable[[], float],
        share: Share | None = None,
    ) -> None:
        """Take what it works with.

        Args:
            connection: where to claim.
            tables: the queue's tables.
            handler: decodes suspects, for their identifiers.
            runner: takes the jobs.
            settler: holds up claims while too much is unsettled.
            leases: is told of every lease.
            settings: returns the queue's settings now.
            metrics: counts claims.
            loop: is told at every turn.
            listens: whether inserts can wake it.
            line: the claimers of a worker claim one after the other; one that runs suspects apart
                keeps the others waiting.
            all_ended: waits until nothing runs in this process, and all outcomes are recorded.
            longest_run_seconds: returns how long the job has run in this process that has run
                longest, 0 if none runs.
            share: the queue's share of the worker's slots. Default: it has them all.
        """
        self._connection = connection
        self._tables = tables
        self._handler = handler
        self._runner = runner
        self._settler = settler
        self._leases = leases
        self._settings = settings
        self._metrics = metrics
        self._loop = loop
        self._listens = listens
        self._line = line
        self._all_ended = all_ended
        self._longest_run_seconds = longest_run_seconds
        self._hand_backs = HandBacks()
        self.fault: str | None = None
        """Why nothing can be claimed, None if that is not known. Any thread may look."""
        self._share = share
        self._patience: asyncio.Timeout | None = None
        self._window = ClaimWindow()
        self._rate = FinishRate()
        self._cap = ClaimCap()
        self._claim_seconds = 0.0
        """How long a claim takes, smoothed."""
        self.wake_delay = WakeDelay()
        """How long to wait after a wake-up; knows how many workers the queue has."""
        self._was_notified = False
        self._woken = asyncio.Event()
        self._waiting_until = 0.0
        self._clock_offset: float | None = None
        self._drained: tuple[float, float] | None = None
        self._is_stopping = False
        self._wait_sql = queries.load("wait", tables)
        self._waiting_sequence = f'meshhook."waiting_{tables.queue_name}"'

    def notify(self) -> None:
        """End a wait: something was inserted, and every waiting worker knows."""
        self._was_notified = True
        self._woken.set()

    def wake(self) -> None:
        """End a wait: this worker has reason to look."""
        self._woken.set()

    def wake_in(self, seconds: float) -> None:
        """End a wait when a message that this worker put off falls due, if that is soon."""
        if seconds < POLL_SECONDS:
            asyncio.get_running_loop().call_later(seconds + 0.001, self.wake)

    def stop(self) -> None:
        """Let `run` end after the claim that is under way."""
        self._is_stopping = True
        self._woken.set()
        self._runner.has_room.set()
        if self._patience is not None and not self._patience.expired():
            self._patience.reschedule(asyncio.get_running_loop().time())

    async def run(self) -> None:
        """Claim until stopped or cancelled. A database that is away is waited for."""
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
                _log.info("claim repeated", queue=self._tables.queue_name, error=str(error))
            except DatabaseLockedError as error:
                _log.warning("claim waits", queue=self._tables.queue_name, error=str(error))
                await self._sleep(POLL_SECONDS)
            except DatabaseError as error:
                if self._cap.refused():
                    continue
                reason = await self._reason_of(error)
                if reason != self.fault:
                    _log.error("claim refused", queue=self._tables.queue_name, error=reason)
                self.fault = reason
                await self._sleep(REFUSED_RETRY_SECONDS)

    async def _take_turn_when_reachable(self) -> None:
        async for attempt in tries(on=self._is_away, queue=self._tables.queue_name, step="claim"):
            with attempt:
                await self._turn()

    async def _reason_of(self, error: DatabaseError) -> str:
        """Return why claims are refused; of a queue that was dropped, that it is not there."""
        if isinstance(error, SchemaMissingError):
            try:
                await describe_tables(Database(self._connection), self._tables.queue_name)
            except QueueNotFoundError as missing:
                return str(missing)
            except DatabaseError:
                pass
        return str(error)

    def _is_away(self, error: BaseException) -> bool:
        return isinstance(error, DatabaseUnavailableError) and not self._is_stopping

    async def _turn(self) -> None:
        self._loop.turn()
        if self._settings().paused:
            self._woken.clear()
            self._ask(for_more=False)
            await self._sleep(POLL_SECONDS)
            return
        try:
            self._ask(for_more=self._settler.backlog < MAX_UNSETTLED)
            if not await self._has_room():
                return
            # A wake-up from here on speaks of what this claim may not see.
            self._woken.clear()
            if await self._claim_and_hand_over():
                # The jobs start before the next claim is written.
                await asyncio.sleep(0)
                return
            await self._wait_for_messages()
        except BaseException:
            self._ask(for_more=False)
            raise

    def _ask(self, *, for_more: bool) -> None:
        # Of several queues one that has no more work leaves its slots to the others.
        if self._share is not None:
            self._share.wants_more = for_more

    def _room(self) -> int:
        """Return how many messages to claim now."""
        if self._is_stopping or self._settings().paused or self._settler.backlog >= MAX_UNSETTLED:
            return 0
        if self._leases.cannot_be_extended:
            # What is claimed now might outlive its lease, and run elsewhere at the same time.
            return 0
        return claim_size(
            free_slots=max(0, self._runner.free_slots),
            unstarted=self._runner.unstarted,
            ahead=self._ahead,
        )

    @property
    def _ahead(self) -> int:
        return claimed_ahead(self._rate.per_second, self._claim_seconds)

    async def _has_room(self) -> bool:
        """Say whether there is room for more jobs; if not, wait for some, or for a second."""
        runner = self._runner
        self._rate.update(runner.finished, time.monotonic())
        if self._room():
            return True
        runner.room_mark = self._ahead // 2
        runner.has_room.clear()
        try:
            async with asyncio.timeout(POLL_SECONDS):
                await runner.has_room.wait()
        except TimeoutError:
            pass
        return False

    async def _claim_and_hand_over(self) -> bool:
        """Claim, hand over what was found, and say whether to go on claiming."""
        async with self._place_in_line():
            # What others have claimed meanwhile may have taken the room.
            self._ask(for_more=True)
            room = self._room()
            if room == 0:
                return True
            limit = self._cap.cut(room)
            claimed = await self._claim(limit)
            if len(claimed.jobs) < limit:
                self._ask(for_more=False)
            if claimed.jobs:
                await self._hand_over(claimed, limit)
        return bool(claimed.jobs)

    @asynccontextmanager
    async def _place_in_line(self) -> AsyncIterator[None]:
        # Another queue's suspect may run for long before its claimer leaves the line.
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

    async def _claim(self, limit: int) -> Claim:
        if self._window.sweep_is_due(time.monotonic()):
            sweep = self._window.sweep_range()
            began_at = time.monotonic()
            try:
                claimed = await self._claim_from(sweep, limit)
            except UncertainCommitError:
                seconds = time.monotonic() - began_at
                self._window.gave_up(sweep, seconds, datetime.now(UTC))
                raise
            took_all = _took_all(claimed, limit)
            self._window.swept(sweep, began_at, time.monotonic(), took_all=took_all)
            if claimed.jobs or sweep.to_vt is None:
                return claimed
        return await self._claim_from(self._window.claim_range(), limit)

    async def _claim_from(self, vt_range: VtRange, limit: int) -> Claim:
        settings = self._settings()
        began_at = time.monotonic()
        with self._metrics.operation("claim"):
            claimed = await claim(
                self._connection,
                self._tables,
                lease_seconds=float(settings.visibility_timeout_seconds),
                limit=limit,
                max_attempts=settings.max_retry_attempts,
                from_vt=vt_range.from_vt,
                to_vt=vt_range.to_vt,
            )
            unread = claimed.unread
            if unread and time.monotonic() - began_at > SLOW_CLAIM_SECONDS:
                # Some among them were not even looked at, after those that took long.
                await read_short_messages(self._connection, self._tables, unread)
        self._metrics.claimed(len(claimed.jobs))
        if claimed.jobs:
            ended_at = time.monotonic()
            self._claim_seconds += (ended_at - began_at - self._claim_seconds) * CLAIM_WEIGHT
            self._cap.claimed(len(claimed.jobs), sum([len(job.body) for job in claimed.jobs]))
            self._window.found(claimed.jobs[0].ready_at)
            self._note_visibility(claimed, ended_at)
            self._leases.add(claimed.jobs, began_at)
            if claimed.new_losses:
                self._metrics.attempts("lost", claimed.new_losses)
        if vt_range.to_vt is not None:
            return claimed
        if self._was_notified:
            self._was_notified = False
            self.wake_delay.found(len(claimed.jobs))
        if _took_all(claimed, limit) and self._clock_offset is not None:
            drained_at = _moment(claimed, began_at + self._clock_offset)
            self._drained = vt_range.from_vt.timestamp(), drained_at
        return claimed

    def _note_visibility(self, claimed: Claim, now: float) -> None:
        """Correct `ready_at` of messages that were committed later than they were written.

        An earlier claim took all that it saw from some `vt` on. What lies there and is claimed
        only now was not visible then: its producer's transaction was still open.
        """
        self._clock_offset = claimed.jobs[0].claimed_timestamp - now
        if self._drained is None:
            return
        from_vt, drained_at = self._drained
        for job in claimed.jobs:
            if from_vt <= job.ready_timestamp < drained_at:
                job.ready_timestamp = min(drained_at, job.claimed_timestamp)

    async def _hand_over(self, claimed: Claim, limit: int) -> None:
        received_at = time.monotonic()
        jobs = self._runner.adopt(claimed.jobs)
        if claimed.claim_class is ClaimClass.HEALTHY:
            self._runner.put(jobs, received_at)
        else:
            _log.warning(
                "leases ran out with no outcome",
                queue=self._tables.queue_name,
                msg_ids=[job.msg_id for job in claimed.jobs][:20],
                jobs=len(claimed.jobs),
            )
            await self._run_apart(jobs, received_at)
        if self._listens and self._waiting_until and len(claimed.jobs) == limit:
            # There is plenty: inserts need not notify.
            self._waiting_until = 0.0
            await self._connection.fetch(queries.load("stop_waiting"), self._waiting_sequence)

    async def _run_apart(self, jobs: list[Job[Any]], received_at: float) -> None:
        """Run suspects while nothing else runs here, so that a crash takes no neighbour along."""
        if not jobs:
            return
        self._ask(for_more=False)
        try:
            if not await self._wait_until_alone(jobs):
                return
        except BaseException:
            self._runner.give_back(jobs)
            raise
        if self._is_stopping:
            self._runner.give_back(jobs)
            return
        self._runner.put(jobs, received_at)
        await self._loop.wait_for(self._runner.wait_idle())

    async def _wait_until_alone(self, jobs: list[Job[Any]]) -> bool:
        """Wait until nothing runs here; False if suspects were given back, to an idle worker.

        All claims of this process stand still meanwhile. So a worker that is busy for long hands
        suspects back, for a minute at the most: all workers may be busy at all times.
        """
        may_hand_back = self._hand_backs.may_hand_back(jobs, time.monotonic())
        patience_seconds: float | None = None
        if may_hand_back:
            runs_long = self._longest_run_seconds() > HAND_BACK_PATIENCE_SECONDS
            patience_seconds = 0.0 if runs_long else HAND_BACK_PATIENCE_SECONDS
        if self._is_stopping:
            patience_seconds = 0.0
        try:
            async with asyncio.timeout(patience_seconds) as self._patience:
                await self._loop.wait_for(self._all_ended())
        except TimeoutError:
            if may_hand_back and not self._is_stopping:
                spread = random.uniform(0.5, 1.5)  # noqa: S311 - spreads the fleet
                self._runner.give_back(jobs, HAND_BACK_DELAY_SECONDS * spread)
                return False
        finally:
            self._patience = None
        self._hand_backs.forget(jobs)
        return True

    async def _wait_for_messages(self) -> None:
        """Wait for a wake-up, for the next message that falls due, or for a second."""
        now = time.monotonic()
        was_waiting = self._waiting_until > now
        row = await self._connection.fetchrow(
            self._wait_sql, WAITING_SECONDS, self._waiting_sequence
        )
        self._waiting_until = now + WAITING_SECONDS
        # What was inserted before anybody waited did not notify.
        if not was_waiting and await self._claim_and_hand_over():
            return
        pause = POLL_SECONDS * random.uniform(0.9, 1.1)  # noqa: S311 - spreads the fleet
        if row is not None and row["next_due_seconds"] is not None:
            pause = min(pause, max(row["next_due_seconds"], 0.0) + 0.001)
        await self._sleep(pause)
        if self._was_notified and not self._is_stopping:
            utilisation = self._runner.utilisation
            delay = self.wake_delay.seconds(random.random(), utilisation)  # noqa: S311 - spreads
            if delay:
                await asyncio.sleep(delay)

    async def _sleep(self, seconds: float) -> None:
        if self._is_stopping:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            pass


def _took_all(claimed: Claim, limit: int) -> bool:
    # A claim of suspects leaves healthy messages where they are.
    return len(claimed.jobs) < limit and claimed.claim_class is ClaimClass.HEALTHY


def _moment(claimed: Claim, estimate: float) -> float:
    return claimed.jobs[0].claimed_timestamp if claimed.jobs else estimate
