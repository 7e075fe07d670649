"""Tracking: the whole life of one job, and lists of jobs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from itertools import groupby
from operator import attrgetter
from typing import TypedDict
from uuid import UUID

from meshhook.administration import get_queue_config
from meshhook.arguments import (
    check_range,
    checked_id,
    checked_seconds,
    checked_storable_text,
    utc_moment,
)
from meshhook.cancellation import Cancellation
from meshhook.errors import (
    InvalidJobError,
    InvalidSettingError,
    JobNotFoundError,
    QueueNotFoundError,
)
from meshhook.escaping import quoted
from meshhook.jobs import MAX_ID_LENGTH
from meshhook.names import validate_queue_name
from meshhook.postgres.database import Database, DatabaseSource, takes_url
from meshhook.priorities import AnyPriority, checked_priority
from meshhook.store import queries
from meshhook.store.dead_letter_rows import dead_letter_from
from meshhook.store.job_rows import (
    FINAL_STATES,
    KEPT_STATES,
    LIVE_STATES,
    JobKey,
    JobLife,
    JobSummary,
    by_key,
    group_id_of,
    job_key,
    life_from,
    newest_birth,
    summary_from,
    with_kept_body,
    with_last_attempt,
)
from meshhook.store.job_search import (
    MessageWalk,
    Walk,
    Wanted,
    history_walks,
    recorded_of_run,
    walk_all,
)
from meshhook.store.lookup_indexes import lookup_of

MAX_JOBS = 1_000
"""The most jobs that one call returns."""
SEARCH_SECONDS = 10.0
"""The default time limit of a search."""

_MAX_ATTEMPTS = 1_000
_MAX_REPLAYS = 100


@takes_url
async def get_job(database: DatabaseSource, queue: str, msg_id: int) -> JobLife:
    """Return a job's whole life, and that of the jobs it was replayed as.

    If a queue was dropped and recreated, msg_ids are used again; the newest job is returned.

    Args:
        database: where the queue is.
        queue: the queue.
        msg_id: the job.

    Raises:
        InvalidQueueNameError, InvalidSettingError: if the name or id is not a valid one.
        QueueNotFoundError: if the queue does not exist and has left no history.
        JobNotFoundError: if the job left no message, dead letter or attempt.
        DatabaseError: if it cannot be read.
    """
    name = validate_queue_name(queue)
    database = Database.of(database)
    known = await _known_queues(database)
    life = await _life(database, known, name, checked_id("msg_id", msg_id))
    if life is None and name not in known:
        raise QueueNotFoundError(name)
    if life is None:
        raise JobNotFoundError(
            f"queue {name!r}: nothing is left of job {quoted(msg_id)}. It was never there, "
            "somebody deleted it, or its history is older than history_retention_days: "
            f"meshhook queue show {name}"
        )
    lives = [life]
    while len(lives) <= _MAX_REPLAYS and (
        next_life := await _successor(database, known, lives[-1])
    ):
        lives.append(next_life)
    life = lives.pop()
    while lives:
        life = replace(lives.pop(), replayed_as=life)
    return life


class FoundJobs(list[JobSummary]):
    """The jobs found, and whether the search was complete."""

    is_complete: bool = True
    """Whether the search covered everything, or found as many jobs as were asked for."""
    seen: int = 0
    """How many messages and attempts the search read."""
    unread_below: dict[str, int]
    """For each queue whose messages and attempts were not all read: those with lower ids than this
    may have been missed. `before_id` continues there."""

    def __init__(self, jobs: Iterable[JobSummary] = ()) -> None:
        """Take the jobs."""
        super().__init__(jobs)
        self.unread_below = {}

    def note(self, walks: Iterable[Walk]) -> None:
        """Take how much was read, and what was left."""
        for walk in walks:
            self.seen += walk.seen
            if not walk.is_over:
                self.is_complete = False
                lowest = self.unread_below.get(walk.queue_name, 0)
                self.unread_below[walk.queue_name] = max(lowest, walk.unread_below)


class JobFilters(TypedDict, total=False):
    """Arguments of `find_jobs` beside the database and the queue."""

    run_id: str | None
    workflow_id: str | None
    project_id: str | None
    state: str | None
    key: str | None
    error_type: str | None
    since: datetime | None
    until: datetime | None
    before_id: int | None
    limit: int
    search_seconds: float
    priority: AnyPriority | None


@takes_url
async def find_jobs(
    database: DatabaseSource,
    *,
    queue: str | None = None,
    run_id: str | None = None,
    workflow_id: str | None = None,
    project_id: str | None = None,
    state: str | None = None,
    key: str | None = None,
    error_type: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    before_id: int | None = None,
    limit: int = 50,
    search_seconds: float = SEARCH_SECONDS,
    priority: AnyPriority | None = None,
) -> FoundJobs:
    """Return jobs, most recently enqueued first.

    Jobs that have had an attempt are found through an index by run, by error type, and by every
    state but `succeeded`; those in a queue by the ids of its setting `lookup_by`, and the few of a
    priority in one with priorities. Everything else
    is searched for in the messages and attempts, newest first, until enough are found, all have
    been read, or the time is up. It reads about 500,000 short messages a second, and no attempts of
    days before `since` or after `until`. `is_complete` of the result is false if jobs may have been
    missed, and `unread_below` says which.

    Args:
        database: where the queues are.
        queue: only jobs of this queue. Default: of all.
        run_id: only jobs of this run. Default: of all.
        workflow_id: only jobs of this workflow. Default: of all.
        project_id: only jobs of this project. Default: of all.
        state: only jobs in this state, one of `LIVE_STATES` and `FINAL_STATES`. Default: all.
        key: only jobs of this key, which are in the queue: the history has no keys. Default: all.
        error_type: only jobs whose last attempt had this error type. Default: all.
        since: only jobs that ended at this time or later, and of those in their queue the ones that
            were enqueued then; with `error_type` those whose last attempt ended then. A datetime
            with a time zone. Default: of any time.
        until: the same, before this time. Default: of any time.
        before_id: only jobs with lower msg_ids, to continue from the last page: the lowest id in
            it. Default: all.
        limit: how many at the most, 1 to 1,000. Default 50.
        search_seconds: after how long no further part is looked at, 0.1 to 3,600. Default 10.
        priority: only jobs of this priority, which are in the queue: the history has no
            priorities. `urgent`, `high`, `normal` or `low`, or 0 to 3; jobs for which nothing was
            said are normal, also in a queue without priorities. Default: all.

    Raises:
        InvalidQueueNameError, InvalidSettingError: naming the argument that is wrong.
            A key and before_id need a queue.
        QueueNotFoundError: if there is neither such a queue nor a history of one.
        DatabaseError: if they cannot be read.
    """
    check_range("limit", limit, MAX_JOBS)
    checked_seconds("search_seconds", search_seconds, 0.1, 3_600)
    deadline = time.monotonic() + search_seconds
    wanted = _wanted(
        queue,
        run_id=run_id,
        workflow_id=workflow_id,
        project_id=project_id,
        state=state,
        key=key,
        error_type=error_type,
        before_id=before_id,
        limit=limit,
    )
    _check_time_range(since, until)
    wanted = replace(
        wanted,
        since=None if since is None else utc_moment(since),
        until=None if until is None else utc_moment(until),
        priority=_band(priority, wanted),
    )
    database = Database.of(database)
    if queue is not None and key is not None:
        config = await get_queue_config(database, queue)
        wanted = replace(wanted, key_path=config.body_key_path)
    known = await _known_queues(database)
    names = list(known) if queue is None else [validate_queue_name(queue)]
    found = FoundJobs()
    recorded: list[JobSummary] = []
    messages: list[Walk] = []
    history: list[Walk] = []
    if wanted.run_id is not None:
        recorded, found.is_complete = await recorded_of_run(database, queue, wanted)
        recorded = [job for job in recorded if _fits(job, wanted)]
    elif (key, priority) == (None, None) and (state not in LIVE_STATES or error_type is not None):
        for name in names:
            is_there = known.get(name, False)
            history += await history_walks(database, name, wanted, is_there=is_there)
    # Of those that are in their queue, the history knows which had an error.
    if state not in FINAL_STATES and error_type is None:
        lookups = await lookup_of(database, queue, wanted.ids)
        prioritized = await _prioritized(database, queue, wanted)
        for name in names:
            if known.get(name):
                walk = MessageWalk(
                    database,
                    name,
                    wanted,
                    lookup=lookups.get(name),
                    is_prioritized=name in prioritized,
                )
                await walk.start()
                messages.append(walk)
    # Messages before attempts: what moves on between two reads is then found later.
    await walk_all([*messages, *history], deadline)
    jobs = by_key(job for walk in messages for job in walk.found)
    rows = by_key([*recorded, *(job for walk in history for job in walk.found)])
    # Where both know a job, a final outcome is the later word.
    jobs |= {key: job for key, job in rows.items() if job.state in FINAL_STATES}
    jobs |= await _still_live(database, known, [job for k, job in rows.items() if k not in jobs])
    if not jobs and queue is not None and queue not in known:
        raise QueueNotFoundError(queue)
    chosen = [job for job in jobs.values() if state is None or job.state == state]
    if error_type is None:
        # Those that came from the history are still in their queue by now.
        chosen = [job for job in chosen if wanted.is_in_time(job)]
    chosen.sort(key=_newest_first, reverse=True)
    found += await _with_last_attempts(database, chosen[:limit])
    found.note([*messages, *history])
    found.seen += len(recorded)
    return found


def _wanted(
    queue: str | None, *, state: str | None, before_id: int | None, limit: int, **texts: str | None
) -> Wanted:
    """Return what to search for, checked.

    Raises:
        InvalidSettingError: naming the argument that is wrong.
    """
    if state is not None and state not in LIVE_STATES + FINAL_STATES:
        raise InvalidSettingError(
            f"state is one of {', '.join(LIVE_STATES + FINAL_STATES)}, got {quoted(state)}"
        )
    checked = {name: _checked_job_id(name, value) for name, value in texts.items()}
    wanted = Wanted(
        run_id=checked["run_id"],
        workflow_id=checked["workflow_id"],
        project_id=checked["project_id"],
        key=checked["key"],
        error_type=checked["error_type"],
        state=state,
        limit=limit,
        before_id=None if before_id is None else checked_id("before_id", before_id),
    )
    if queue is None and (wanted.key is not None or before_id is not None):
        raise InvalidSettingError("key, before_id: name the queue, whose keys and ids these are")
    if wanted.key is not None and (wanted.error_type is not None or state in FINAL_STATES):
        raise InvalidSettingError(
            "key: the history has no keys; leave out error_type, and states of jobs that have ended"
        )
    return wanted


def _band(priority: object, wanted: Wanted) -> int | None:
    """Return a priority that is searched for as its number.

    Raises:
        InvalidSettingError: if it is none, or the history is searched.
    """
    if priority is None:
        return None
    if wanted.error_type is not None or wanted.outcome is not None:
        raise InvalidSettingError(
            "priority: the history has no priorities; leave out error_type, and states of jobs "
            "that have ended"
        )
    try:
        return int(checked_priority(priority))
    except InvalidJobError as error:
        raise InvalidSettingError(str(error)) from None


async def _prioritized(database: Database, queue: str | None, wanted: Wanted) -> set[str]:
    """Return the queues with an index of priorities; none where no priority is sought."""
    if wanted.priority is None:
        return set()
    rows = await database.fetch(queries.load("list_prioritized_queues"), queue)
    return {row["queue_name"] for row in rows}


def _check_time_range(since: datetime | None, until: datetime | None) -> None:
    """Check the times between which to search.

    Raises:
        InvalidSettingError: naming the argument that is wrong.
    """
    for name, moment in (("since", since), ("until", until)):
        if moment is not None and (not isinstance(moment, datetime) or moment.utcoffset() is None):
            raise InvalidSettingError(
                f"{name} is a datetime with a time zone, got {quoted(moment)}"
            )
    if since is not None and until is not None and since >= until:
        raise InvalidSettingError(
            f"since is before until, got {since.isoformat()} and {until.isoformat()}"
        )


def _fits(job: JobSummary, wanted: Wanted) -> bool:
    """Return whether a job of a run is one that is sought: the run's statement does not ask."""
    return (
        wanted.key is None
        and wanted.priority is None
        and wanted.error_type in (None, job.error_type)
        and wanted.is_in_time(job)
        and (wanted.before_id is None or job.msg_id < wanted.before_id)
    )


