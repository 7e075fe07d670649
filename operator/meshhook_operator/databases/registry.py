"""All databases in use, by address: opened when first needed, closed when no queue is left."""

from __future__ import annotations

import random
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

from meshhook_operator.databases.database import QueueDatabase
from meshhook_operator.databases.hosts import DatabaseHosts
from meshhook_operator.databases.name_lookups import NameLookups
from meshhook_operator.pauses import doubled_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable, Iterator, Mapping

    from prometheus_client import CollectorRegistry

    from meshhook_operator.databases.database import DatabaseAddress

FAILURES_BEFORE_BACKOFF = 3
FAILURES_OF_A_REFUSAL = 10
"""A refused answer counts as this many failures, because reading it is expensive."""
MAX_BACKOFF_SECONDS = 30.0


class DatabaseRegistry:
    """The databases in use, and how often in a row each could not be read."""

    def __init__(
        self,
        *,
        registry: CollectorRegistry,
        hosts: DatabaseHosts | None,
        on_wake: Callable[[DatabaseAddress, str], None],
        on_identity: Callable[[], None],
    ) -> None:
        """Take what every database is opened with.

        Args:
            registry: where the metrics of their queues go.
            hosts: where the databases may be. Default: everywhere.
            on_wake: called with an address and the name of a queue when a message wakes that queue.
            on_identity: called when it becomes known which database an address leads to.
        """
        self._registry = registry
        self._hosts = hosts or DatabaseHosts()
        self._lookups = NameLookups()
        self._on_wake = on_wake
        self._on_identity = on_identity
        self._databases: dict[DatabaseAddress, QueueDatabase] = {}
        self._failures: dict[DatabaseAddress, int] = {}
        self._spreads: dict[DatabaseAddress, float] = {}
        self._ticking: Counter[DatabaseAddress] = Counter()
        self._names: dict[Hashable, Hashable] = {}

    @contextmanager
    def using(self, address: DatabaseAddress) -> Iterator[QueueDatabase]:
        """Lend a database; it is not closed until it is given back."""
        self._ticking[address] += 1
        try:
            yield self._opened(address)
        finally:
            self._ticking[address] -= 1
            self._ticking += Counter()  # drops what is at zero

    def _opened(self, address: DatabaseAddress) -> QueueDatabase:
        if address not in self._databases:
            self._databases[address] = QueueDatabase(
                address,
                on_wake=lambda queue_name: self._on_wake(address, queue_name),
                on_identity=self._on_identity,
                registry=self._registry,
                hosts=self._hosts,
                lookups=self._lookups,
            )
        return self._databases[address]

    def pop_unused(self, in_use: Collection[DatabaseAddress]) -> list[QueueDatabase]:
        """Forget the databases that are not in use and not lent, and return them to be closed."""
        unused = self._databases.keys() - set(in_use) - self._ticking.keys()
        for address in unused:
            self._failures.pop(address, None)
            self._spreads.pop(address, None)
        return [self._databases.pop(address) for address in unused]

    async def close(self) -> None:
        """Close all of them."""
        for database in self._databases.values():
            await database.close()
        self._databases.clear()

    # --- Which addresses lead to one database ----------------------------------------------------

    def refresh_names(self) -> None:
        """Find out again which addresses lead to the same database."""
        self._names = known_by_one_name(
            {address: database.identities for address, database in self._databases.items()}
        )

    def name_of(self, address: DatabaseAddress | None) -> Hashable | None:
        """Return one name for a database, whichever address leads there."""
        return self._names.get(address, address)

    # --- Failures --------------------------------------------------------------------------------

    def note_success(self, address: DatabaseAddress) -> None:
        """Note that it was read."""
        self._failures[address] = 0

    def note_failure(self, address: DatabaseAddress, *, is_refusal: bool) -> None:
        """Note that it could not be read.

        Args:
            address: of the database.
            is_refusal: whether it answered what the operator refuses to read.
        """
        failures = self._failures.get(address, 0) + 1
        self._failures[address] = max(failures, FAILURES_OF_A_REFUSAL) if is_refusal else failures
        self._spreads[address] = random.random()  # noqa: S311 - spreads load, keeps no secret

    def is_failing(self, address: DatabaseAddress) -> bool:
        """Whether it could not be read when that was last tried."""
        return self._failures.get(address, 0) > 0

    def backoff_seconds(self, address: DatabaseAddress, tick_seconds: float) -> float:
        """Return how long to leave it alone; the same for all its queues until the next failure."""
        return backoff_seconds(
            self._failures.get(address, 0), tick_seconds, spread=self._spreads.get(address, 0.0)
        )


def backoff_seconds(failures: int, tick_seconds: float, *, spread: float) -> float:
    """Return how long to leave a database alone: 0 to 30 seconds. Pure.

    Args:
        failures: how often in a row it could not be read; from the fourth on, the pause doubles.
        tick_seconds: how often it is read otherwise.
        spread: chance, 0 to 1: how much of the last quarter of the pause is left out.
    """
    doublings = failures - FAILURES_BEFORE_BACKOFF
    if doublings <= 0:
        return 0.0
    return doubled_seconds(
        doublings, first_seconds=tick_seconds, longest_seconds=MAX_BACKOFF_SECONDS, spread=spread
    )


def known_by_one_name(
    databases: Mapping[Hashable, Collection[Hashable]],
) -> dict[Hashable, Hashable]:
    """Return one address for all those that lead to the same database. Pure.

    Args:
        databases: by address, what identifies each; addresses that share an identity are one
            database. An address without any is a database of its own.
    """
    groups: list[tuple[set[Hashable], list[Hashable]]] = []
    for address, identities in databases.items():
        same = [group for group in groups if group[0] & set(identities)]
        groups = [group for group in groups if group not in same]
        together = set(identities).union(*(known for known, _ in same))
        groups.append((together, [*(each for _, these in same for each in these), address]))
    return {address: addresses[0] for _, addresses in groups for address in addresses}
