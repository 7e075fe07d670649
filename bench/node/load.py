"""What the machine does while traces are played, and how much of it is not the benchmark's."""

from __future__ import annotations

import contextlib
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.node.observations import Load

PRESSURE = Path("/proc/pressure/cpu")


@dataclass(frozen=True, slots=True)
class _Look:
    at: float
    total_seconds: float
    busy_seconds: float
    own_seconds: float
    waiting_seconds: float | None


class LoadMeter:
    """The load from its making on.

    Args:
        roots: the first process of the node, and the programs of the benchmark: with all that they
            started they are what the benchmark uses.
    """

    def __init__(self, roots: list[psutil.Process]) -> None:
        self._roots = roots
        self._first = self._look()
        self._load_average = 0.0

    def note(self) -> None:
        """Look at what is a matter of the moment; called every second."""
        self._load_average = max(self._load_average, os.getloadavg()[0])

    def load(self) -> Load:
        """Return the load since the making."""
        first, last = self._first, self._look()
        total = last.total_seconds - first.total_seconds or 1.0
        busy = last.busy_seconds - first.busy_seconds
        others = max(0.0, busy - (last.own_seconds - first.own_seconds))
        waiting = None
        if last.waiting_seconds is not None and first.waiting_seconds is not None:
            waiting = (last.waiting_seconds - first.waiting_seconds) / (last.at - first.at) * 100
        return Load(
            cpu_percent=busy / total * 100,
            others_percent=others / total * 100,
            waiting_percent=waiting,
            load_average=self._load_average,
        )

    def _look(self) -> _Look:
        times = psutil.cpu_times()
        total = sum(times) - times.guest - times.guest_nice
        own = 0.0
        for root in self._roots:
            for process in [root, *root.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    spent = process.cpu_times()
                    own += spent.user + spent.system + spent.children_user + spent.children_system
        return _Look(time.monotonic(), total, total - times.idle - times.iowait, own, _waiting())


def _waiting() -> float | None:
    """Return for how long some process has waited for a processor since the start."""
    if not PRESSURE.exists():
        return None
    found = re.search(r"^some .*total=(\d+)", PRESSURE.read_text(), re.MULTILINE)
    return int(found[1]) / 1e6 if found else None
