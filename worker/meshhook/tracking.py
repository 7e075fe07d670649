"""Where jobs are and what became of them: one job's whole life, and lists of jobs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from itertools import groupby
from operator import attrgetter

from meshhook import queries
from meshhook.database import Database
from meshhook.dead_letter_jobs import dead_letter_from
from meshhook.errors import InvalidSettingError, JobNotFoundError, QueueNotFoundError
from meshhook.job_lives import (
    FINAL_STATES,
    LIVE_STATES,
    JobKey,
    JobLife,
    JobSummary,
    by_key,
    job_key,
    life_from,
    newest_birth,
    summary_from,
    with_last_attempt,
)
from meshhook.limits import check_range, checked_id
from meshhook.names import validate_queue_name

MAX_JOBS = 1_000
"""The most jobs that one call lists."""

_MAX_ATTEMPTS = 1_000
_MAX_REPLAYS = 100
_SCANNED_IN_ONE_QUEUE = 10_000
_SCANNED_IN_EACH_QUEUE = 1_000
_WAITING_STATES = ("ready", "lost")


async def get_job(database: Database, queue_name: str, msg_id: int) -> JobLife:
    """Return a job's whole life, and that of the jobs that it was replayed as.

    Where a queue was dropped and made again, msg_ids are given twice: it is the newest one.

    Args:
        database: where the queue is.
        queue_name: the queue.
        msg_id: the job.

    Raises:
        InvalidQueueNameError, InvalidSettingError: if no job could have that name and id.
        QueueNotFoundError: if there is neither such a queue nor a history of one.
        JobNotFoundError: if neither a message, a dead letter nor an attempt is left of it.
        DatabaseError: if it cannot be read.
    """
    name = validate_queue_name(queue_name)
    known = await _known_queues(database)
    life = await _life(database, known, name, checked_id("msg_id", msg_id))
    if life is None and name not in known:
        raise QueueNotFoundError(name)
    if life is None:
        raise JobNotFoundError(
            f"queue {name!r}: nothing is left of job {msg_id}. It was never there, or its history "
            f"is older than history_retention_days: meshhook queue show {name}"
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


async def find_jobs(
    database: Database,
    *,
    queue_name: str | None = None,
    run_id: str | None = None,
    workflow_id: str | None = None,
    state: str | None = None,
    limit: int = 50,
) -> list[JobSummary]:
    """Return jobs, the newest first.

    The jobs of a run that have had an attempt are found wherever they are. Everything else is
    sought among the newest 10,000 messages and attempts of the queue (1,000 of each queue, if none
    is named); for a live state, among the 10,000 that are ready longest or fall due first.

    Args:
        database: where the queues are.
        queue_name: only jobs of this queue. Default: of all.
        run_id: only jobs of this run. Default: of all.
        workflow_id: only jobs of this workflow. Default: of all.
        state: only jobs in this state, one of `LIVE_STATES` and `FINAL_STATES`. Default: all.
        limit: how many at the most, 1 to 1,000. Default 50.

    Raises:
        InvalidQueueNameError, InvalidSettingError: naming the argument that is wrong.
        QueueNotFoundError: if there is neither such a queue nor a history of one.
        DatabaseError: if they cannot be read.
    """
    check_range("limit", limit, MAX_JOBS)
    if state is not None and state not in LIVE_STATES + FINAL_STATES:
        raise InvalidSettingError(
            f"state is one of {', '.join(LIVE_STATES + FINAL_STATES)}, got {state!r}"
        )
    known = await _known_queues(database)
    names = list(known) if queue_name is None else [validate_queue_name(queue_name)]
    scanned = _SCANNED_IN_EACH_QUEUE if queue_name is None else _SCANNED_IN_ONE_QUEUE
    jobs: dict[JobKey, JobSummary] = {}
    if state not in FINAL_STATES:
        statement = "find_live_jobs" if state is None else "find_live_jobs_by_state"
        by_state = () if state is None else (state, state in _WAITING_STATES)
        for name in names:
            if known.get(name):
                sql = queries.load(statement, name)
                rows = await database.fetch(sql, run_id, workflow_id, scanned, limit, *by_state)
                jobs |= by_key(summary_from(row, name) for row in rows)
    if run_id is not None or state not in LIVE_STATES:
        outcome = state if state in FINAL_STATES else None
        if run_id is None:
            rows = await database.fetch(
                queries.load("find_recorded_jobs"), names, workflow_id, outcome, scanned, limit
            )
        else:
            rows = await database.fetch(
                queries.load("find_recorded_jobs_by_run"),
                *(run_id, queue_name, workflow_id, outcome, _SCANNED_IN_ONE_QUEUE, limit),
            )
        recorded = by_key(summary_from(row, row["queue"]) for row in rows)
        # Live messages were read before: where both know a job, a final outcome is the later word.
        jobs |= {k: job for k, job in recorded.items() if job.state in FINAL_STATES}
        unsettled = [job for k, job in recorded.items() if k not in jobs]
        jobs |= await _still_live(database, known, unsettled)
    if not jobs and queue_name is not None and queue_name not in known:
        raise QueueNotFoundError(queue_name)
    chosen = [job for job in jobs.values() if state is None or job.state == state]
    chosen.sort(key=_newest_first, reverse=True)
    return await _with_last_attempts(database, chosen[:limit])


async def _known_queues(database: Database) -> dict[str, bool]:
    """Return for each queue whether its tables are there."""
    rows = await database.fetch(queries.load("list_queue_names"))
    return {row["queue_name"]: row["is_complete"] for row in rows}


async def _life(
    database: Database,
    known: Mapping[str, bool],
    queue_name: str,
    msg_id: int,
    enqueued_at: datetime | None = None,
) -> JobLife | None:
    """Return the life of one job, without its replays.

    Of jobs that share an id it is the one enqueued at `enqueued_at`; None means the newest.
    """
    live = dead = None
    # In the order in which a job goes: what moves on between two reads is then found later.
    if known.get(queue_name):
        live = await database.fetchrow(queries.load("find_live_job", queue_name), msg_id)
    rows = await database.fetch(queries.load("find_attempts"), queue_name, msg_id, _MAX_ATTEMPTS)
    if known.get(queue_name):
        row = await database.fetchrow(queries.load("find_dead_letter_of_job", queue_name), msg_id)
        dead = None if row is None else dead_letter_from(row, queue_name)
    if dead is not None and dead.queue != queue_name:
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
    return life_from(queue_name, msg_id, enqueued_at=enqueued_at, live=live, rows=rows, dead=dead)


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
