"""Changing jobs that are in their queue: cancel, reschedule, set a priority, delete."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from meshhook.actors import one_operation
from meshhook.administration import describe_tables, get_queue_config
from meshhook.arguments import checked_flag, checked_seconds, checked_storable_text, checked_text
from meshhook.delays import delay_in_seconds
from meshhook.errors import InvalidSettingError
from meshhook.escaping import quoted
from meshhook.job_changes import CHUNK_JOBS, ChangeResult, JobChange, JobChanges
from meshhook.job_choice import IDENTIFIERS, JobChoice
from meshhook.names import validate_queue_name
from meshhook.postgres.database import LONG_ANSWER_TIMEOUT_SECONDS, Database
from meshhook.store import queries
from meshhook.store.changes import change_rows
from meshhook.store.job_rows import LIVE_STATES
from meshhook.store.job_search import MAX_CHUNK_ROWS, MessageWalk, Wanted
from meshhook.store.lookup_indexes import lookup_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    import asyncpg

    from meshhook.priorities import Priority

MAX_REASON_LENGTH = 4_000
MAX_REQUESTER_LENGTH = 200


class JobChanger:
    """Changes jobs of one queue, those with given ids or all that fit, in chunks.

    A chunk is one statement, and a transaction of its own unless the caller is in one. It never
    waits for a lock: a message that another transaction has locked counts as running.
    """

    def __init__(self, database: Any, queue: str, choice: JobChoice, seconds: float) -> None:
        """Take a Database, the queue, the choice, and how long to search for jobs that fit."""
        self._database = Database.of(database)
        self._queue = validate_queue_name(queue)
        self._choice = choice
        self._seconds = checked_seconds("search_seconds", seconds, 0.1, 86_400)
        self._done = JobChanges()

    async def cancel(
        self, *, reason: str, requested_by: str | None, dry_run: bool = False
    ) -> JobChanges:
        """Cancel them, as `QueueService.cancel` says."""
        text = _checked_text("reason", reason, MAX_REASON_LENGTH)
        name = _checked_text("requested_by", requested_by or "", MAX_REQUESTER_LENGTH)
        results = dict.fromkeys(LIVE_STATES, ChangeResult.CANCELLED)
        results["running"] = ChangeResult.REQUESTED
        return await self._change("cancel_jobs", text, name, results=results, dry_run=dry_run)

    async def reschedule(
        self, at: datetime | None, delay_seconds: float | None, *, dry_run: bool = False
    ) -> JobChanges:
        """Let them run at a time, after a delay, or now if both are None."""
        results = dict.fromkeys(("scheduled", "retrying"), ChangeResult.RESCHEDULED)
        if at is not None or delay_seconds is not None:
            results["ready"] = ChangeResult.RESCHEDULED
        return await self._change(
            "reschedule_jobs", at, delay_seconds, results=results, dry_run=dry_run
        )

    async def set_priority(self, priority: Priority, *, dry_run: bool = False) -> JobChanges:
        """Set the priority of those that wait, and of dead letters."""
        names = ("ready", "scheduled", "retrying", "dead_lettered")
        results = dict.fromkeys(names, ChangeResult.REPRIORITIZED)
        return await self._change(
            "prioritize_jobs", int(priority), results=results, dry_run=dry_run
        )

    async def delete(self, *, dry_run: bool = False) -> JobChanges:
        """Delete them with everything about them."""
        results = dict.fromkeys(LIVE_STATES, ChangeResult.DELETED)
        del results["running"]
        return await self._change("delete_jobs", results=results, dry_run=dry_run, of_ended=True)

    async def _change(
        self,
        statement: str,
        *arguments: object,
        results: dict[str, ChangeResult],
        dry_run: bool,
        of_ended: bool = False,
    ) -> JobChanges:
        checked_flag("dry_run", dry_run)
        tables = await describe_tables(self._database, self._queue)
        done = self._done = JobChanges(is_dry_run=dry_run)
        sql = queries.load(statement)
        if dry_run:
            sql = queries.load("find_job_states", tables)
        with one_operation():
            async for ids in self._chunks(tables):
                if dry_run:
                    for row in await self._fetch(sql, self._queue, ids):
                        done.add(self._expected(row, results, of_ended=of_ended))
                else:
                    for row in await self._carry_out(sql, ids, arguments):
                        done.add(
                            JobChange(
                                row["msg_id"], ChangeResult(row["result"]), row["was"], row["at"]
                            )
                        )
        return done

    async def _carry_out(
        self, sql: str, ids: list[int], arguments: Sequence[object]
    ) -> Sequence[asyncpg.Record]:
        return await change_rows(
            self._database,
            sql,
            self._queue,
            ids,
            self._choice.state,
            *arguments,
            asked=self._choice.asked,
            answer_timeout_seconds=LONG_ANSWER_TIMEOUT_SECONDS,
        )

    def _expected(
        self, row: asyncpg.Record, results: dict[str, ChangeResult], *, of_ended: bool
    ) -> JobChange:
        """Return what would become of a job."""
        was = row["was"]
        result = ChangeResult.UNCHANGED
        if was is None:
            result = ChangeResult.NOT_FOUND
        elif row["is_live"]:
            if self._choice.state in (None, was):
                result = results.get(was, ChangeResult.UNCHANGED)
        elif of_ended and self._choice.state is None:
            result = ChangeResult.DELETED
        elif self._choice.state is None:
            result = results.get(was, ChangeResult.UNCHANGED)
        return JobChange(row["msg_id"], result, was, row["at"])

    async def _fetch(self, sql: str, *arguments: object) -> Sequence[asyncpg.Record]:
        return await self._database.fetch(
            sql, *arguments, answer_timeout_seconds=LONG_ANSWER_TIMEOUT_SECONDS
        )

    async def _chunks(self, tables: queries.QueueTables) -> AsyncIterator[list[int]]:
        """Yield the ids of the jobs to change."""
        choice = self._choice
        if choice.msg_ids is not None:
            for start in range(0, len(choice.msg_ids), CHUNK_JOBS):
                yield list(choice.msg_ids[start : start + CHUNK_JOBS])
            return
        key_path = None
        if choice.key is not None:
            key_path = (await get_queue_config(self._database, self._queue)).body_key_path
        wanted = Wanted(
            **{name: getattr(choice, name) for name in IDENTIFIERS},
            state=choice.state,
            key=choice.key,
            key_path=key_path,
            # All of each chunk: what is left out there is not looked at again.
            limit=2 * MAX_CHUNK_ROWS,
        )
        deadline = time.monotonic() + self._seconds
        queue = tables.queue_name
        lookups = await lookup_of(self._database, queue, wanted.ids)
        lookup = self._done.lookup = lookups.get(queue)
        walk = MessageWalk(self._database, queue, wanted, lookup=lookup)
        await walk.start()
        while True:
            found, walk.found = walk.found, []
            ids = [job.msg_id for job in found]
            for start in range(0, len(ids), CHUNK_JOBS):
                yield ids[start : start + CHUNK_JOBS]
            self._done.seen = walk.seen
            if walk.is_over:
                return
            if time.monotonic() >= deadline:
                self._done.is_complete = False
                return
            await walk.step()


def _checked_text(name: str, value: str, max_length: int) -> str:
    text = checked_text(name, value)
    if len(text) > max_length:
        raise InvalidSettingError(f"{name} has at most {max_length} characters, got {len(text)}")
    return checked_storable_text(name, text)


def checked_moment(at: datetime) -> datetime:
    """Return a time to run jobs at.

    Raises:
        InvalidSettingError: if it is no time, has no time zone, or is more than 366 days ahead.
    """
    if not isinstance(at, datetime) or at.utcoffset() is None:
        raise InvalidSettingError(f"at is a datetime with a time zone, got {quoted(at)}")
    if at > datetime.now(UTC) + timedelta(days=366):
        raise InvalidSettingError(f"at is at most 366 days ahead, got {at.isoformat()}")
    return at


def checked_time(
    at: datetime | None, delay_seconds: float | timedelta | None
) -> tuple[datetime | None, float | None]:
    """Return when to run jobs: a time, or a delay in seconds.

    Raises:
        InvalidSettingError: if not exactly one is given, or it is out of range.
    """
    if (at is None) == (delay_seconds is None):
        raise InvalidSettingError("reschedule to a time or after a delay: at= or delay_seconds=")
    if at is not None:
        return checked_moment(at), None
    return None, delay_in_seconds(delay_seconds or 0)
