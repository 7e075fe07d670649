"""The results of a demo: counts from the queue's history, checked against the receiver's ledger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from meshhook.demo.scenario import DOWN, RECEIVERS, project_ids
from meshhook.names import dead_letter_queue_name

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from collections.abc import Set as AbstractSet
    from datetime import datetime

    from meshhook.postgres.database import Database

# The history outlives the queue, so each statement takes only what this run enqueued ($2).
COUNTS_SQL = """
select pg_catalog.count(*) filter (where outcome = 'succeeded') as succeeded,
       pg_catalog.count(*) filter (where outcome = 'retried') as retried,
       pg_catalog.count(*) filter (where outcome = 'dead_lettered') as dead_lettered
from meshhook.job_attempts
where queue = $1 and enqueued_at >= $2
"""
HISTORY_SQL = """
with jobs as (
    select msg_id, enqueued_at, pg_catalog.min(started_at) as first_started_at,
           pg_catalog.max(finished_at) as last_finished_at,
           pg_catalog.bool_or(outcome = 'lost') as was_lost
    from meshhook.job_attempts
    where queue = $1 and enqueued_at >= $2
    group by msg_id, enqueued_at
)
select pg_catalog.percentile_cont(0.5) within group (
           order by extract(epoch from first_started_at - enqueued_at)) as wait_p50_seconds,
       pg_catalog.percentile_cont(0.99) within group (
           order by extract(epoch from first_started_at - enqueued_at)) as wait_p99_seconds,
       extract(epoch from pg_catalog.percentile_disc(0.9) within group (order by last_finished_at)
           - pg_catalog.min(first_started_at)) as busy_seconds,
       pg_catalog.count(*) filter (where was_lost) as rescued
from jobs
"""
WAITS_SQL = """
select project_id = $3 as is_down, pg_catalog.percentile_cont(0.5) within group (
    order by extract(epoch from first_started_at - enqueued_at)) as p50_seconds
from (
    select project_id, enqueued_at, pg_catalog.min(started_at) as first_started_at
    from meshhook.job_attempts
    where queue = $1 and enqueued_at >= $2
    group by msg_id, project_id, enqueued_at
) as jobs
group by 1
"""
ERRORS_SQL = """
select coalesce(error_type, 'unknown') as error_type, pg_catalog.count(*) as jobs,
       pg_catalog.min(msg_id) as first_msg_id
from meshhook.job_attempts
where queue = $1 and enqueued_at >= $2 and outcome = 'dead_lettered'
group by 1
order by jobs desc, error_type
"""
DEAD_DELIVERIES_SQL = """
select message -> 'payload'::text ->> 'id'::text as delivery_id from pgmq."q_{}"
"""
BUSY_SHARE = 0.9
"""The throughput is that of this share of the jobs; the last ones wait for their retries."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Outcomes so far."""

    succeeded: int
    """Jobs that ended well."""
    retried: int
    """Attempts that failed and are followed by another one."""
    dead_lettered: int
    """Jobs that became dead letters."""

    @property
    def done(self) -> int:
        """Jobs that are over."""
        return self.succeeded + self.dead_lettered


class DemoResult(BaseModel):
    """The results of a demo."""

    model_config = ConfigDict(frozen=True)

    queue: str
    """The queue that the jobs went through."""
    enqueued: int
    """Jobs enqueued."""
    succeeded: int
    """Jobs that ended well."""
    retried: int
    """Attempts that failed and were followed by another one."""
    dead_lettered: int
    """Jobs that became dead letters."""
    dead_lettered_by_error: dict[str, int]
    """The same by error type, most frequent first."""
    lost: int
    """Deliveries that the receiver never accepted and that are no dead letters. Must be 0."""
    duplicates: int
    """Deliveries that the receiver accepted more than once: their worker died in between."""
    rescued: int
    """Jobs that a worker held when it was killed, and that another one took over."""
    workers_killed: int
    """Worker processes ended with SIGKILL."""
    refused_in_outage: int
    """Attempts that came while their receiver was down; a probe now and then among them."""
    kept_back: int
    """Jobs of that receiver that waited meanwhile, and spent no attempt."""
    outage_wait_p50_seconds: float
    """The median time from enqueue to the start of the first attempt, of jobs of that receiver."""
    others_wait_p50_seconds: float
    """The same of the jobs of the other receivers."""
    jobs_per_second: float
    """Throughput while the first 90% of the jobs were done; the rest wait for their retries."""
    wait_p50_seconds: float
    """The median time from enqueue to the start of the first attempt that has an outcome."""
    wait_p99_seconds: float
    """The 99th percentile of the same."""
    duration_seconds: float
    """From the first enqueue until the queue was empty."""
    example_dead_letter: int | None
    """The msg_id of a job that became a dead letter, for a look at its life."""


