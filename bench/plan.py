"""What is measured, and on whom."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.key_plan import key_modes
from bench.mode import BASELINE, OWN, ModePlan, SubjectPlan

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bench.sizes import Size

SUBJECTS = (
    SubjectPlan(
        "pgmq",
        "raw PGMQ",
        "PGMQ's SQL functions through asyncpg, 100 a read; no payload is parsed, nothing is kept",
        tracking=False,
        metrics=False,
        peer=False,
    ),
    SubjectPlan(
        "meshhook",
        "MeshHook Queue",
        "defaults, one worker of concurrency 50, in a process set up like that of"
        " `meshhook worker`; every attempt is recorded",
        tracking=True,
        metrics=True,
        peer=False,
    ),
    SubjectPlan(
        "pgqueuer",
        "PgQueuer",
        "asyncpg, `pgq autovac`, two managers of batch 250 (pickup: one of 10); logs every job; the"
        " handler gets bytes, and leaves them undecoded",
        tracking=True,
        metrics=False,
    ),
    SubjectPlan(
        "awa",
        "Awa",
        "queue storage, 1,024 jobs at once, pool of 20, poll every 50 ms; completed jobs are"
        " dropped after seconds and counted",
        tracking=False,
        metrics=False,
        share=0.4,
    ),
    SubjectPlan(
        "oban",
        "Oban for Python",
        "pool of 10, limit 1,000 (pickup: 20); finished jobs stay for a day",
        tracking=True,
        metrics=False,
        share=0.1,
    ),
    SubjectPlan(
        "procrastinate",
        "Procrastinate",
        "psycopg, concurrency 10, pool of 20; finished jobs and their events stay",
        tracking=True,
        metrics=False,
        share=0.03,
    ),
)

FIGURES = {
    "per_second": "jobs a second",
    "client_cpu_us_per_job": "client CPU, µs a job",
    "wal_bytes_per_job": "WAL, bytes a job",
    "p50_ms": "p50, ms",
    "p99_ms": "p99, ms",
    "lowest_share": "lowest window, part of the rate before",
    "alone_p99_ms": "p99 alone, ms",
    "p99_to_alone": "p99 divided by that alone",
    "jain": "Jain's index",
    "used_share": "part of the limit that is used",
    "most_running": "most jobs that ran at once",
    "memory_start_mib": "memory at start, MiB",
    "memory_peak_mib": "memory at peak, MiB",
}
"""What a figure of a result is called. Only of `per_second` and shares is more better."""

OFFERED_PER_SECOND = 800
OFFERED_TIMEOUT_FACTOR = 3.0
WORK_SECONDS = 0.001
BATCH_JOBS = 100
SCRAPE_SECONDS = 1.0
HELD_BASELINE_SHARE = 0.25
UNIQUE_CALLERS = (1, 64)

FIRST = (
    "drain_small",
    "enqueue_64",
    "pick_up",
    "end_to_end_small",
    "enqueue_many_small",
    "drain_webhooks",
    "enqueue_1",
    "delayed_0",
    "delayed_100000",
)
"""The modes that are measured before the others: time may be up before all are done."""

DEGRADATION = "Degradation"
HELD = "A transaction id held by another session"
CONNECTIONS = "Worker connections"
METRICS_COST = "Cost of metrics"
_PGMQ_BASED = (BASELINE, OWN)
_THROUGHPUT = ("per_second", "client_cpu_us_per_job", "wal_bytes_per_job")
_LATENCY = ("p50_ms", "p99_ms")
_MEMORY = ("memory_start_mib", "memory_peak_mib")
_KINDS = {"small": "256-byte payload", "webhooks": "real webhooks, median 8 KB"}


def modes(size: Size) -> list[ModePlan]:
    """Return what there is to measure, in the order of a report."""
    return [*_throughput(size), *key_modes(size), *_latency(size), *_degradation(size)]


def by_importance(plans: Iterable[ModePlan]) -> list[ModePlan]:
    """Return modes in the order in which they are measured."""
    ranks = {mode: rank for rank, mode in enumerate(FIRST)}
    return sorted(plans, key=lambda plan: ranks.get(plan.mode, len(FIRST)))


def _throughput(size: Size) -> list[ModePlan]:
    counts = {"small": size.small_jobs, "webhooks": size.webhook_jobs}
    drains = [
        ModePlan(
            f"drain_{kind}",
            "Drain",
            f"{title}, no-op handler",
            "drain",
            _THROUGHPUT,
            {"payload": kind, "jobs": counts[kind]},
        )
        for kind, title in _KINDS.items()
    ]
    waiting = ModePlan(
        "drain_small_1ms",
        "Drain",
        "256-byte payload, handler waits 1 ms",
        "drain",
        _THROUGHPUT,
        {"payload": "small", "jobs": size.small_jobs // 2, "work_seconds": WORK_SECONDS},
    )
    batched = ModePlan(
        "drain_batched",
        "Drain",
        f"256-byte payload, no-op handler of batches of {BATCH_JOBS}",
        "drain",
        _THROUGHPUT,
        {"payload": "small", "jobs": size.small_jobs, "batch": BATCH_JOBS},
        subjects=(OWN,),
        against="drain_small",
    )
    grouped = ModePlan(
        "drain_grouped",
        "Drain",
        "256-byte payload, no-op handler, jobs in groups of 1,000",
        "drain",
        _THROUGHPUT,
        {"payload": "small", "jobs": size.small_jobs, "grouped": True},
        subjects=(OWN,),
        against="drain_small",
    )
    bulk = [
        ModePlan(
            f"enqueue_many_{kind}",
            "Bulk enqueue",
            title,
            "enqueue_many",
            _THROUGHPUT,
            {"payload": kind, "jobs": counts[kind]},
        )
        for kind, title in _KINDS.items()
    ]
    single = [
        ModePlan(
            f"enqueue_{callers}",
            "Single enqueue",
            f"{callers} callers" if callers > 1 else "1 caller",
            "enqueue",
            ("per_second", *_LATENCY),
            {"callers": callers, "seconds": size.enqueue_seconds},
        )
        for callers in size.callers
    ]
    unique = [
        ModePlan(
            "enqueue_many_unique",
            "Enqueue with unique keys",
            "1,000 a call, 256-byte payload",
            "enqueue_many",
            _THROUGHPUT,
            {"payload": "small", "jobs": size.small_jobs, "unique": True},
            subjects=(OWN,),
            against="enqueue_many_small",
        ),
        *(
            ModePlan(
                plan.mode.replace("enqueue", "enqueue_unique"),
                "Enqueue with unique keys",
                plan.title,
                "enqueue",
                plan.figures,
                plan.parameters | {"unique": True},
                subjects=(OWN,),
                against=plan.mode,
            )
            for plan in single
            if plan.parameters["callers"] in UNIQUE_CALLERS
        ),
    ]
    return [*drains, waiting, batched, grouped, *bulk, *single, *unique]


def _latency(size: Size) -> list[ModePlan]:
    pickup = ModePlan(
        "pick_up", "Idle pickup", "one job at a time", "pick_up", _LATENCY, {"jobs": size.pickups}
    )
    offered = [
        ModePlan(
            f"end_to_end_{kind}",
            f"End to end at {OFFERED_PER_SECOND} jobs a second",
            _KINDS[kind],
            "end_to_end",
            (*_LATENCY, "per_second"),
            {
                "payload": kind,
                "per_second": OFFERED_PER_SECOND,
                "seconds": size.offered_seconds,
                "timeout_seconds": size.offered_seconds * OFFERED_TIMEOUT_FACTOR + 2,
            },
        )
        for kind in size.offered
    ]
    return [pickup, *offered]


def _degradation(size: Size) -> list[ModePlan]:
    def behind(mode: str, title: str, **parameters: int) -> ModePlan:
        return ModePlan(
            mode,
            DEGRADATION,
            title,
            "drain_behind",
            ("per_second", *_MEMORY),
            {"jobs": size.degradation_jobs, "seconds": size.degradation_seconds} | parameters,
            subjects=_PGMQ_BASED,
            against="delayed_0",
            rounds=size.degradation_rounds,
        )

    scraped = ModePlan(
        "metrics_cost",
        METRICS_COST,
        f"drain, metrics read over HTTP every {SCRAPE_SECONDS:g} s",
        "drain_scraped",
        ("per_second",),
        {
            "jobs": size.degradation_jobs,
            "seconds": size.degradation_seconds,
            "scrape_seconds": SCRAPE_SECONDS,
        },
        subjects=(OWN,),
        against="delayed_0",
        rounds=size.degradation_rounds,
    )
    return [
        *(
            behind(
                f"delayed_{count}",
                f"{count:,} delayed messages in front" if count else "nothing in the way",
                delayed=count,
            )
            for count in size.delayed
        ),
        behind(
            f"backlog_{size.backlog}", f"backlog of {size.backlog:,} jobs", backlog=size.backlog
        ),
        behind(
            f"finished_{size.finished}", f"{size.finished:,} finished jobs", finished=size.finished
        ),
        scraped,
        *_held(size),
        *_connections(size),
    ]


def _held(size: Size) -> list[ModePlan]:
    loads = {f"{OFFERED_PER_SECOND}": OFFERED_PER_SECOND, "full_speed": None}
    return [
        ModePlan(
            f"held_{name}",
            HELD,
            f"{size.held_seconds:g} s, "
            + (f"{per_second} jobs a second offered" if per_second else "at full speed"),
            "held_transaction",
            ("per_second", "lowest_share"),
            {
                "per_second": per_second,
                "baseline_seconds": size.held_seconds * HELD_BASELINE_SHARE,
                "held_seconds": size.held_seconds,
                "window_seconds": size.held_window_seconds,
            },
            subjects=_PGMQ_BASED,
            own_ratio="lowest_share",
            rounds=size.held_rounds,
        )
        for name, per_second in loads.items()
    ]


def _connections(size: Size) -> list[ModePlan]:
    return [
        ModePlan(
            f"connections_{count}",
            CONNECTIONS,
            f"{count} that claim" if count > 1 else "1 that claims",
            "connections",
            ("per_second",),
            {
                # A rate, not how long so many consumers take to start.
                "jobs": 2 * size.degradation_jobs,
                "consumers": count,
                "seconds": size.degradation_seconds,
            },
            subjects=_PGMQ_BASED,
            against=f"connections_{size.consumers[0]}",
            rounds=size.degradation_rounds,
        )
        for count in size.consumers
    ]
