"""Searching for jobs, in their queues and in the history."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from itertools import groupby
from operator import attrgetter

from meshhook.administration import get_queue_config
from meshhook.arguments import check_range, checked_seconds
from meshhook.errors import QueueNotFoundError
from meshhook.names import validate_queue_name
from meshhook.postgres.database import Database, DatabaseSource, takes_url
from meshhook.priorities import AnyPriority
from meshhook.store import queries
from meshhook.store.job_rows import (
    FINAL_STATES,
    LIVE_STATES,
    JobKey,
    JobSummary,
    by_key,
    job_key,
    summary_from,
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
from meshhook.tracking.filters import wanted_jobs
from meshhook.tracking.found_jobs import FoundJobs
from meshhook.tracking.known_queues import known_queues

MAX_JOBS = 1_000
"""The most jobs that one call returns."""
SEARCH_SECONDS = 10.0
"""The default time limit of a search."""


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
    priority in one with priorities. Everything else is searched for in the messages and attempts,
    newest first, until enough are found, all have been read, or the time is up. It reads about
    500,000 short messages a second, and no attempts of days before `since` or after `until`.
    `is_complete` of the result is false if jobs may have been missed, and `unread_below` says
    which.

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
    wanted = wanted_jobs(
        queue,
        run_id=run_id,
        workflow_id=workflow_id,
        project_id=project_id,
        state=state,
        key=key,
        error_type=error_type,
        since=since,
        until=until,
        before_id=before_id,
        limit=limit,
        priority=priority,
    )
    database = Database.of(database)
    if queue is not None and key is not None:
        config = await get_queue_config(database, queue)
        wanted = replace(wanted, key_path=config.body_key_path)
    known = await known_queues(database)
    searched = known if queue is None else {validate_queue_name(queue): known.get(queue, False)}
    found = FoundJobs()
    recorded: list[JobSummary] = []
    if wanted.run_id is not None:
        recorded, found.is_complete = await recorded_of_run(database, queue, wanted)
        recorded = [job for job in recorded if _fits(job, wanted)]
    history = await _history_walks(database, searched, wanted)
    messages = await _message_walks(database, queue, searched, wanted)
    # Messages before attempts: what moves on between two reads is then found later.
    await walk_all([*messages, *history], deadline)
    jobs = by_key(job for walk in messages for job in walk.found)
    rows = by_key([*recorded, *(job for walk in history for job in walk.found)])
    # Where both know a job, a final outcome is the later word.
    jobs |= {key: job for key, job in rows.items() if job.state in FINAL_STATES}
    jobs |= await _still_live(database, known, [job for k, job in rows.items() if k not in jobs])
    if not jobs and queue is not None and queue not in known:
        raise QueueNotFoundError(queue)
    newest = _newest_that_fit(jobs.values(), wanted)
    found += await _with_last_attempts(database, newest[:limit])
    found.note([*messages, *history])
    found.seen += len(recorded)
    return found


async def _history_walks(
    database: Database, searched: Mapping[str, bool], wanted: Wanted
) -> list[Walk]:
    """Return walks through the attempts; none if these are not needed to find what is sought."""
    if wanted.run_id is not None or (wanted.key, wanted.priority) != (None, None):
        return []
    if wanted.state in LIVE_STATES and wanted.error_type is None:
        return []
    walks: list[Walk] = []
    for name, is_there in searched.items():
        walks += await history_walks(database, name, wanted, is_there=is_there)
    return walks


async def _message_walks(
    database: Database, queue: str | None, searched: Mapping[str, bool], wanted: Wanted
) -> list[Walk]:
    """Return walks, which have been started, through the messages of the queues that are there."""
    # Of those that are in their queue, the history knows which had an error.
    if wanted.state in FINAL_STATES or wanted.error_type is not None:
        return []
    lookups = await lookup_of(database, queue, wanted.ids)
    prioritized = await _prioritized(database, queue, wanted)
    walks: list[Walk] = []
    for name, is_there in searched.items():
        if is_there:
            walk = MessageWalk(
                database,
                name,
                wanted,
                lookup=lookups.get(name),
                is_prioritized=name in prioritized,
            )
            await walk.start()
            walks.append(walk)
    return walks


def _newest_that_fit(jobs: Iterable[JobSummary], wanted: Wanted) -> list[JobSummary]:
    """Return those in the state and of the time that are sought, the newest first."""
    chosen = [job for job in jobs if wanted.state in (None, job.state)]
    if wanted.error_type is None:
        # Those that came from the history are still in their queue by now.
        chosen = [job for job in chosen if wanted.is_in_time(job)]
    return sorted(chosen, key=_newest_first, reverse=True)


async def _prioritized(database: Database, queue: str | None, wanted: Wanted) -> set[str]:
    """Return the queues with an index of priorities; none where no priority is sought."""
    if wanted.priority is None:
        return set()
    rows = await database.fetch(queries.load("list_prioritized_queues"), queue)
    return {row["queue_name"] for row in rows}


def _fits(job: JobSummary, wanted: Wanted) -> bool:
    """Return whether a job of a run is one that is sought: the run's statement does not ask."""
    return (
        wanted.key is None
        and wanted.priority is None
        and wanted.error_type in (None, job.error_type)
        and wanted.is_in_time(job)
        and (wanted.before_id is None or job.msg_id < wanted.before_id)
    )


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
