"""Looking for jobs among any number of messages and attempts, a part at a time."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshhook.arguments import MAX_ID
from meshhook.store import queries
from meshhook.store.job_rows import FINAL_STATES, JobSummary, summary_from

if TYPE_CHECKING:
    import asyncpg

    from meshhook.postgres.database import Database

FIRST_CHUNK_ROWS = 1_000
MAX_CHUNK_ROWS = 50_000
SMALL_SIDE_ROWS = 10_000
"""How many messages that are due, or are not, are looked at as one, to find those in a state."""
MAX_RUN_ATTEMPTS = 10_000

_QUICK_SECONDS = 0.1
_SLOW_SECONDS = 0.5
_DUE_STATES = ("ready", "lost")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which jobs are looked for; None means any."""

    run_id: str | None
    workflow_id: str | None
    project_id: str | None
    state: str | None
    limit: int
    """How many of each queue."""

    @property
    def outcome(self) -> str | None:
        """The last outcome that is looked for in the history."""
        return self.state if self.state in FINAL_STATES else None


class Walk(ABC):
    """A way through rows from the newest down, a chunk at a time."""

    def __init__(
        self, database: Database, queue_name: str, wanted: Wanted, *, up_to: int = MAX_ID
    ) -> None:
        """Take what to look for, and where: in which queue, and from which id down."""
        self.found: list[JobSummary] = []
        self.seen = 0
        """How many rows have been looked at."""
        self.is_over = False
        """Whether there is nothing left to look at, or enough was found."""
        self._database = database
        self._queue_name = queue_name
        self._wanted = wanted
        self._up_to = up_to
        self._chunk_rows = FIRST_CHUNK_ROWS

    async def step(self) -> None:
        """Look at the next chunk."""
        began_at = time.monotonic()
        missing = self._wanted.limit - len(self.found)
        rows = await self._read(self._up_to, self._chunk_rows, missing)
        took_seconds = time.monotonic() - began_at
        seen, lowest = rows[0]["seen"], rows[0]["lowest"]
        self.found += _summaries(rows, self._queue_name)
        self.seen += seen
        self.is_over = seen < self._chunk_rows or len(self.found) >= self._wanted.limit
        if lowest is not None:
            self._up_to = lowest - 1
        # Bodies may be long. The time limit holds between chunks only, so they stay short.
        if took_seconds < _QUICK_SECONDS:
            self._chunk_rows = min(self._chunk_rows * 4, MAX_CHUNK_ROWS)
        elif took_seconds > _SLOW_SECONDS:
            self._chunk_rows = max(self._chunk_rows // 4, 1)

    @abstractmethod
    async def _read(self, up_to: int, chunk_rows: int, limit: int) -> Sequence[asyncpg.Record]:
        """Read one chunk: the statement says how."""


class MessageWalk(Walk):
    """Through the messages of a queue."""

    async def start(self) -> None:
        """Look at once at all messages that are due, or are not, if they are few enough.

        Where a million jobs are ready, a hundred that run are found without a look at the others.
        """
        wanted = self._wanted
        if wanted.state is None:
            return
        rows = await self._database.fetch(
            queries.load("find_live_jobs_by_state", self._queue_name),
            *(wanted.run_id, wanted.workflow_id, wanted.project_id, SMALL_SIDE_ROWS, wanted.state),
            *(wanted.state in _DUE_STATES, wanted.limit),
        )
        if rows[0]["seen"] <= SMALL_SIDE_ROWS:
            self.found = _summaries(rows, self._queue_name)
            self.seen = rows[0]["seen"]
            self.is_over = True

    async def _read(self, up_to: int, chunk_rows: int, limit: int) -> Sequence[asyncpg.Record]:
        wanted = self._wanted
        return await self._database.fetch(
            queries.load("find_live_jobs", self._queue_name),
            *(up_to, chunk_rows, wanted.run_id, wanted.workflow_id, wanted.project_id),
            *(wanted.state, limit),
        )


class HistoryWalk(Walk):
    """Through what the history knows of a queue, which may be dropped."""

    async def _read(self, up_to: int, chunk_rows: int, limit: int) -> Sequence[asyncpg.Record]:
        wanted = self._wanted
        return await self._database.fetch(
            queries.load("find_recorded_jobs"),
            *(self._queue_name, up_to, chunk_rows, wanted.workflow_id, wanted.project_id),
            *(wanted.outcome, limit),
        )


async def history_walks(
    database: Database, queue_name: str, wanted: Wanted, *, is_there: bool
) -> list[Walk]:
    """Return the ways through the history of a queue.

    A queue that was dropped and made again counts from 1 again. Its own attempts are looked at
    apart from those with higher ids, which belong to the queue before and are older.
    """
    walks: list[Walk] = [HistoryWalk(database, queue_name, wanted)]
    if is_there:
        last_id = await database.fetchval(queries.load("last_message_id", queue_name))
        if last_id is not None:
            walks.append(HistoryWalk(database, queue_name, wanted, up_to=last_id))
    return walks


async def walk_all(walks: Sequence[Walk], deadline: float) -> None:
    """Let walks take steps in turn until all are over, or `deadline` (monotonic) has passed.

    Each takes one step at least.
    """
    left = list(walks)
    while left:
        for walk in left:
            if not walk.is_over:
                await walk.step()
        left = [walk for walk in left if not walk.is_over]
        if time.monotonic() >= deadline:
            return


async def recorded_of_run(
    database: Database, queue_name: str | None, wanted: Wanted
) -> tuple[list[JobSummary], bool]:
    """Return what the history knows of a run, by its index, and whether that is all of it."""
    rows = await database.fetch(
        queries.load("find_recorded_jobs_by_run"),
        *(wanted.run_id, queue_name, wanted.workflow_id, wanted.project_id, wanted.outcome),
        # All of them: which of those that are not over still wait is not known here.
        *(MAX_RUN_ATTEMPTS, MAX_RUN_ATTEMPTS),
    )
    return _summaries(rows), rows[0]["seen"] < MAX_RUN_ATTEMPTS


def _summaries(rows: Sequence[asyncpg.Record], queue_name: str | None = None) -> list[JobSummary]:
    return [
        summary_from(row, queue_name or row["queue"]) for row in rows if row["msg_id"] is not None
    ]
