"""Health checks: whether a process is alive, and whether it is ready to work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    from meshhook.observability.loops import WatchedLoop


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check."""

    name: str
    fault: str | None = None
    """A description of the fault; None if there is none."""


class HealthSource(Protocol):
    """Something that reports its health, from any thread, immediately and without I/O."""

    def liveness(self) -> Iterable[Check]:
        """Return the liveness checks; after a fault only a restart helps."""

    def readiness(self) -> Iterable[Check]:
        """Return the readiness checks; a fault may be temporary."""


def check_loops(loops: Iterable[WatchedLoop], prefix: str = "") -> list[Check]:
    """Return a check for each loop that it has not stalled."""
    return [
        Check(
            f"{prefix}{loop.name}",
            f"has not turned for {loop.age_seconds:.0f} s, at most {loop.stall_seconds:g} s is "
            "normal"
            if loop.has_stalled
            else None,
        )
        for loop in loops
    ]


def report(checks: Iterable[Check]) -> tuple[bool, str]:
    """Return whether all checks passed, and a line of text for each, faults first."""
    checks = sorted(checks, key=lambda check: check.fault is None)
    lines = [f"{check.name}: {'ok' if check.fault is None else check.fault}\n" for check in checks]
    return all(check.fault is None for check in checks), "".join(lines) or "ok\n"
