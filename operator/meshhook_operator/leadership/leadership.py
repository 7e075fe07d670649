"""Which JobQueues this process may work on, and until when.

Two kinds of Leases decide it. One belongs to an installation: of its processes, the holder works
and the others stand by. The other is in each namespace with JobQueues: of the installations that
watch the namespace, the holder works on it, and the others leave it alone.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from meshhook.observability.loggers import get_logger
from meshhook_operator.api.jobqueue import ObjectKey
from meshhook_operator.errors import NotLeadingError
from meshhook_operator.leadership.election import LeaseTimes
from meshhook_operator.leadership.held_lease import HeldLease, lease_clock

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from meshhook_operator.cluster.leases import Leases
    from meshhook_operator.metrics import OperatorMetrics

_log = get_logger("meshhook_operator.leadership")

NAMESPACE_LEASE = "meshhook-jobqueues"
"""The name of the Lease in each namespace with JobQueues. Its holder is an installation, named by
its own Lease: a successor in the same installation has nothing to take over."""

PROCESS_TIMES = LeaseTimes(
    duration_seconds=15, deadline_seconds=10, renew_seconds=2, look_seconds=1
)
NAMESPACE_TIMES = LeaseTimes(
    duration_seconds=120, deadline_seconds=90, renew_seconds=30, look_seconds=5
)
PARALLEL_ATTEMPTS = 8
LONGEST_WAIT_SECONDS = 30.0


class Leadership:
    """Takes and keeps the Leases. Nothing is requested before `run`."""

    def __init__(
        self,
        *,
        leases: Leases,
        key: ObjectKey,
        identity: str,
        metrics: OperatorMetrics,
        clock: Callable[[], float] = lease_clock,
    ) -> None:
        """Take what it works with.

        Args:
            leases: the API.
            key: the Lease of this installation.
            identity: what this process is called in it; no other process may use it.
            metrics: where it is shown who leads.
            clock: seconds. Default: `lease_clock`.
        """
        self._leases = leases
        self._installation = str(key)
        self._metrics = metrics
        self._clock = clock
        self._process = HeldLease(
            key, leases=leases, identity=identity, times=PROCESS_TIMES, clock=clock
        )
        self._namespaces: dict[str, HeldLease] = {}
        self._dropped: list[HeldLease] = []
        self._wake = asyncio.Event()
        self._on_change: Callable[[], None] = lambda: None
        self._running: asyncio.Task[None] | None = None
        metrics.leading.set_function(lambda: self._process.seconds_left > 0)

    @property
    def is_leading(self) -> bool:
        """Whether this process is the one of its installation that works.

        It stays so while the API server is down; then `seconds_left` forbids every write.
        """
        return self._process.is_held

    @property
    def term(self) -> int:
        """The number of the time for which this process leads: another one may lead in between."""
        return self._process.times_taken

    def serves(self, namespace: str) -> bool:
        """Whether this process is the one that works on the JobQueues of a namespace."""
        lease = self._namespaces.get(namespace)
        return self._process.is_held and lease is not None and lease.is_held

    def seconds_left(self, namespace: str) -> float:
        """Return how long this process may still write in a namespace, without a renewal.

        Raises:
            NotLeadingError: if it may not.
        """
        lease = self._namespaces.get(namespace)
        for held in (self._process, lease):
            if held is None or not held.seconds_left:
                raise NotLeadingError(_refusal(namespace, held))
        assert lease is not None  # noqa: S101 - it would have been refused
        return min(self._process.seconds_left, lease.seconds_left)

    def want(self, namespaces: Collection[str]) -> None:
        """Take the namespaces that have JobQueues: their Leases are wanted, and no others."""
        for namespace in self._namespaces.keys() - set(namespaces):
            self._dropped.append(self._namespaces.pop(namespace))
            self._wake.set()
        for namespace in set(namespaces) - self._namespaces.keys():
            self._namespaces[namespace] = self._lease_of(namespace)
            self._wake.set()

    async def run(self, on_change: Callable[[], None]) -> None:
        """Take and keep the Leases until cancelled, or until `resign`.

        Args:
            on_change: called when `is_leading` or `serves` may have changed.
        """
        self._on_change = on_change
        self._running = asyncio.current_task()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_leading(), name="lease")
            tasks.create_task(self._keep_namespaces(), name="leases of namespaces")

    async def resign(self) -> None:
        """Let another process of this installation lead at once.

        The Leases of namespaces stay the installation's: its next process goes on with them.
        """
        running, self._running = self._running, None
        if running is not None and not running.done():
            running.cancel()
            await asyncio.wait([running])
        if self._process.is_held:
            await self._process.release()
            _log.info("leadership given back", lease=self._installation)

    # --- The Lease of the installation -----------------------------------------------------------

    async def _keep_leading(self) -> None:
        lease = self._process
        last: tuple[object, ...] = ()
        while True:
            before = (lease.is_held, lease.times_taken)
            await lease.attempt()
            now = (lease.is_held, lease.holder, lease.problem is None, lease.seconds_left > 0)
            if now != last:
                self._log_state()
                last = now
            if before != (lease.is_held, lease.times_taken):
                self._start_over()
            await asyncio.sleep(max(0.0, lease.due_at - self._clock()))

    def _log_state(self) -> None:
        lease = self._process
        if lease.problem is None:
            event = "this process leads" if lease.is_held else "standing by"
            _log.info(event, lease=self._installation, holder=lease.holder)
        elif lease.is_held and not lease.seconds_left:
            _log.warning(
                "nothing is written until the lease is renewed",
                lease=self._installation,
                error=lease.problem,
            )
        else:
            event = "lease not renewed" if lease.is_held else "lease not read"
            _log.warning(event, lease=self._installation, error=lease.problem)

    def _start_over(self) -> None:
        """Forget what was known about namespaces: another process may have led since."""
        self._dropped.clear()
        self._namespaces = {each: self._lease_of(each) for each in self._namespaces}
        self._metrics.unserved_namespaces.set(0)
        self._wake.set()
        self._on_change()

    # --- The Leases of namespaces ----------------------------------------------------------------

    async def _keep_namespaces(self) -> None:
        limit = asyncio.Semaphore(PARALLEL_ATTEMPTS)
        while True:
            self._wake.clear()
            if self._process.is_held:
                now = self._clock()
                due = [each for each in self._namespaces.items() if each[1].due_at <= now]
                async with asyncio.TaskGroup() as tasks:
                    for namespace, lease in due:
                        tasks.create_task(
                            self._keep_namespace(namespace, lease, limit), name=f"lease {namespace}"
                        )
                dropped, self._dropped = self._dropped, []
                for lease in dropped:
                    if lease.key.namespace not in self._namespaces:  # it may be wanted again
                        await lease.release()
                self._metrics.unserved_namespaces.set(
                    sum(not lease.is_held for lease in self._namespaces.values())
                )
            else:
                self._dropped.clear()
            await self._wait()

    async def _keep_namespace(
        self, namespace: str, lease: HeldLease, limit: asyncio.Semaphore
    ) -> None:
        before = (lease.is_held, lease.holder, lease.problem is None)
        async with limit:
            await lease.attempt()
        after = (lease.is_held, lease.holder, lease.problem is None)
        if before == after:
            return
        if lease.problem is not None:
            _log.warning("namespace's lease not renewed", namespace=namespace, error=lease.problem)
        elif not lease.is_held:
            _log.warning(
                "namespace left to another operator: watch other namespaces with one of the two, "
                "or remove one",
                namespace=namespace,
                holder=lease.holder,
                lease=str(lease.key),
            )
        if before[0] != after[0]:
            self._on_change()

    async def _wait(self) -> None:
        now = self._clock()
        due = [lease.due_at for lease in self._namespaces.values()] if self.is_leading else []
        seconds = min([each - now for each in due], default=LONGEST_WAIT_SECONDS)
        try:
            async with asyncio.timeout(max(0.0, min(seconds, LONGEST_WAIT_SECONDS))):
                await self._wake.wait()
        except TimeoutError:
            pass

    def _lease_of(self, namespace: str) -> HeldLease:
        return HeldLease(
            ObjectKey(namespace, NAMESPACE_LEASE),
            leases=self._leases,
            identity=self._installation,
            times=NAMESPACE_TIMES,
            clock=self._clock,
        )


def _refusal(namespace: str, lease: HeldLease | None) -> str:
    """Return why nothing may be written in a namespace now."""
    if lease is None:
        return f"the Lease of namespace {namespace!r} is not held yet"
    if lease.is_held:
        reason = lease.problem or "the process was suspended"
        return f"Lease {lease.key} was not renewed in time ({reason}), so nothing is written"
    holder = repr(lease.holder) if lease.holder else "nobody"
    return f"Lease {lease.key} is held by {holder}, so nothing is written"
