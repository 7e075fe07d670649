"""What is measured of queues with keys, and what it is to reach."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.mode import OWN, ModePlan

if TYPE_CHECKING:
    from bench.sizes import Size

DRAIN = "Keys: drain"
CLAIMERS = "Keys: claimers"
FLOOD = "Keys: one tenant floods"
LIMIT = "Keys: a limit that binds"
HELD = "Keys: a transaction id held by another session"
KEY_GROUPS = (DRAIN, CLAIMERS, FLOOD, LIMIT, HELD)
COMPARED_KEY_GROUPS = (DRAIN, CLAIMERS)
"""Those whose figures are compared with the same without keys."""
KEY_COUNTS = (1, 1_000, 10_000)
SEVERAL = 1_000
UNBOUND_LIMIT = 1_000_000
CLAIMER_COUNTS = (4, 16)
CLAIM_BATCH = 100
QUIET_PER_SECOND = 5.0
FLOOD_WORK_SECONDS = 0.02
TENANTS = 10
MAX_RUNNING = 40
WORKERS = 4
SLOTS = 10
LIMITED_KEYS = 20
PERIODS = 6
"""How long a limit is watched, in times of a job."""


def key_modes(size: Size) -> list[ModePlan]:
    """Return what there is to measure, in the order of a report."""
    return [*_drains(size), *_claimers(size), *_tenants(size), _limit(size), _held(size)]


def _drains(size: Size) -> list[ModePlan]:
    def drain(
        mode: str, title: str, keys: int, limit: int | None = None, *, is_ordered: bool = False
    ) -> ModePlan:
        return ModePlan(
            mode,
            DRAIN,
            title,
            "drain_keyed",
            ("per_second", "client_cpu_us_per_job", "wal_bytes_per_job"),
            {
                "jobs": size.small_jobs,
                "keys": keys,
                "max_running_per_key": limit,
                "is_ordered": is_ordered,
            },
            subjects=(OWN,),
            against="keys_0" if limit is None and not is_ordered else f"keys_{keys}",
        )

    return [
        drain("keys_0", "not keyed", 0),
        *(drain(f"keys_{n}", f"{n:,} keys" if n > 1 else "1 key", n) for n in KEY_COUNTS),
        drain(
            f"keys_{SEVERAL}_limited",
            f"{SEVERAL:,} keys, and a limit that does not bind",
            SEVERAL,
            UNBOUND_LIMIT,
        ),
        drain(f"keys_{SEVERAL}_ordered", f"{SEVERAL:,} ordered keys", SEVERAL, is_ordered=True),
    ]


def _claimers(size: Size) -> list[ModePlan]:
    return [
        ModePlan(
            f"keys_claimers_{count}" + ("" if keys else "_0"),
            CLAIMERS,
            f"{count} connections that claim and delete {CLAIM_BATCH} messages at a time, "
            + (f"{keys:,} keys" if keys else "not keyed"),
            "claim_keyed",
            ("per_second",),
            {"jobs": size.small_jobs, "keys": keys, "claimers": count, "batch": CLAIM_BATCH},
            subjects=(OWN,),
            against=f"keys_claimers_{count}_0",
        )
        for count in CLAIMER_COUNTS
        for keys in (0, SEVERAL)
    ]


def _tenants(size: Size) -> list[ModePlan]:
    flooding = f"one with {size.flood_jobs:,} jobs of {FLOOD_WORK_SECONDS * 1e3:g} ms"
    return [
        ModePlan(
            "keys_flood",
            FLOOD,
            f"wait of another with {QUIET_PER_SECOND:g} jobs a second beside {flooding}",
            "flood",
            ("p50_ms", "p99_ms", "alone_p99_ms", "p99_to_alone"),
            {
                "flood_jobs": size.flood_jobs,
                "quiet_per_second": QUIET_PER_SECOND,
                "seconds": size.keys_seconds,
                "work_seconds": FLOOD_WORK_SECONDS,
            },
            subjects=(OWN,),
        ),
        ModePlan(
            "keys_shares",
            FLOOD,
            f"slots of {TENANTS} tenants that all have jobs waiting, {flooding}",
            "shares",
            ("jain",),
            {
                "tenants": TENANTS,
                "flood_jobs": size.flood_jobs,
                "jobs": size.flood_jobs // 10,
                "seconds": size.keys_seconds / 2,
                "work_seconds": FLOOD_WORK_SECONDS,
            },
            subjects=(OWN,),
        ),
    ]


def _limit(size: Size) -> ModePlan:
    return ModePlan(
        "keys_limit",
        LIMIT,
        f"{MAX_RUNNING} may run, jobs of {size.limited_job_seconds:g} s,"
        f" {WORKERS} workers of {SLOTS} slots",
        "binding_limit",
        ("used_share", "most_running"),
        {
            "max_running": MAX_RUNNING,
            "workers": WORKERS,
            "slots": SLOTS,
            "keys": LIMITED_KEYS,
            "work_seconds": size.limited_job_seconds,
            "periods": PERIODS,
        },
        subjects=(OWN,),
        rounds=2,
    )


def _held(size: Size) -> ModePlan:
    return ModePlan(
        "keys_held",
        HELD,
        f"{4 * size.keys_seconds:g} s at full speed, {SEVERAL:,} keys",
        "held_keyed",
        ("per_second", "lowest_share"),
        {
            "keys": SEVERAL,
            "baseline_seconds": size.keys_seconds,
            "held_seconds": 4 * size.keys_seconds,
            "window_seconds": size.keys_seconds / 3,
        },
        subjects=(OWN,),
        own_ratio="lowest_share",
        rounds=2,
    )