async def collect_result(
    database: Database,
    queue_name: str,
    since: datetime,
    *,
    enqueued: Collection[str],
    accepted: Mapping[str, int],
    workers_killed: int,
    refused_in_outage: int,
    kept_back: int,
    duration_seconds: float,
) -> DemoResult:
    """Read the history of a run that is over, and check it against the ledger.

    Args:
        database: where the queue is.
        queue_name: the queue, which nothing but this run has used.
        since: the database's time before the first enqueue.
        enqueued: the delivery ids that were enqueued.
        accepted: how often the receiver accepted each delivery id.
        workers_killed: how many workers were killed.
        refused_in_outage: how many attempts the receiver refused that was down.
        kept_back: how many of its jobs waited meanwhile.
        duration_seconds: how long the run took.
    """
    counts = await read_counts(database, queue_name, since)
    history = (await database.fetch(HISTORY_SQL, queue_name, since))[0]
    down_project = project_ids()[RECEIVERS.index(DOWN)]
    waits = {
        row["is_down"]: round(float(row["p50_seconds"] or 0), 3)
        for row in await database.fetch(WAITS_SQL, queue_name, since, down_project)
    }
    errors = await database.fetch(ERRORS_SQL, queue_name, since)
    # From the dead letters themselves: the history alone would not show that one is missing.
    dead = await database.fetch(DEAD_DELIVERIES_SQL.format(dead_letter_queue_name(queue_name)))
    busy_seconds = float(history["busy_seconds"] or 0)
    return DemoResult(
        queue=queue_name,
        enqueued=len(enqueued),
        succeeded=counts.succeeded,
        retried=counts.retried,
        dead_lettered=counts.dead_lettered,
        dead_lettered_by_error={row["error_type"]: row["jobs"] for row in errors},
        lost=len(lost_deliveries(enqueued, accepted, {row["delivery_id"] for row in dead})),
        duplicates=sum(times > 1 for times in accepted.values()),
        rescued=history["rescued"],
        workers_killed=workers_killed,
        refused_in_outage=refused_in_outage,
        kept_back=kept_back,
        outage_wait_p50_seconds=waits.get(True, 0.0),
        others_wait_p50_seconds=waits.get(False, 0.0),
        jobs_per_second=round(BUSY_SHARE * len(enqueued) / max(busy_seconds, 0.001), 1),
        wait_p50_seconds=round(float(history["wait_p50_seconds"] or 0), 3),
        wait_p99_seconds=round(float(history["wait_p99_seconds"] or 0), 3),
        duration_seconds=round(duration_seconds, 1),
        example_dead_letter=min((row["first_msg_id"] for row in errors), default=None),
    )


async def read_counts(database: Database, queue_name: str, since: datetime) -> Counts:
    """Count the outcomes of what was enqueued since a moment."""
    return Counts(**dict((await database.fetch(COUNTS_SQL, queue_name, since))[0]))


def lost_deliveries(
    enqueued: Collection[str], accepted: Mapping[str, int], dead: AbstractSet[str]
) -> set[str]:
    """Return the deliveries that were enqueued, never accepted, and are no dead letters."""
    return {each for each in enqueued if not accepted.get(each) and each not in dead}
