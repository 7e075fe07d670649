"""One Lease, which this process holds or would like to hold."""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import TYPE_CHECKING

from meshhook.observability.loggers import get_logger
from meshhook_operator.errors import ClusterError, ClusterRefusedError, NamespaceEndingError
from meshhook_operator.leadership.election import Step, next_step

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshhook_operator.api.jobqueue import ObjectKey
    from meshhook_operator.cluster.leases import LeaseRecord, Leases
    from meshhook_operator.leadership.election import LeaseTimes

_log = get_logger("meshhook_operator.leadership")

_CHANGED = (HTTPStatus.CONFLICT, HTTPStatus.NOT_FOUND)
_TRIES = 3


class HeldLease:
    """Takes a Lease when it is free, and renews it."""

    def __init__(
        self,
        key: ObjectKey,
        *,
        leases: Leases,
        identity: str,
        times: LeaseTimes,
        clock: Callable[[], float],
    ) -> None:
        """Take what it needs; nothing is requested yet.

        Args:
            key: which Lease.
            leases: the API.
            identity: what its holder is called; nobody else may use it.
            times: how it is held.
            clock: seconds, as `lease_clock` tells them.
        """
        self.key = key
        self._leases = leases
        self._identity = identity
        self._times = times
        self._clock = clock
        self.is_held = False
        """Whether it was ours when last seen. It stays so while the API server is down: nobody else
        can take it meanwhile, and `seconds_left` says whether its holder may still act."""
        self.times_taken = 0
        """How often it has become ours: others may have held it before each time."""
        self.problem: str | None = None
        """Why the last attempt failed; None if it did not."""
        self.due_at = float("-inf")
        """When the next attempt is due."""
        self._record: LeaseRecord | None = None
        self._seen_at = float("-inf")
        self._acts_until = float("-inf")

    @property
    def holder(self) -> str:
        """Who held it when last seen; empty: nobody."""
        return self._record.holder if self._record else ""

    @property
    def seconds_left(self) -> float:
        """How long its holder may still act without a renewal; 0 if not at all."""
        return max(0.0, self._acts_until - self._clock()) if self.is_held else 0.0

    async def attempt(self) -> None:
        """Look at it, take it if it is free, or renew it; no failure is raised."""
        try:
            await self._attempt()
        except ClusterError as error:
            self.problem = str(error)
        except Exception as error:  # noqa: BLE001 - a malformed answer must not end the operator
            _log.exception("lease not renewed", lease=str(self.key))
            self.problem = f"the answer of the API server is malformed: {type(error).__name__}"
        else:
            self.problem = None
        is_well = self.is_held and self.problem is None
        times = self._times
        self.due_at = self._clock() + (times.renew_seconds if is_well else times.look_seconds)

    async def release(self) -> None:
        """Let somebody else take it at once; no failure is raised."""
        self.is_held = False
        try:
            await self._release()
        except ClusterError as error:
            self.problem = str(error)

    async def _release(self) -> None:
        for _ in range(_TRIES):
            if self._record is None or self._record.holder != self._identity:
                return
            try:
                self._observe(await self._leases.write(self.key, self._record, "", 1))
            except ClusterRefusedError as error:
                if error.code not in _CHANGED:
                    raise
                # A renewal that was cancelled may have been written.
                self._observe(await self._leases.read(self.key))

    async def _attempt(self) -> None:
        if not self.is_held:
            self._observe(await self._leases.read(self.key))
        for _ in range(_TRIES):
            began_at = self._clock()
            step = next_step(
                self._record, identity=self._identity, seen_seconds_ago=began_at - self._seen_at
            )
            if step is Step.WAIT:
                self.is_held = False
                return
            try:
                self._observe(await self._written())
            except NamespaceEndingError:
                # Nobody can hold it any more, and what is left to do there must be done.
                self._record = None
            except ClusterRefusedError as error:
                if error.code not in _CHANGED:
                    raise
                self._observe(await self._leases.read(self.key))
                continue
            # Others count from when they see this write, which is later than when it began.
            self._acts_until = began_at + self._times.deadline_seconds
            self.is_held = True
            self.times_taken += step is not Step.RENEW
            return
        self.is_held = False

    async def _written(self) -> LeaseRecord:
        duration = self._times.duration_seconds
        if self._record is None:
            return await self._leases.create(self.key, self._identity, duration)
        return await self._leases.write(self.key, self._record, self._identity, duration)

    def _observe(self, record: LeaseRecord | None) -> None:
        if record is None or self._record is None or record.version != self._record.version:
            self._seen_at = self._clock()
        self._record = record


def lease_clock() -> float:
    """Return seconds on a clock that goes on while the machine sleeps, where there is one."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()
