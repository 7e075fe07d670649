"""Searching any number of messages and attempts for jobs, one chunk at a time."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshhook.arguments import MAX_ID
from meshhook.outcomes import AttemptOutcome
from meshhook.store import queries
from meshhook.store.job_rows import FINAL_STATES, LIVE_STATES, JobSummary, summary_from

if TYPE_CHECKING:
    from datetime import datetime

    import asyncpg

    from meshhook.postgres.database import Database

FIRST_CHUNK_ROWS = 250
"""How many messages or attempts the first step of a walk reads: it may find a page at once."""
MAX_CHUNK_ROWS = 50_000
FEW_SIDE_ROWS = 500
"""As many due (or not yet due) messages are read before any others."""
SMALL_SIDE_ROWS = 10_000
"""Up to this many due (or not yet due) messages are read at once to find those in a state."""
MAX_RUN_ATTEMPTS = 10_000

_QUICK_SECONDS = 0.1
_SLOW_SECONDS = 0.5
_DUE_STATES = ("ready", "lost")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which jobs to search for; None means any."""

    run_id: str | None
    workflow_id: str | None
    project_id: str | None
    state: str | None
    limit: int
    """How many of each queue."""
    key: str | None = None
    """The key of a message; only for messages in a queue."""
    key_path: str | None = None
    """Where in the body that is; None means in the header."""
    error_type: str | None = None
    """The error type of the last attempt; only for the history."""
    before_id: int | None = None
    """Only jobs with lower ids."""
    since: datetime | None = None
    """Only jobs of this time or later: `is_in_time` says which time."""
    until: datetime | None = None
    """Only jobs of a time before this."""
    priority: int | None = None
    """The priority of a message, 0 to 3; only for messages in a queue."""

    @property
    def ids(self) -> dict[str, str | None]:
        """The run, the workflow and the project, by their names."""
        return {
            "run_id": self.run_id,
            "workflow_id": self.workflow_id,
            "project_id": self.project_id,
        }

    @property
    def outcome(self) -> str | None:
        """The last outcome to search for in the history."""
        return self.state if self.state in FINAL_STATES else None

    @property
    def recorded_by(self) -> str:
        """The statement whose index serves the search in the history best."""
        if self.error_type is not None:
            return "find_recorded_jobs_by_error"
        if self.outcome not in (None, AttemptOutcome.SUCCEEDED):
            return "find_recorded_jobs_by_outcome"
        return "find_recorded_jobs"

    def is_in_time(self, job: JobSummary) -> bool:
        """Return whether a job is of the time that is searched.

        That is when its last attempt ended; for one in its queue, when it was enqueued, unless the
        error of its last attempt is searched for.
        """
        is_live = job.state in LIVE_STATES and self.error_type is None
        at = job.enqueued_at if is_live else job.last_finished_at
        if at is None:
            return self.since is None and self.until is None
        return (self.since is None or at >= self.since) and (self.until is None or at < self.until)


