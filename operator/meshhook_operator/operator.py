"""All JobQueues: which are due, which database each is in, and one look a tick at each database."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, NamedTuple

from meshhook.errors import MeshHookError
from meshhook.observability.health import Check, check_loops
from meshhook.observability.loggers import get_logger
from meshhook.observability.loops import WatchedLoop
from meshhook_operator.databases.database import DatabaseAddress, QueueDatabase
from meshhook_operator.databases.hosts import DatabaseHosts
from meshhook_operator.databases.name_lookups import NameLookups
from meshhook_operator.metrics import OperatorMetrics
from meshhook_operator.problems import ANSWER_REFUSED, is_login_problem, problem_of
from meshhook_operator.reconciliation.conflicts import Claims, known_by_one_name
from meshhook_operator.reconciliation.reconciler import AT_ONCE, QueueController, Source
from meshhook_operator.scaling import Failure
from meshhook_operator.secrets import AddressBook, FoundAddress, SecretReference

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence

    from prometheus_client import CollectorRegistry

    from meshhook_operator.api.jobqueue import JobQueue, ObjectKey
    from meshhook_operator.cluster.client import Cluster
    from meshhook_operator.cluster.deployments import DeploymentView
    from meshhook_operator.reconciliation.conflicts import Conflict
    from meshhook_operator.reconciliation.reconciler import Found

_log = get_logger("meshhook_operator.operator")

PARALLEL_STEPS = 16
FAILURES_BEFORE_BACKOFF = 3
FAILURES_OF_A_REFUSAL = 10
MAX_BACKOFF_SECONDS = 30.0
NEWLY_WAITING_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 10.0
LISTING_SECONDS = 120.0
TURN_SECONDS = 0.05


class Operator:
    """Keeps every JobQueue that it is told of. `run` works until cancelled."""

    def __init__(
        self,
        *,
        cluster: Cluster,
        registry: CollectorRegistry,
        namespaces: Sequence[str],
        clock: Callable[[], float] | None = None,
        hosts: DatabaseHosts | None = None,
    ) -> None:
        """Take what it works with.

        Args:
            cluster: the Kubernetes API.
            registry: where its metrics go, and those of the queues.
            namespaces: where its JobQueues are; `*` means everywhere.
            clock: seconds since 1970. Default: `steady_clock()`.
            hosts: where its databases may be. Default: everywhere.
        """
        self._hosts = hosts or DatabaseHosts()
        self._lookups = NameLookups()
        self._cluster = cluster
        self._registry = registry
        self._namespaces = namespaces
        self._metrics = OperatorMetrics(registry)
        self._clock = clock or steady_clock()
        self._controllers: dict[ObjectKey, QueueController] = {}
        self._scaling: defaultdict[ObjectKey, list[QueueController]] = defaultdict(list)
        self._autoscalers: Mapping[ObjectKey, Iterable[str]] = {}
        self._gone_autoscalers: frozenset[tuple[ObjectKey, str]] = frozenset()
        self._addresses: AddressBook | None = None
        self._databases: dict[DatabaseAddress, QueueDatabase] = {}
        self._failures: dict[DatabaseAddress, int] = {}
        self._ticking: Counter[DatabaseAddress] = Counter()
        self._reading: set[DatabaseAddress | None] = set()
        self._busy: set[ObjectKey] = set()
        self._claims = Claims((), {})
        self._are_claims_old = False
        self._names: dict[Hashable, Hashable] = {}
        """One address for all those of the same database."""
        self._waiting: set[ObjectKey] = set()
        self._controllers_of: defaultdict[
            tuple[DatabaseAddress | None, str], list[QueueController]
        ] = defaultdict(list)
        """By database and queue, as they were when the last ticks began."""
        self._changed = asyncio.Event()
        self._changed_references: set[SecretReference] = set()
        self._loop = WatchedLoop("operator")
        self._is_watching = False

    # --- Health --------------------------------------------------------------------------------

    def liveness(self) -> list[Check]:
        """Return whether the loop still turns, whatever the databases and the API server do."""
        return check_loops([self._loop])

    def readiness(self) -> list[Check]:
        """Return whether the watches have begun."""
        return [Check("watches", None if self._is_watching else "have not begun")]

    def begin(self) -> None:
        """Take note that the watches have begun."""
        self._is_watching = True

    # --- What the watches tell it --------------------------------------------------------------

    def use_autoscalers(self, autoscalers: Mapping[ObjectKey, Iterable[str]]) -> None:
        """Take the live index of HorizontalPodAutoscalers, by the Deployment that they scale."""
        if autoscalers is not self._autoscalers:
            self._autoscalers, self._are_claims_old = autoscalers, True

    def see_jobqueue(self, jobqueue: JobQueue) -> None:
        """Take a new or newer JobQueue."""
        controller = self._controllers.get(jobqueue.key)
        if controller is not None and controller.jobqueue.uid != jobqueue.uid:
            self.lose_jobqueue(jobqueue.key)
            controller = None
        if controller is None:
            controller = self._controllers[jobqueue.key] = QueueController(
                jobqueue,
                cluster=self._cluster,
                metrics=self._metrics,
                find_conflict=self._find_conflict,
                clock=self._clock,
            )
        else:
            self._forget_target(controller)
            controller.update(jobqueue)
        if jobqueue.deployment_key is not None:
            self._scaling[jobqueue.deployment_key].append(controller)
        self._are_claims_old = True
        self._changed.set()

    def lose_jobqueue(self, key: ObjectKey) -> None:
        """Forget a JobQueue that is gone; Kubernetes deletes what it owns."""
        controller = self._controllers.pop(key, None)
        self._waiting.discard(key)
        if controller is not None:
            self._forget_target(controller)
            self._are_claims_old = True
            controller.close()
            self._changed.set()

    def see_deployment(self, key: ObjectKey, view: DeploymentView | None) -> None:
        """Take a newer version of any Deployment; None means that it is gone."""
        for controller in self._scaling.get(key, ()):
            controller.see_deployment(view)
            self._changed.set()

    def _forget_target(self, controller: QueueController) -> None:
        target = controller.jobqueue.deployment_key
        if target is not None:
            self._scaling[target].remove(controller)
            if not self._scaling[target]:
                del self._scaling[target]

    # --- The loop ------------------------------------------------------------------------------

    async def run(self) -> None:
        """Look at each queue when it is due, until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._addresses = AddressBook(
                    self._cluster,
                    tasks,
                    on_change=self._address_changed,
                    clock=self._clock,
                    hosts=self._hosts,
                )
                tasks.create_task(self._keep_in_step(), name="keep in step")
                while True:
                    self._changed.clear()
                    self._loop.turn()
                    self._start_ticks(tasks, self._addresses)
                    await asyncio.sleep(TURN_SECONDS)  # what happens meanwhile is one turn's work
                    await self._pause()
        finally:
            for database in self._databases.values():
                await database.close()
            self._databases.clear()

    async def _keep_in_step(self) -> None:
        """List what is watched now and then: a watch that was away does not tell what is gone."""
        while True:
            await asyncio.sleep(LISTING_SECONDS)
            autoscalers = {
                (target, name) for target, names in self._autoscalers.items() for name in names
            }
            known = {key: each.jobqueue.uid for key, each in self._controllers.items()}
            try:
                found = [
                    jobqueue
                    for namespace in self._namespaces
                    for jobqueue in await self._cluster.list_jobqueues(namespace)
                ]
                for namespace in self._namespaces:
                    autoscalers.difference_update(await self._cluster.list_autoscalers(namespace))
            except MeshHookError as error:
                _log.warning("objects not listed", error=str(error))
                continue
            except Exception:  # noqa: BLE001 - an answer that makes no sense ends nothing else
                _log.exception("objects not listed")
                continue
            self._gone_autoscalers = frozenset(autoscalers)
            self._are_claims_old = True
            for jobqueue in found:
                if known.pop(jobqueue.key, None) != jobqueue.uid:
                    self.see_jobqueue(jobqueue)
            for key, uid in known.items():
                controller = self._controllers.get(key)
                if controller is not None and controller.jobqueue.uid == uid:
                    self.lose_jobqueue(key)

    def _start_ticks(self, tasks: asyncio.TaskGroup, addresses: AddressBook) -> None:
        """Start one tick for each database that has queues which are due."""
        now = self._clock()
        self._take_changed_addresses()
        entries = {
            key: _entry(controller, addresses) for key, controller in self._controllers.items()
        }
        if self._are_claims_old:
            self._claim()
            self._controllers_of = defaultdict(list)
            for key, controller in self._controllers.items():
                place = _address(entries[key]), controller.queue_name
                self._controllers_of[place].append(controller)
        due: dict[DatabaseAddress | None, dict[ObjectKey, _Turn]] = defaultdict(dict)
        for key, controller in self._controllers.items():
            entry = entries[key]
            if entry is not None and controller.due_at <= now and key not in self._busy:
                due[_address(entry)][key] = _Turn(controller, entry)
        for address, turns in due.items():
            if address in self._reading:
                continue  # they are taken up together when that is done
            self._reading.add(address)
            self._busy.update(turns)
            for turn in turns.values():
                turn.controller.take_up()
            tasks.create_task(self._tick(address, turns), name=f"tick of {len(turns)} queues")
        addresses.forget_all_but(
            {
                reference
                for each in self._controllers.values()
                for reference in (each.reference, each.workers_reference)
                if reference is not None
            }
        )
        in_use = {address for entry in entries.values() if (address := _address(entry))}
        for address in self._databases.keys() - in_use - self._ticking.keys():
            self._failures.pop(address, None)
            self._are_claims_old = True
            tasks.create_task(self._databases.pop(address).close(), name="close database")

    def _take_changed_addresses(self) -> None:
        """Let those be due whose Secret says something else now."""
        changed, self._changed_references = self._changed_references, set()
        if not changed:
            return
        for controller in self._controllers.values():
            if controller.reference in changed or controller.workers_reference in changed:
                controller.due_at = AT_ONCE

    def _claim(self) -> None:
        """See anew who lays claim to what: something has changed that says so."""
        self._are_claims_old = False
        self._names = known_by_one_name(
            {address: database.identities for address, database in self._databases.items()}
        )
        self._claims = Claims(
            (
                (controller.jobqueue, self._database_name(controller))
                for controller in self._controllers.values()
            ),
            self._autoscalers,
            self._gone_autoscalers,
        )

    async def _pause(self) -> None:
        """Wait until something changes or falls due."""
        now = self._clock()
        # What is due and cannot start yet is taken up when what it waits for is done.
        later = [each.due_at for each in self._controllers.values() if each.due_at > now]
        due_in = min(later, default=now + LONGEST_PAUSE_SECONDS) - now
        try:
            async with asyncio.timeout(min(due_in, LONGEST_PAUSE_SECONDS)):
                await self._changed.wait()
        except TimeoutError:
            pass

    async def _tick(
        self, address: DatabaseAddress | None, turns: Mapping[ObjectKey, _Turn]
    ) -> None:
        """Look at the queues of one database that are due, and act on each."""
        if address is not None:
            self._ticking[address] += 1
        try:
            began_at = time.monotonic()
            database = None if address is None else self._database(address)
            try:
                found = await self._look(address, database, turns)
            except BaseException:
                self._busy.difference_update(turns)
                raise
            finally:
                self._reading.discard(address)
                self._changed.set()
            left = iter(turns.items())
            try:
                async with asyncio.TaskGroup() as tasks:
                    for _ in range(min(PARALLEL_STEPS, len(turns))):
                        tasks.create_task(self._steps(left, found, database), name="steps")
            finally:
                self._busy.difference_update(key for key, _ in left)  # after a fault of ours
            self._metrics.tick_duration.observe_now(time.monotonic() - began_at)
        except Exception:  # noqa: BLE001 - a fault of ours must not end the others' ticks
            _log.exception("tick failed", queues=len(turns))
            for turn in turns.values():
                turn.controller.due_at = self._clock() + MAX_BACKOFF_SECONDS
        finally:
            if address is not None:
                self._ticking[address] -= 1
                self._ticking += Counter()  # drops what is at zero
            self._changed.set()

    async def _look(
        self,
        address: DatabaseAddress | None,
        database: QueueDatabase | None,
        turns: Mapping[ObjectKey, _Turn],
    ) -> dict[ObjectKey, Found]:
        """Read the demand of all these queues in one statement."""
        if address is None or database is None:
            nowhere = Failure(reason="InvalidSpec", message="the spec is not valid")
            return {
                key: turn.entry if isinstance(turn.entry, Failure) else nowhere
                for key, turn in turns.items()
            }
        controllers = [turn.controller for turn in turns.values()]
        try:
            database.listen(self._names_to_hear(address))
            rows = await database.read_demand(
                [controller.request() for controller in controllers],
                waiting_seconds=2 * max(each.tick_seconds for each in controllers) + 5,
            )
        except MeshHookError as error:
            return self._not_read(address, controllers, problem_of(error))
        self._failures[address] = 0
        return {key: rows[turn.controller.queue_name] for key, turn in turns.items()}

    def _names_to_hear(self, address: DatabaseAddress) -> frozenset[str]:
        return frozenset(
            controller.queue_name
            for controller in self._controllers.values()
            if controller.wants_wake_up and self._address_of(controller) == address
        )

    def _not_read(
        self, address: DatabaseAddress, controllers: list[QueueController], failure: Failure
    ) -> dict[ObjectKey, Found]:
        self._failures[address] = self._failures.get(address, 0) + 1
        if failure.reason == ANSWER_REFUSED:  # it costs more than one that is away
            self._failures[address] = max(self._failures[address], FAILURES_OF_A_REFUSAL)
        if is_login_problem(failure) and self._addresses is not None:
            for controller in controllers:
                if controller.reference:
                    self._addresses.distrust(controller.reference)
        _log.warning(
            "database not read",
            reason=failure.reason,
            error=failure.message,
            queues=len(controllers),
        )
        return {controller.jobqueue.key: failure for controller in controllers}

    async def _steps(
        self,
        left: Iterator[tuple[ObjectKey, _Turn]],
        found: Mapping[ObjectKey, Found],
        database: QueueDatabase | None,
    ) -> None:
        """Act on the queues that are left, one after the other."""
        for key, turn in left:
            await self._step(turn, found[key], database)
            await asyncio.sleep(0)  # others have their turn, however many these are

    async def _step(self, turn: _Turn, found: Found, database: QueueDatabase | None) -> None:
        controller, entry = turn
        checksum = entry.checksum if isinstance(entry, FoundAddress) else None
        try:
            began_at = time.monotonic()
            is_well = await controller.step(found, Source(database, checksum))
            self._metrics.reconcile_duration.observe_now(time.monotonic() - began_at)
            self._metrics.reconciled(is_well=is_well)
            self._space_out(controller, _address(entry))
        finally:
            # It may be looked at again while others of its tick are still at work.
            self._busy.discard(controller.jobqueue.key)
            self._changed.set()

    def _space_out(self, controller: QueueController, address: DatabaseAddress | None) -> None:
        """Look less often at a database that is away, and soon again at a queue that waits."""
        now, key = self._clock(), controller.jobqueue.key
        excess = self._failures.get(address, 0) - FAILURES_BEFORE_BACKOFF if address else 0
        if excess > 0:
            pause_seconds = min(MAX_BACKOFF_SECONDS, controller.tick_seconds * 2.0**excess)
            controller.due_at = max(controller.due_at, now + pause_seconds)
        if not controller.wants_wake_up:
            self._waiting.discard(key)
        elif key not in self._waiting:
            # What is being sent right now may not have seen yet that somebody waits.
            self._waiting.add(key)
            controller.due_at = min(controller.due_at, now + NEWLY_WAITING_SECONDS)

    # --- Databases -----------------------------------------------------------------------------

    def _database(self, address: DatabaseAddress) -> QueueDatabase:
        if address not in self._databases:
            self._databases[address] = QueueDatabase(
                address,
                on_wake=lambda queue_name: self._wake(address, queue_name),
                on_identity=self._claim,
                registry=self._registry,
                hosts=self._hosts,
                lookups=self._lookups,
            )
        return self._databases[address]

    def _wake(self, address: DatabaseAddress, queue_name: str) -> None:
        for controller in self._controllers_of.get((address, queue_name), ()):
            if controller.wants_wake_up:
                controller.due_at = AT_ONCE
                self._changed.set()

    def _address_of(self, controller: QueueController) -> DatabaseAddress | None:
        if self._addresses is None:
            return None
        return _address(_entry(controller, self._addresses))

    def _address_changed(self, reference: SecretReference) -> None:
        # Thousands may change in a turn: those that they concern are looked for once.
        self._changed_references.add(reference)
        self._are_claims_old = True
        self._changed.set()

    def _find_conflict(self, controller: QueueController) -> Conflict | None:
        return self._claims.conflict_of(controller.jobqueue, self._database_name(controller))

    def _database_name(self, controller: QueueController) -> Hashable | None:
        """Return what its database is known by, whichever URL leads there."""
        address = self._address_of(controller)
        return self._names.get(address, address)


def steady_clock() -> Callable[[], float]:
    """Return a clock that tells seconds since 1970 and is never set back.

    A node whose time is corrected by hours would else leave every queue alone for as long.
    """
    offset = time.time() - time.monotonic()
    return lambda: offset + time.monotonic()


class _Turn(NamedTuple):
    """A queue that is due, and what is known of the way to its database."""

    controller: QueueController
    entry: FoundAddress | Failure


def _entry(controller: QueueController, addresses: AddressBook) -> FoundAddress | Failure | None:
    if controller.reference is None or controller.workers_reference is None:
        return Failure(reason="InvalidSpec", message="the spec is not valid")
    return addresses.look_up_both(controller.reference, controller.workers_reference)


def _address(entry: FoundAddress | Failure | None) -> DatabaseAddress | None:
    return entry.address if isinstance(entry, FoundAddress) else None
