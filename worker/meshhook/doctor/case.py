"""What checks work with: the database, within a time limit, and what is known of the connection."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from meshhook.queue_config import QueueConfig
from meshhook.store import queries

if TYPE_CHECKING:
    from meshhook.doctor.finding import Finding
    from meshhook.postgres.database import Database

CHECK_SECONDS = 2.0
"""How long the server works on a statement of a check."""


@dataclass(frozen=True, slots=True)
class Case:
    """A database that is examined."""

    database: Database
    queues: tuple[str, ...] | None
    """The queues to look at; None means all."""
    pooled: bool | None = None
    """Whether the caller says that a pooler in transaction mode is in between; None: unknown."""
    listen_url: str | None = field(default=None, repr=False)
    """Where workers listen; None: over the same connection as all else."""

    async def fetch(self, sql: str, *arguments: object) -> list[dict[str, Any]]:
        """Run a statement within the time limit, and return its rows."""

        async def work(connection: Any) -> list[dict[str, Any]]:
            limit = f"{CHECK_SECONDS * 1000:.0f}ms"
            await connection.fetch(queries.load("limit_statement"), limit)
            return [dict(row) for row in await connection.fetch(sql, *arguments)]

        return await self.database.run_in_transaction(work)

    async def configs(self) -> list[QueueConfig]:
        """Return the settings of the queues."""
        rows = await self.fetch(queries.load("examine_settings"), self.wanted)
        return [QueueConfig.from_row(row["queue"], row["config"]) for row in rows]

    @property
    def wanted(self) -> list[str] | None:
        """The queues to look at, as an argument of a statement."""
        return None if self.queues is None else list(self.queues)


@dataclass(frozen=True, slots=True)
class Check:
    """One check."""

    name: str
    fine: str
    """What is so if it finds nothing."""
    look: Callable[[Case], Awaitable[Sequence[Finding]]]
