"""The whole life of one job: its attempts, its end, and the jobs it was replayed as."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from uuid import UUID

from meshhook.arguments import checked_id
from meshhook.cancellation import Cancellation
from meshhook.errors import JobNotFoundError, QueueNotFoundError
from meshhook.escaping import quoted
from meshhook.names import validate_queue_name
from meshhook.postgres.database import Database, DatabaseSource, takes_url
from meshhook.store import queries
from meshhook.store.dead_letter_rows import dead_letter_from
from meshhook.store.job_rows import (
    KEPT_STATES,
    LIVE_STATES,
    JobLife,
    group_id_of,
    life_from,
    newest_birth,
    with_kept_body,
)
from meshhook.tracking.known_queues import known_queues

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
    known = await known_queues(database)
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
