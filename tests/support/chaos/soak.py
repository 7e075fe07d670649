"""Endurance: a steady load for a long time, and whether anything grows: `make soak`.

Jobs are retried, become dead letters and settle themselves, while days of history expire and their
partitions are dropped. What was enqueued and what became of it is counted at the end.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import psutil

from meshhook.worker.connections import WorkerConnection
from meshhook.worker.housekeeping import Housekeeper
from support.chaos.books import metrics_differ
from support.chaos.fleet import Fleet
from support.chaos.scraped import claims_in
from support.chaos.servers import QUEUE, run

WORKERS = 2
PRODUCERS = 2
SAMPLES = 120
EXPIRED_DAYS = 6
"""How many days of history expire while it lasts."""
NOTED = "refused uncertain rolled_back"
"""All that the ledger keeps: an hour has millions of jobs."""

_SIZES = f"""
select pg_relation_size('pgmq.q_{QUEUE}') as queue_table_bytes,
    pg_indexes_size('pgmq.q_{QUEUE}') as queue_index_bytes,
    meshhook.history_bytes() as history_bytes,
    (select count(*) from pgmq.q_{QUEUE}) as waiting
"""
_COUNTS = """
with final as (
    select run_id from meshhook.job_attempts
    where queue = $1 and outcome in ('succeeded', 'dead_lettered', 'cancelled', 'archived',
        'expired')
), attempts as (
    select run_id, max(attempt) - count(*) as missing from meshhook.job_attempts
    where queue = $1 group by run_id
)
select (select count(*) from final) as ended,
    (select count(distinct run_id) from final) as jobs,
    (select count(*) from attempts where missing <> 0) as gaps,
    (select count(*) from effects) - (select count(distinct run_id) from effects) as effects_twice,
    (select count(*) from meshhook.job_attempts where queue = $1 and outcome = 'lost')
        as lost_attempts,
    (select count(*) from meshhook.job_attempts where queue = $1) as attempts
"""
_BY_WORKER = """
select worker, outcome, count(*) from meshhook.job_attempts where queue = $1 group by 1, 2
"""
_OLD_DAY = """
create table meshhook.job_attempts_{day} (like meshhook.job_attempts including all);
alter table meshhook.job_attempts attach partition meshhook.job_attempts_{day}
    for values from ('{date}') to ('{date}'::date + 1);
insert into meshhook.job_attempts
    (queue, msg_id, attempt, outcome, run_id, enqueued_at, finished_at)