def _checked_job_id(name: str, value: str | None) -> str | None:
    """Return an id as messages and the history have it: in 200 characters.

    Raises:
        InvalidSettingError: if no job can have it.
    """
    if value is None:
        return None
    return checked_storable_text(name, value)[:MAX_ID_LENGTH]


async def _known_queues(database: Database) -> dict[str, bool]:
    """Return for each queue whether its tables are there."""
    rows = await database.fetch(queries.load("list_queue_names"))
    return {row["queue"]: row["is_complete"] for row in rows}


async def _life(
    database: Database,
    known: Mapping[str, bool],
    queue: str,
    msg_id: int,
    enqueued_at: datetime | None = None,
) -> JobLife | None:
    """Return the life of one job, without its replays.

    Of jobs that share an id it is the one enqueued at `enqueued_at`; None means the newest.
    """
    live = dead = None
    # In the order in which a job moves: one that moves on between two reads is found by the second.
    if known.get(queue):
        live = await database.fetchrow(queries.load("find_live_job", queue), msg_id, queue)
    rows = await database.fetch(queries.load("find_attempts"), queue, msg_id, _MAX_ATTEMPTS)
    if known.get(queue):
        row = await database.fetchrow(queries.load("find_dead_letter_of_job", queue), msg_id)
        dead = None if row is None else dead_letter_from(row, queue)
    if dead is not None and dead.queue != queue:
        dead = None
    births = [enqueued_at]
    if enqueued_at is None:
        enqueued_at = newest_birth(live, rows, dead)
        births.append(enqueued_at)
    if live is not None and live["enqueued_at"] not in births:
        live = None
    rows = [row for row in rows if row["enqueued_at"] in births]
    if dead is not None and dead.first_enqueued_at not in births:
        dead = None
    if live is None and dead is None and not rows:
        return None
    life = life_from(queue, msg_id, enqueued_at=enqueued_at, live=live, rows=rows, dead=dead)
    life = replace(life, group=await _group_of(database, life, group_id_of(live, dead)))
    if life.state in LIVE_STATES:
        return await _with_cancellation(database, life)
    return await _with_kept_body(database, life)


