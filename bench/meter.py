"""What a measure costs: its time, this process's CPU time, and the WAL that the server wrote."""

from __future__ import annotations

import gc
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import asyncpg

if TYPE_CHECKING:
    from collections.abc import Sequence

Result = dict[str, Any]


class Meter:
    """Takes the time, this process's CPU time and the server's WAL between enter and stop."""

    def __init__(self, url: str) -> None:
        """Take the URL of the database; any database of the server will do."""
        self._url = url

    async def __aenter__(self) -> Self:
        """Begin."""
        self._connection = await asyncpg.connect(self._url)
        # No measure pays for the pages that its preparation left to be written.
        await self._connection.execute("checkpoint")
        gc.collect()
        self._wal = await self._wal_bytes()
        self._cpu, self._began = time.process_time(), time.perf_counter()
        return self

    def stop(self) -> None:
        """Take the time; what comes until the exit is not counted."""
        self.seconds = time.perf_counter() - self._began
        self.cpu_seconds = time.process_time() - self._cpu

    async def __aexit__(self, *_: object) -> None:
        """Read what the server wrote, and disconnect."""
        self.wal = await self._wal_bytes() - self._wal
        await self._connection.close()

    async def _wal_bytes(self) -> int:
        return int(
            await self._connection.fetchval("select pg_current_wal_insert_lsn() - '0/0'::pg_lsn")
        )

    def result(self, jobs: int) -> Result:
        """Return the figures for that many jobs."""
        return {
            "jobs": jobs,
            "seconds": self.seconds,
            "per_second": jobs / self.seconds,
            "client_cpu_us_per_job": self.cpu_seconds / jobs * 1e6,
            "wal_bytes_per_job": self.wal / jobs,
        }


def percentiles(latencies: Sequence[float]) -> Result:
    """Return the median, the 99th percentile and the maximum of seconds, in milliseconds."""
    ordered = sorted(latencies)

    def at(share: float) -> float:
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)] * 1e3

    return {"p50_ms": at(0.5), "p99_ms": at(0.99), "max_ms": at(1)}


def resident_mib() -> float:
    """Return how much memory this process holds now, in MiB."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("/proc/self/status has no VmRSS: this measure needs Linux")
