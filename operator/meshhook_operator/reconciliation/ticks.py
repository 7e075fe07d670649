"""Ticks: one statement reads all due queues of a database, then each JobQueue is reconciled."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from contextlib import ExitStack, nullcontext
from typing import TYPE_CHECKING, NamedTuple

from meshhook.errors import MeshHookError
from meshhook.observability.loggers import get_logger
from meshhook_operator.problems import ANSWER_REFUSED, is_login_problem, problem_of
from meshhook_operator.reconciliation.sources import Source
from meshhook_operator.scaling import Failure
from meshhook_operator.secrets import FoundAddress, address_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from meshhook_operator.api.jobqueue import ObjectKey
    from meshhook_operator.databases.database import DatabaseAddress, QueueDatabase
    from meshhook_operator.databases.registry import DatabaseRegistry
    from meshhook_operator.metrics import OperatorMetrics
    from meshhook_operator.reconciliation.jobqueues import JobQueueTable
    from meshhook_operator.reconciliation.reconciler import JobQueueReconciler
    from meshhook_operator.reconciliation.sources import Found
    from meshhook_operator.secrets import SecretReference

_log = get_logger("meshhook_operator.ticks")

PARALLEL_RECONCILES = 16
"""How many JobQueues of one database are reconciled at once."""
FAILING_A_READ = 200
"""In one turn of the loop, one database that failed last time is tried again for each so many that
are due, and one more. Nobody waits for their answers: this spreads the work of beginning, so that
other databases have theirs in between."""
FAILING_RECONCILES = 4
"""How many JobQueues whose database was not read are reconciled at once, over all databases. Their
statuses are written one after the other, and those of other JobQueues in between."""
MAX_BACKOFF_SECONDS = 30.0
NEWLY_WAITING_SECONDS = 1.0


class Turn(NamedTuple):
    """A JobQueue that is due, and what its Secrets say."""

    reconciler: JobQueueReconciler
    entry: FoundAddress | Failure


class Ticks:
    """Runs a tick for each database that has due queues; two of one database may overlap.

    A JobQueue is reconciled by one of them at a time.
    """

    def __init__(
        self,
        *,
        jobqueues: JobQueueTable,
        databases: DatabaseRegistry,
        metrics: OperatorMetrics,
        clock: Callable[[], float],
        on_login_problem: Callable[[SecretReference], None],
        on_progress: Callable[[], None],
    ) -> None:
        """Take what it works with.

        Args:
            jobqueues: all of them.
            databases: where their queues are.
            metrics: where durations and outcomes are counted.
            clock: seconds since 1970.
            on_login_problem: called with the Secret whose URL did not work.
            on_progress: called when another tick may be due.
        """
        self._jobqueues = jobqueues
        self._databases = databases
        self._metrics = metrics
        self._clock = clock
        self._on_login_problem = on_login_problem
        self._on_progress = on_progress
        self._addresses: dict[ObjectKey, DatabaseAddress | None] = {}
        self._reading: set[DatabaseAddress | None] = set()
        self._busy: set[ObjectKey] = set()
        self._waiting: set[ObjectKey] = set()
        self._failing = asyncio.Semaphore(FAILING_RECONCILES)

    def forget(self, key: ObjectKey) -> None:
        """Forget a JobQueue that was deleted."""
        self._waiting.discard(key)

    def address_of(self, key: ObjectKey) -> DatabaseAddress | None:
        """Return where the database of a JobQueue was found last; None if it was not."""
        return self._addresses.get(key)

    def start_due(
        self,
        tasks: asyncio.TaskGroup,
        entries: Mapping[ObjectKey, FoundAddress | Failure | None],
    ) -> None:
        """Start one tick for each database that has queues which are due.

        Args:
            tasks: what owns the ticks.
            entries: what the Secrets of each JobQueue say; None if they are not read yet.
        """
        now = self._clock()
        self._addresses = {key: address_in(entry) for key, entry in entries.items()}
        due: dict[DatabaseAddress | None, dict[ObjectKey, Turn]] = defaultdict(dict)
        for reconciler in self._jobqueues:
            key = reconciler.jobqueue.key
            entry = entries[key]
            if entry is not None and reconciler.due_at <= now and key not in self._busy:
                due[self._addresses[key]][key] = Turn(reconciler, entry)
        put_off = self._put_off(due)
        if put_off:
            self._on_progress()  # they are looked at again in the next turn
        for address, turns in due.items():
            if address in self._reading or address in put_off:
                continue  # those of one database start together when its next read does
            self._reading.add(address)
            self._busy.update(turns)
            for turn in turns.values():
                turn.reconciler.schedule_next()
            tasks.create_task(self._tick(address, turns), name=f"tick of {len(turns)} queues")

    def _put_off(
        self, due: Mapping[DatabaseAddress | None, Mapping[ObjectKey, Turn]]
    ) -> set[DatabaseAddress]:
        """Return the databases that wait for another turn; those that are due longest go first."""
        due_at = {
            address: min(turn.reconciler.due_at for turn in turns.values())
            for address, turns in due.items()
            if address is not None
            and address not in self._reading
            and self._databases.is_failing(address)
        }
        return set(sorted(due_at, key=due_at.__getitem__)[1 + len(due_at) // FAILING_A_READ :])

    async def _tick(self, address: DatabaseAddress | None, turns: Mapping[ObjectKey, Turn]) -> None:
        """Read the due queues of one database, and reconcile each JobQueue."""
        try:
            with ExitStack() as stack:
                began_at = time.monotonic()
                database = address and stack.enter_context(self._databases.using(address))
                try:
                    found = await self._read(address, database, turns)
                except BaseException:
                    self._busy.difference_update(turns)
                    raise
                finally:
                    self._reading.discard(address)
                    self._on_progress()
                left = iter(turns.items())
                try:
                    async with asyncio.TaskGroup() as tasks:
                        for _ in range(min(PARALLEL_RECONCILES, len(turns))):
                            tasks.create_task(
                                self._reconcile_all(left, found, database), name="reconcile"
                            )
                finally:
                    self._busy.difference_update(key for key, _ in left)  # after a bug
                self._metrics.tick_duration.observe_now(time.monotonic() - began_at)
        except Exception:  # noqa: BLE001 - a bug here must not end the ticks of other databases
            _log.exception("tick failed", queues=len(turns))
            for turn in turns.values():
                turn.reconciler.due_at = self._clock() + MAX_BACKOFF_SECONDS
        finally:
            self._on_progress()

    async def _read(
        self,
        address: DatabaseAddress | None,
        database: QueueDatabase | None,
        turns: Mapping[ObjectKey, Turn],
    ) -> dict[ObjectKey, Found]:
        """Read the demand of all these queues in one statement."""
        if address is None or database is None:
            nowhere = Failure(reason="InvalidSpec", message="the spec is not valid")
            return {
                key: turn.entry if isinstance(turn.entry, Failure) else nowhere
                for key, turn in turns.items()
            }
        reconcilers = [turn.reconciler for turn in turns.values()]
        try:
            database.listen(self._queues_to_hear(address))
            rows = await database.read_demand(
                [reconciler.demand_request for reconciler in reconcilers],
                waiting_seconds=2 * max(each.tick_seconds for each in reconcilers) + 5,
            )
        except MeshHookError as error:
            return self._not_read(address, reconcilers, problem_of(error))
        self._databases.note_success(address)
        return {key: rows[turn.reconciler.queue_name] for key, turn in turns.items()}

    def _queues_to_hear(self, address: DatabaseAddress) -> frozenset[str]:
        return frozenset(
            reconciler.queue_name
            for reconciler in self._jobqueues
            if reconciler.wants_wake_up and self._addresses.get(reconciler.jobqueue.key) == address
        )

    def _not_read(
        self, address: DatabaseAddress, reconcilers: list[JobQueueReconciler], failure: Failure
    ) -> dict[ObjectKey, Found]:
        self._databases.note_failure(address, is_refusal=failure.reason == ANSWER_REFUSED)
        if is_login_problem(failure):
            for reconciler in reconcilers:
                if reconciler.operator_reference:
                    self._on_login_problem(reconciler.operator_reference)
        _log.warning(
            "database not read",
            reason=failure.reason,
            error=failure.message,
            queues=len(reconcilers),
        )
        return {reconciler.jobqueue.key: failure for reconciler in reconcilers}

    async def _reconcile_all(
        self,
        left: Iterator[tuple[ObjectKey, Turn]],
        found: Mapping[ObjectKey, Found],
        database: QueueDatabase | None,
    ) -> None:
        """Reconcile the JobQueues that are left, one after the other."""
        for key, turn in left:
            await self._reconcile(turn, found[key], database)
            await asyncio.sleep(0)  # let other tasks run, however many JobQueues these are

    async def _reconcile(self, turn: Turn, found: Found, database: QueueDatabase | None) -> None:
        reconciler, entry = turn
        checksum = entry.checksum if isinstance(entry, FoundAddress) else None
        try:
            began_at = time.monotonic()
            # What is deleted may wait for its database, and no other may wait for that.
            is_gated = isinstance(found, Failure) and not reconciler.jobqueue.is_deleting
            async with self._failing if is_gated else nullcontext():
                is_well = await reconciler.reconcile(found, Source(database, checksum))
            self._metrics.reconcile_duration.observe_now(time.monotonic() - began_at)
            self._metrics.reconciled(is_well=is_well)
            self._requeue(reconciler, address_in(entry))
        finally:
            # It may be due again while others of its tick are still being reconciled.
            self._busy.discard(reconciler.jobqueue.key)
            self._on_progress()

    def _requeue(self, reconciler: JobQueueReconciler, address: DatabaseAddress | None) -> None:
        """Delay it while its database is down; bring it forward once it has begun to wait."""
        now, key = self._clock(), reconciler.jobqueue.key
        if address is not None:
            pause_seconds = self._databases.backoff_seconds(address, reconciler.tick_seconds)
            if pause_seconds:
                reconciler.due_at = max(reconciler.due_at, now + pause_seconds)
        if not reconciler.wants_wake_up:
            self._waiting.discard(key)
        elif key not in self._waiting:
            # A message that is being sent right now may not know yet that somebody waits for it.
            self._waiting.add(key)
            reconciler.due_at = min(reconciler.due_at, now + NEWLY_WAITING_SECONDS)