async def _with_kept_body(database: Database, life: JobLife) -> JobLife:
    """Add to a finished job what its queue kept of it."""
    if life.state not in KEPT_STATES:
        return life
    sql = queries.load("find_finished_job")
    row = await database.fetchrow(sql, life.queue, life.msg_id, life.enqueued_at)
    return life if row is None else with_kept_body(life, row)


async def _with_cancellation(database: Database, life: JobLife) -> JobLife:
    """Add to a job in its queue the request to cancel it."""
    asked = await database.fetchrow(queries.load("find_cancellation"), life.queue, life.msg_id)
    if asked is None or asked["enqueued_at"] != life.enqueued_at:
        return life
    request = Cancellation(asked["reason"], asked["requested_by"], asked["requested_at"])
    return replace(life, cancellation=request)


async def _group_of(database: Database, life: JobLife, group_id: UUID | None) -> str | None:
    """Return the name of the group of a job that is in its queue or a dead letter."""
    is_there = life.state in LIVE_STATES or life.dead_letter_id is not None
    if group_id is None or not is_there:
        return None
    sql = queries.load("find_group_of_job")
    name: str | None = await database.fetchval(sql, group_id, life.queue, life.msg_id)
    return name


async def _successor(
    database: Database, known: Mapping[str, bool], life: JobLife
) -> JobLife | None:
    """Return the life of the job that a job was replayed as, whichever queue it was sent to."""
    if life.replayed_as_id is None:
        return None
    for name in dict.fromkeys((life.queue, *known)):
        # The replay gave the new message the moment of its own row: see replay_dead_letters.sql.
        found = await _life(database, known, name, life.replayed_as_id, life.replayed_at)
        if found is not None:
            return found
    return None


