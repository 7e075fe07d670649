"""An operator of one queue that makes one part of it what is declared: its keys or priorities."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry

from meshhook_operator.api.conditions import Finding
from meshhook_operator.api.jobqueue import ObjectKey
from meshhook_operator.api.keys_spec import KeysSpec
from meshhook_operator.api.priorities_spec import PrioritiesSpec
from meshhook_operator.databases.database import DatabaseAddress, QueueDatabase
from meshhook_operator.databases.demand import DemandRequest, QueueDemand
from meshhook_operator.errors import NotLeadingError
from meshhook_operator.reconciliation.queue_keys import QueueKeys
from meshhook_operator.reconciliation.queue_priorities import QueuePriorities
from support.waiting import eventually

REQUEST = DemandRequest("jobs", 5)

HOLD_SNAPSHOT = "begin isolation level repeatable read; select 1"
"""Indexes that are built beside others wait for the end of such a transaction."""


class DeclaringOperator:
    """What the operator does about the keys or the priorities of queue `jobs` at each tick.

    Attributes:
        database: the operator's view of the database; whoever makes this closes it.
        leads: whether it may write.
    """

    def __init__(
        self,
        url: str,
        part: type[QueueKeys | QueuePriorities],
        spec: type[KeysSpec | PrioritiesSpec],
    ) -> None:
        self.database = QueueDatabase(
            DatabaseAddress(url, pooled=False),
            on_wake=lambda _: None,
            on_identity=lambda: None,
            registry=CollectorRegistry(),
        )
        self.leads = True
        self._part: Any = part(ObjectKey("shop", "jobs"), check_may_write=self._check)
        self._spec = spec

    def _check(self, _: str) -> None:
        if not self.leads:
            raise NotLeadingError("another process leads")

    async def tick(self, **declared: Any) -> Finding | None:
        """Read the queue, and make the part what is declared; return what there is to tell."""
        found = (await self.database.read_demand([REQUEST], waiting_seconds=1))["jobs"]
        assert isinstance(found, QueueDemand), found
        spec = self._spec.model_validate(declared)
        await self._part.ensure(spec, "jobs", found.settings, self.database)
        finding: Finding | None = self._part.finding
        return finding

    async def until_as_declared(self, **declared: Any) -> None:
        """Tick until there is nothing left to do."""

        async def is_as_declared() -> bool:
            return await self.tick(**declared) is None

        await eventually(is_as_declared)
