"""Changes to jobs that are in their queue: cancel, reschedule, set a priority, delete."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypedDict

from meshhook.actors import one_operation
from meshhook.administration import describe_tables, get_queue_config
from meshhook.arguments import (
    checked_flag,
    checked_id,
    checked_seconds,
    checked_storable_text,
    checked_text,
)
from meshhook.delays import delay_in_seconds
from meshhook.errors import InvalidSettingError
from meshhook.escaping import quoted
from meshhook.jobs import MAX_ID_LENGTH
from meshhook.names import MAX_KEY_LENGTH, validate_queue_name
from meshhook.postgres.database import LONG_ANSWER_TIMEOUT_SECONDS, Database
from meshhook.store import queries
from meshhook.store.changes import change_rows
from meshhook.store.job_rows import LIVE_STATES
from meshhook.store.job_search import MAX_CHUNK_ROWS, MessageWalk, Wanted
from meshhook.store.lookup_indexes import lookup_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from uuid import UUID

    import asyncpg

    from meshhook.priorities import Priority

CHUNK_JOBS = 1_000
"""How many jobs one statement changes."""
MAX_LISTED_JOBS = 1_000
"""How many changes are listed one by one."""
CHANGE_SECONDS = 300
"""The default time limit of a change of all jobs that fit."""
MAX_REASON_LENGTH = 4_000
MAX_REQUESTER_LENGTH = 200

_IDS = ("run_id", "workflow_id", "project_id")


class ChangeResult(StrEnum):
    """What became of one job."""

    CANCELLED = "cancelled"
    REQUESTED = "requested"
    """It runs, and its worker is asked to stop it."""
    RESCHEDULED = "rescheduled"
    REPRIORITIZED = "reprioritized"
    DELETED = "deleted"
    REPLAYED = "replayed"
    UNCHANGED = "unchanged"
    """Its state, or that it has ended, does not allow the change."""
    NOT_KEPT = "not_kept"
    """It has ended, and its body was not kept, so it cannot be replayed."""
    KEY_TAKEN = "key_taken"
    """It is not replayed, because another job has its unique key."""
    NOT_FOUND = "not_found"


@dataclass(frozen=True, slots=True)
class JobChange:
    """What became of one job."""

    msg_id: int
    result: ChangeResult
    was: str | None
    """The state that it was in, or how it had ended; None if nothing is known of it."""
    at: datetime | None
    """When it is ready, if it was rescheduled; when it had ended, if it had. Else None."""
    replayed_as: int | None = None
    """The msg_id of the job that it was replayed as, now or before; None if it was not."""


@dataclass(slots=True)
class JobChanges:
    """What became of the jobs that were to be changed."""

    counts: Counter[ChangeResult] = field(default_factory=Counter)
    """How many jobs had each result."""
    jobs: list[JobChange] = field(default_factory=list)
    """The jobs one by one, up to 1,000 of them."""
    is_complete: bool = True
    """Whether the search for jobs that fit covered the whole queue before its time was up."""
    seen: int = 0
    """How many messages that search read."""
    lookup: str | None = None
    """Which of `run_id`, `workflow_id` and `project_id` has an index that served it; None if the
    queue was read from the newest message down, or jobs were named by id."""
    is_dry_run: bool = False
    """Whether nothing was changed: this is what would have been."""

    @property
    def matched(self) -> int:
        """How many jobs were named or found."""
        return self.counts.total()

    @property
    def changed(self) -> int:
        """How many jobs were cancelled, rescheduled, given a priority, deleted or replayed."""
        return sum(self.counts[each] for each in _CHANGED)

    @property
    def requested(self) -> int:
        """How many jobs run, and are to be cancelled by their workers."""
        return self.counts[ChangeResult.REQUESTED]

    @property
    def unchanged(self) -> int:
        """How many jobs were left as they are, because of their state or because they had ended."""
        return self.counts[ChangeResult.UNCHANGED]

    @property
    def not_kept(self) -> int:
        """How many jobs have ended and were not replayed, because their bodies were not kept."""
        return self.counts[ChangeResult.NOT_KEPT]

    @property
    def key_taken(self) -> int:
        """How many jobs were not replayed, because another job has their unique key."""
        return self.counts[ChangeResult.KEY_TAKEN]

    @property
    def not_found(self) -> int:
        """How many of the named jobs are unknown."""
        return self.counts[ChangeResult.NOT_FOUND]

    def add(self, change: JobChange) -> None:
        """Count a change, and list it if there is room."""
        self.counts[change.result] += 1
        if len(self.jobs) < MAX_LISTED_JOBS:
            self.jobs.append(change)


_CHANGED = (
    ChangeResult.CANCELLED,
    ChangeResult.RESCHEDULED,
    ChangeResult.REPRIORITIZED,
    ChangeResult.DELETED,
    ChangeResult.REPLAYED,
)


class JobChoiceOptions(TypedDict, total=False):
    """Arguments that name jobs of a queue beside their ids, as in `QueueService.cancel`."""

    run_id: str | UUID | None
    workflow_id: str | UUID | None
    project_id: str | UUID | None
    key: str | UUID | None
    state: str | None
    dry_run: bool
    search_seconds: float


@dataclass(frozen=True, slots=True)
class JobChoice:
    """Which jobs of a queue to change: those with given ids, or all that fit."""

    msg_ids: tuple[int, ...] | None
    run_id: str | None
    workflow_id: str | None
    project_id: str | None
    key: str | None
    state: str | None

    @property
    def asked(self) -> dict[str, str | None]:
        """What fits, for the audit log."""
        return {name: getattr(self, name) for name in (*_IDS, "key", "state")}

    @classmethod
    def of(
        cls,
        msg_ids: int | Iterable[int] | None,
        *,
        run_id: str | UUID | None = None,
        workflow_id: str | UUID | None = None,
        project_id: str | UUID | None = None,
        key: str | UUID | None = None,
        state: str | None = None,
    ) -> JobChoice:
        """Return a choice, checked.

        Raises:
            InvalidSettingError: naming the argument that is wrong, or if none is given.
        """
        ids: tuple[int, ...] | None = None
        if msg_ids is not None:
            # What is no number is refused below.
            is_one = isinstance(msg_ids, str | bytes) or not isinstance(msg_ids, Iterable)
            several: Iterable[Any] = [msg_ids] if is_one else msg_ids  # type: ignore[assignment]
            ids = tuple(dict.fromkeys(checked_id("msg_id", each) for each in several))
        names = {"run_id": run_id, "workflow_id": workflow_id, "project_id": project_id}
        texts = {name: _checked_name(name, value, MAX_ID_LENGTH) for name, value in names.items()}
        found_key = _checked_name("key", key, MAX_KEY_LENGTH)
        filters = [*texts.values(), found_key]
        if state is not None and state not in LIVE_STATES:
            raise InvalidSettingError(
                f"state is one of {', '.join(LIVE_STATES)}, got {quoted(state)}"
            )
        if ids is not None and any(each is not None for each in filters):
            raise InvalidSettingError(
                "name jobs by msg_id, or by run_id, workflow_id, project_id and key, not by both"
            )
        if ids is None and state is None and all(each is None for each in filters):
            raise InvalidSettingError(
                "name the jobs: msg_ids, run_id, workflow_id, project_id, key or state. To delete "
                "all messages of a queue, purge it"
            )
        return cls(ids, key=found_key, state=state, **texts)


def _checked_name(name: str, value: str | UUID | None, max_length: int) -> str | None:
    if value is None:
        return None
    text = checked_storable_text(name, value if isinstance(value, str) else _text_of(value))
    return text[:max_length]


def _text_of(value: object) -> Any:
    # A UUID is what jobs have as text; anything else is refused by name.
    return str(value) if type(value).__name__ == "UUID" else value


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
            **{name: getattr(choice, name) for name in _IDS},
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