async def _still_live(
    database: Database, known: Mapping[str, bool], jobs: Iterable[JobSummary]
) -> dict[JobKey, JobSummary]:
    """Return jobs whose last attempt was not their end, as they are now in their queues.

    Those that are gone all the same, since somebody purged them, stay as they are.
    """
    result = by_key(jobs)
    by_queue = sorted(result.values(), key=attrgetter("queue"))
    for name, group in groupby(by_queue, key=attrgetter("queue")):
        if known.get(name):
            ids = [job.msg_id for job in group]
            rows = await database.fetch(queries.load("find_live_jobs_by_id", name), ids)
            found = by_key(summary_from(row, name) for row in rows)
            result |= {key: job for key, job in found.items() if key in result}
    return result


async def _with_last_attempts(database: Database, jobs: list[JobSummary]) -> list[JobSummary]:
    """Add to jobs that are in their queue what their last attempt came to."""
    tried = [job for job in jobs if job.state in LIVE_STATES and job.attempts]
    if not tried:
        return jobs
    rows = await database.fetch(
        queries.load("find_last_attempts"),
        [job.queue for job in tried],
        [job.msg_id for job in tried],
        [job.enqueued_at for job in tried],
    )
    last = {(row["queue"], row["msg_id"], row["enqueued_at"]): row for row in rows}
    return [
        job if (row := last.get(job_key(job))) is None else with_last_attempt(job, row)
        for job in jobs
    ]


def _newest_first(job: JobSummary) -> tuple[float, int]:
    return (0.0 if job.enqueued_at is None else job.enqueued_at.timestamp()), job.msg_id
