"""Replays of finished jobs whose bodies are kept: which ones, and enqueuing them again."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypedDict

from meshhook.actors import one_operation
from meshhook.administration import describe_tables
from meshhook.arguments import checked_flag, checked_id, checked_seconds, checked_storable_text
from meshhook.delays import delay_in_seconds
from meshhook.errors import InvalidSettingError
from meshhook.escaping import quoted
from meshhook.job_changes import CHUNK_JOBS, ChangeResult, JobChange, JobChanges
from meshhook.jobs import MAX_ID_LENGTH
from meshhook.names import MAX_KEY_LENGTH, validate_queue_name
from meshhook.outcomes import AttemptOutcome
from meshhook.postgres.database import LONG_ANSWER_TIMEOUT_SECONDS, Database
from meshhook.store import queries
from meshhook.store.changes import change_rows
from meshhook.store.job_rows import KEPT_STATES
from meshhook.store.job_search import (
    MAX_CHUNK_ROWS,
    MAX_RUN_ATTEMPTS,
    HistoryWalk,
    Wanted,
    recorded_of_run,
)

if TYPE_CHECKING:
    from datetime import timedelta
    from uuid import UUID

    from meshhook.store.job_rows import JobSummary

_Chunk = tuple[list[int], list[datetime | None] | None]


class ReplayOptions(TypedDict, total=False):
    """Arguments of `QueueService.replay_jobs` beside ids and a connection."""

    run_id: str | UUID | None
    workflow_id: str | UUID | None
    project_id: str | UUID | None
    key: str | UUID | None
    state: str | None
    since: datetime | None
    until: datetime | None
    delay_seconds: float | timedelta
    again: bool
    dry_run: bool
    search_seconds: float


@dataclass(frozen=True, slots=True)
class ReplayChoice:
    """Which finished jobs of a queue to replay: those with given ids, or all that fit."""

    msg_ids: tuple[int, ...] | None
    run_id: str | None
    workflow_id: str | None
    project_id: str | None
    key: str | None
    state: str
    since: datetime | None
    until: datetime | None

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
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> ReplayChoice:
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
        if state is not None and state not in KEPT_STATES:
            message = (
                f"state is one of {', '.join(KEPT_STATES)}, got {quoted(state)}; jobs that "
                "failed for good are dead letters, and DLQService replays them"
            )
            raise InvalidSettingError(message)
        for name, moment in (("since", since), ("until", until)):
            is_time = isinstance(moment, datetime) and moment.utcoffset() is not None
            if moment is not None and not is_time:
                message = f"{name} is a datetime with a time zone, got {quoted(moment)}"
                raise InvalidSettingError(message)
        if since is not None and until is not None and since >= until:
            message = f"since is before until, got {since.isoformat()} and {until.isoformat()}"
            raise InvalidSettingError(message)
        filters = [*texts.values(), found_key, state, since, until]
        is_filtered = any(each is not None for each in filters)
        if ids is not None and is_filtered:
            raise InvalidSettingError(
                "name jobs by msg_id, or by run_id, workflow_id, project_id, key, state, since and "
                "until, not by both"
            )
        if ids is None and not is_filtered:
            raise InvalidSettingError(
                "name the jobs: msg_ids, run_id, workflow_id, project_id, key, state, since, until"
            )
        return cls(
            ids,
            key=found_key,
            state=state or AttemptOutcome.SUCCEEDED.value,
            since=since,
            until=until,
            **texts,
        )

    @property
    def asked(self) -> dict[str, object]:
        """What fits, for the audit log."""
        names = ("run_id", "workflow_id", "project_id", "state", "since", "until")
        return {} if self.msg_ids else {name: getattr(self, name) for name in names}

    @property
    def wanted(self) -> Wanted:
        """What to search the history for."""
        return Wanted(
            run_id=self.run_id,
            workflow_id=self.workflow_id,
            project_id=self.project_id,
            state=self.state,
            since=self.since,
            until=self.until,
            # All of each chunk: what is left out there is not looked at again.
            limit=2 * MAX_CHUNK_ROWS,
        )


def _checked_name(name: str, value: str | UUID | None, max_length: int) -> str | None:
    if value is None:
        return None
    # A UUID is what jobs have as text; anything else is refused by name.
    text: Any = str(value) if type(value).__name__ == "UUID" else value
    return checked_storable_text(name, text)[:max_length]


class JobReplayer:
    """Replays finished jobs of one queue, in chunks.

    A chunk is one statement, and a transaction of its own unless the caller is in one.
    """

    def __init__(self, database: Any, queue: str, choice: ReplayChoice, seconds: float) -> None:
        """Take a Database, the queue, the choice, and how long to search for jobs that fit."""
        self._database = Database.of(database)
        self._queue = validate_queue_name(queue)
        self._choice = choice
        self._seconds = checked_seconds("search_seconds", seconds, 0.1, 86_400)
        self._done = JobChanges()

    async def replay(
        self, *, delay_seconds: float | timedelta, again: bool, dry_run: bool
    ) -> JobChanges:
        """Replay them, as `QueueService.replay_jobs` says."""
        delay = delay_in_seconds(delay_seconds)
        checked_flag("again", again)
        checked_flag("dry_run", dry_run)
        await describe_tables(self._database, self._queue)
        done = self._done = JobChanges(is_dry_run=dry_run)
        sql = queries.load("replay_jobs")
        with one_operation():
            async for ids, times in self._chunks():
                rows = await change_rows(
                    self._database,
                    sql,
                    *(self._queue, ids, times, self._choice.key, again, delay, dry_run),
                    asked=self._choice.asked,
                    answer_timeout_seconds=LONG_ANSWER_TIMEOUT_SECONDS,
                )
                for row in rows:
                    # Older versions do not know this result: in SQL it is one of `unchanged`.
                    is_taken = row["was"] == ChangeResult.KEY_TAKEN
                    result = ChangeResult.KEY_TAKEN if is_taken else ChangeResult(row["result"])
                    done.add(
                        JobChange(row["msg_id"], result, row["was"], row["at"], row["replayed_as"])
                    )
        return done

    async def _chunks(self) -> AsyncIterator[_Chunk]:
        """Yield the ids of the jobs to replay, and when each was enqueued, if that is known."""
        ids = self._choice.msg_ids
        if ids is not None:
            for start in range(0, len(ids), CHUNK_JOBS):
                yield list(ids[start : start + CHUNK_JOBS]), None
            return
        wanted = self._choice.wanted
        if wanted.run_id is not None:
            jobs, self._done.is_complete = await recorded_of_run(
                self._database, self._queue, wanted
            )
            self._done.seen = len(jobs) if self._done.is_complete else MAX_RUN_ATTEMPTS
            for chunk in _in_chunks([job for job in jobs if wanted.is_in_time(job)]):
                yield chunk
            return
        deadline = time.monotonic() + self._seconds
        walk = HistoryWalk(self._database, self._queue, wanted)
        while not walk.is_over:
            await walk.step()
            found, walk.found = walk.found, []
            for chunk in _in_chunks(found):
                yield chunk
            self._done.seen = walk.seen
            if time.monotonic() >= deadline:
                self._done.is_complete = walk.is_over
                return


def _in_chunks(jobs: Sequence[JobSummary]) -> Iterable[_Chunk]:
    for start in range(0, len(jobs), CHUNK_JOBS):
        chunk = jobs[start : start + CHUNK_JOBS]
        yield [job.msg_id for job in chunk], [job.enqueued_at for job in chunk]