class Walk(ABC):
    """A walk through rows, newest first, one chunk at a time."""

    def __init__(
        self, database: Database, queue_name: str, wanted: Wanted, *, up_to: int = MAX_ID
    ) -> None:
        """Take what to search for, in which queue, and the highest id to start from."""
        self.found: list[JobSummary] = []
        self.seen = 0
        """How many rows have been read."""
        self.is_over = False
        """Whether nothing is left to read, or enough was found."""
        self.queue_name = queue_name
        self._database = database
        self._wanted = wanted
        self._up_to = up_to if wanted.before_id is None else min(up_to, wanted.before_id - 1)
        self._chunk_rows = FIRST_CHUNK_ROWS

    @property
    def unread_below(self) -> int:
        """Rows with lower ids than this have not been read."""
        return self._up_to + 1

    async def step(self) -> None:
        """Read the next chunk."""
        began_at = time.monotonic()
        missing = self._wanted.limit - len(self.found)
        rows = await self._read(self._up_to, self._chunk_rows, missing)
        took_seconds = time.monotonic() - began_at
        seen, lowest = rows[0]["seen"], rows[0]["lowest"]
        self.found += _summaries(rows, self.queue_name)
        self.seen += seen
        self.is_over = seen < self._chunk_rows or len(self.found) >= self._wanted.limit
        if lowest is not None:
            self._up_to = lowest - 1
        # The time limit is checked between chunks, so chunks stay short: bodies may be long.
        if took_seconds < _QUICK_SECONDS:
            self._chunk_rows = min(self._chunk_rows * 4, MAX_CHUNK_ROWS)
        elif took_seconds > _SLOW_SECONDS:
            self._chunk_rows = max(self._chunk_rows // 4, 1)

    @abstractmethod
    async def _read(self, up_to: int, chunk_rows: int, limit: int) -> Sequence[asyncpg.Record]:
        """Read one chunk with the statement of this kind of row."""


class MessageWalk(Walk):
    """A walk through the messages of a queue, or through those with an id that has an index."""

    def __init__(
        self,
        database: Database,
        queue_name: str,
        wanted: Wanted,
        *,
        lookup: str | None,
        is_prioritized: bool = False,
    ) -> None:
        """Take what to search for, in which queue, and which indexes serve it.

        Args:
            database: where the queue is.
            queue_name: the queue.
            wanted: what to search for.
            lookup: the id whose index serves it, if any.
            is_prioritized: whether the queue has an index of priorities. Default: false.
        """
        super().__init__(database, queue_name, wanted)
        self._lookup = lookup
        self._is_by_band = is_prioritized and wanted.priority is not None

    async def start(self) -> None:
        """Read all due (or all not yet due) messages at once, or all of a priority, if few.

        With a million ready jobs, a hundred running or urgent ones are found without reading the
        others; and a page of the ready ones in the first step.
        """
        # A run has few jobs.
        if self._lookup == "run_id" or not (self._wanted.state or self._is_by_band):
            return
        if await self._is_part_read(FEW_SIDE_ROWS):
            return
        await self.step()
        if not self.is_over:
            await self._is_part_read(SMALL_SIDE_ROWS)

    async def _is_part_read(self, max_rows: int) -> bool:
        """Read the messages of a priority or on one side, and return whether there are so few."""
        if self._is_by_band and await self._is_band_read(max_rows):
            return True
        return self._wanted.state is not None and await self._is_side_read(max_rows)

    async def _is_band_read(self, max_rows: int) -> bool:
        """Read all messages of the priority, and return whether there are so few."""
        wanted = self._wanted
        rows = await self._database.fetch(
            queries.load("find_live_jobs_by_priority", self.queue_name, key_path=wanted.key_path),
            *(wanted.run_id, wanted.workflow_id, wanted.project_id, max_rows, wanted.state),
            *(wanted.priority, wanted.limit, wanted.key, wanted.since, wanted.until),
            MAX_ID if wanted.before_id is None else wanted.before_id - 1,
        )
        return self._is_whole(rows, max_rows)

    async def _is_side_read(self, max_rows: int) -> bool:
        """Read all due (or all not yet due) messages, and return whether there are so few."""
        wanted = self._wanted
        rows = await self._database.fetch(
            queries.load("find_live_jobs_by_state", self.queue_name, key_path=wanted.key_path),
            *(wanted.run_id, wanted.workflow_id, wanted.project_id, max_rows, wanted.state),
            *(wanted.state in _DUE_STATES, wanted.limit, wanted.key, wanted.since, wanted.until),
            MAX_ID if wanted.before_id is None else wanted.before_id - 1,
            wanted.priority,
        )
        return self._is_whole(rows, max_rows)

    def _is_whole(self, rows: Sequence[asyncpg.Record], max_rows: int) -> bool:
        if rows[0]["seen"] > max_rows:
            return False
        self.found = _summaries(rows, self.queue_name)
        self.seen += rows[0]["seen"]
        self.is_over = True
        return True

    async def _read(self, up_to: int, chunk_rows: int, limit: int) -> Sequence[asyncpg.Record]:
        wanted = self._wanted
        if self._lookup is None:
            sql = queries.load("find_live_jobs", self.queue_name, key_path=wanted.key_path)
        else:
            sql = queries.load(
                "find_live_jobs_by_lookup",
                self.queue_name,
                key_path=wanted.key_path,
                lookup=self._lookup,
            )
        return await self._database.fetch(
            sql,
            *(up_to, chunk_rows, wanted.run_id, wanted.workflow_id, wanted.project_id),
            *(wanted.state, limit, wanted.key, wanted.since, wanted.until, wanted.priority),
        )


class HistoryWalk(Walk):
    """A walk through the history of a queue, which may have been dropped."""

    async def _read(self, up_to: int, chunk_rows: int, limit: int) -> Sequence[asyncpg.Record]:
        wanted = self._wanted
        return await self._database.fetch(
            queries.load(wanted.recorded_by),
            *(self.queue_name, up_to, chunk_rows, wanted.workflow_id, wanted.project_id),
            *(wanted.outcome, limit, wanted.error_type, wanted.since, wanted.until),
        )


async def history_walks(
    database: Database, queue_name: str, wanted: Wanted, *, is_there: bool
) -> list[Walk]:
    """Return the walks through the history of a queue.

    A queue that was dropped and recreated numbers its messages from 1 again. Its own attempts are
    read separately from those with higher ids, which belong to its predecessor and are older.
    """
    walks: list[Walk] = [HistoryWalk(database, queue_name, wanted)]
    if is_there and wanted.before_id is None:
        last_id = await database.fetchval(queries.load("last_message_id", queue_name))
        if last_id is not None:
            walks.append(HistoryWalk(database, queue_name, wanted, up_to=last_id))
    return walks


async def walk_all(walks: Sequence[Walk], deadline: float) -> None:
    """Advance walks in turn until all have ended or `deadline` (monotonic) has passed.

    Each advances at least once.
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
    """Return the jobs of a run in the history, through its index, and whether these are all."""
    rows = await database.fetch(
        queries.load("find_recorded_jobs_by_run"),
        *(wanted.run_id, queue_name, wanted.workflow_id, wanted.project_id, wanted.outcome),
        # All of them: the history does not tell which unfinished ones are still waiting.
        *(MAX_RUN_ATTEMPTS, MAX_RUN_ATTEMPTS),
    )
    return _summaries(rows), rows[0]["seen"] < MAX_RUN_ATTEMPTS


def _summaries(rows: Sequence[asyncpg.Record], queue_name: str | None = None) -> list[JobSummary]:
    return [
        summary_from(row, queue_name or row["queue"]) for row in rows if row["msg_id"] is not None
    ]
