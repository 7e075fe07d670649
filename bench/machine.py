"""The machine, the versions, and how much others use of the machine meanwhile."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    import asyncpg

QUIET_PERCENT = 10.0
"""Up to this use of the CPUs by others, a machine counts as quiet."""
_SETTINGS = (
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_sync_method",
    "shared_buffers",
    "max_wal_size",
)


def describe_machine(directory: Path) -> dict[str, Any]:
    """Return the processor, the memory, and the file system that the database is on."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in _lines(Path("/proc/cpuinfo"))
            if line.startswith("model name")
        ),
        platform.processor() or platform.machine(),
    )
    mounts = [
        part
        for part in psutil.disk_partitions(all=True)
        if directory.resolve().is_relative_to(part.mountpoint)
    ]
    return {
        "cpu_model": model,
        "cores": psutil.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "file_system": max(mounts, key=lambda part: len(part.mountpoint)).fstype if mounts else "?",
        "system": f"{platform.system()} {platform.release()}",
    }


async def describe_versions(
    connection: asyncpg.Connection, installed: dict[str, str]
) -> dict[str, str]:
    """Return the versions of everything; `installed` are those that the subjects know."""
    return {
        "postgresql": (await connection.fetchval("show server_version")).split()[0],
        "python": platform.python_version(),
        "meshhook": importlib.metadata.version("meshhook-queue"),
        "asyncpg": importlib.metadata.version("asyncpg"),
        "uvloop": importlib.metadata.version("uvloop"),
        **installed,
    }


async def describe_settings(connection: asyncpg.Connection) -> dict[str, str]:
    """Return the PostgreSQL settings that matter here."""
    return {name: await connection.fetchval(f"show {name}") for name in _SETTINGS}


class OtherUse:
    """How much of the CPUs all but this benchmark and its server use, from one look to the next.

    What the hypervisor gives to other machines counts, too.
    """

    def __init__(self, postmaster_pid: int, *pids: int) -> None:
        """Take the process ids of the server and of what else is its own, and the first look."""
        self._postmaster = psutil.Process(postmaster_pid)
        self._others = [psutil.Process(pid) for pid in pids]
        self._last = self._look()

    def percent(self) -> float:
        """Return the percentage of all CPUs since the last look."""
        last, self._last = self._last, self._look()
        total, busy, own = (now - then for now, then in zip(self._last, last, strict=True))
        return max(0.0, (busy - own) / total * 100) if total else 0.0

    def _look(self) -> tuple[float, float, float]:
        times = psutil.cpu_times()
        # user and nice hold guest and guest_nice already.
        total = sum(times) - getattr(times, "guest", 0) - getattr(times, "guest_nice", 0)
        busy = total - times.idle - getattr(times, "iowait", 0)
        own = sum(map(_with_ended_children, (psutil.Process(), *self._others)))
        return total, busy, own + self._server_seconds()

    def _server_seconds(self) -> float:
        seconds = _with_ended_children(self._postmaster)
        for child in self._postmaster.children():
            try:
                spent = child.cpu_times()
            except psutil.NoSuchProcess:
                continue
            seconds += spent.user + spent.system
        return seconds


def _with_ended_children(process: psutil.Process) -> float:
    spent = process.cpu_times()
    return float(spent.user + spent.system + spent.children_user + spent.children_system)


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def is_quiet(other_cpu_percent: list[float]) -> bool:
    """Say whether others left the machine to the benchmark."""
    return max(other_cpu_percent) <= QUIET_PERCENT