select 'old', n, 1, 'succeeded', 'old', '{date}', '{date}'::timestamptz + n * interval '1 ms'
from generate_series(1, 50000) as n
"""
_PARTITIONS = """
select count(*) from pg_inherits where inhparent = 'meshhook.job_attempts'::regclass
"""


@dataclass(frozen=True)
class Sample:
    """How large and how quick everything is at one moment."""

    at_seconds: float
    worker_bytes: int
    """The resident memory of the largest worker."""
    queue_table_bytes: int
    queue_index_bytes: int
    history_bytes: int
    waiting: int
    """How many messages there are."""
    claim_ms: float
    """How long a claim took on average since the sample before."""


@dataclass
class Soak:
    """What a run has shown."""

    minutes: float
    per_second: float
    sent: int
    """How many jobs were to be enqueued."""
    not_stored: dict[str, int] = field(default_factory=dict)
    """How many of these were not, by what their producer says."""
    samples: list[Sample] = field(default_factory=list)
    dropped_days: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    metrics_differ: int = 0
    unsettled: int = 0
    bad_ends: int = 0

    def wrong(self) -> dict[str, object]:
        """Return what is not as it should be; nothing if all is well."""
        counts = self.counts
        found: dict[str, object] = {
            "lost": self.sent - sum(self.not_stored.values()) - counts["jobs"],
            "uncertain": self.not_stored["uncertain"],
            "refused": self.not_stored["refused"],
            "ended_twice": counts["ended"] - counts["jobs"],
            "gaps": counts["gaps"],
            "effects_twice": counts["effects_twice"],
            "days_not_dropped": EXPIRED_DAYS - self.dropped_days,
            "metrics_differ": self.metrics_differ,
            "unsettled": self.unsettled,
            "bad_ends": self.bad_ends,
            "grows": growing(self.samples),
        }
        return {name: value for name, value in found.items() if value}

    def as_json(self) -> dict[str, Any]:
        """Return it all as JSON can hold it."""
        return asdict(self) | {"wrong": self.wrong()}


ALLOWED: dict[str, tuple[float, float]] = {
    "worker_bytes": (1.2, 24 << 20),
    "queue_table_bytes": (1.5, 8 << 20),
    "queue_index_bytes": (1.5, 8 << 20),
    "claim_ms": (2.0, 10.0),
}
"""By what factor, and how much beside, something may be larger in the last quarter of a run than in
the second: enough for a busy machine, and little for an hour."""


def growing(samples: Sequence[Sample]) -> list[str]:
    """Return the names of what grows."""
    quarter = len(samples) // 4
    found = []
    for name, (factor, more) in ALLOWED.items():
        early, late = (
            statistics.median(getattr(sample, name) for sample in part)
            for part in (samples[quarter : 2 * quarter], samples[-quarter:])
        )
        if late > early * factor + more:
            found.append(f"{name}: {early:.4g} to {late:.4g}")
    return found


class Soaker:
    """Runs it, on a fleet that is not started."""

    def __init__(
        self,
        fleet: Fleet,
        *,
        minutes: float,
        per_second: float,
        on_sample: Callable[[Sample], None] = lambda _: None,
    ) -> None:
        self._fleet = fleet
        self._on_sample = on_sample
        self._seconds = minutes * 60
        self._share = int(self._seconds * per_second / PRODUCERS)
        self._soak = Soak(minutes, per_second, PRODUCERS * self._share)
        self._claims = (0.0, 0.0)
        fleet.environment["LEDGER_ONLY"] = NOTED

    def run(self) -> Soak:
        """Do it, and return what it has shown."""
        fleet, soak = self._fleet, self._soak
        fleet.start_workers(WORKERS)
        for seed in range(PRODUCERS):
            rate = soak.per_second / PRODUCERS
            fleet.produce(self._share, per_second=rate, mix="endurance", seed=seed)
        began_at = time.monotonic()
        for number in range(SAMPLES):
            next_at = began_at + (number + 1) * self._seconds / SAMPLES
            time.sleep(max(0.0, next_at - time.monotonic()))
            soak.samples.append(self._sample(time.monotonic() - began_at))
            self._on_sample(soak.samples[-1])
            if number % (SAMPLES // EXPIRED_DAYS) == SAMPLES // EXPIRED_DAYS // 2:
                soak.dropped_days += self._expire_a_day()
        fleet.wait_for_producers(0.3 * self._seconds + 120)
        fleet.wait_until_empty(60)
        soak.counts = dict(fleet.server.fetch(_COUNTS, QUEUE)[0])
        soak.not_stored = {event: len(fleet.noted(event)) for event in NOTED.split()}
        fleet.stop_all()
        recorded = {(row[0], row[1]): row[2] for row in fleet.server.fetch(_BY_WORKER, QUEUE)}
        soak.metrics_differ = metrics_differ(fleet.observed.worker_outcomes, recorded)
        soak.unsettled = fleet.observed.unsettled
        soak.bad_ends = fleet.observed.bad_ends
        return soak

    def _sample(self, at_seconds: float) -> Sample:
        fleet = self._fleet
        sizes = fleet.server.fetch(_SIZES)[0]
        texts = [answer.text for worker in fleet.workers if (answer := worker.ask("/metrics"))]
        seconds, count = (sum(column) for column in zip(*map(claims_in, texts), strict=True))
        before_seconds, before_count = self._claims
        self._claims = seconds, count
        claims = max(count - before_count, 1)
        return Sample(
            at_seconds=round(at_seconds, 1),
            worker_bytes=max(psutil.Process(w.pid).memory_info().rss for w in fleet.workers),
            claim_ms=round((seconds - before_seconds) / claims * 1_000, 3),
            **dict(sizes),
        )

    def _expire_a_day(self) -> int:
        """Give the history a day that nobody keeps, and keep house as workers do once an hour."""
        server, age = self._fleet.server, 10 + self._soak.dropped_days
        day = server.fetchval("select (now() at time zone 'UTC')::date - $1::int", age)
        for statement in _OLD_DAY.format(day=f"{day:%Y%m%d}", date=day).split(";"):
            server.fetch(statement)
        before = server.fetchval(_PARTITIONS)
        run(self._keep_house())
        return int(before - server.fetchval(_PARTITIONS))

    async def _keep_house(self) -> None:
        url = self._fleet.server.url()
        connection = WorkerConnection(url, application_name="chaos housekeeper")
        try:
            await Housekeeper(connection=connection, configs={}).keep_house()
        finally:
            await connection.close()
