"""Health: what must hold for a process to be alive, and what for it to be ready to work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    from meshhook.observability.loops import WatchedLoop


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    fault: str | None = None
    """What is wrong, for people; None if all is well."""


class HealthSource(Protocol):
    """What can say how it is, from any thread, at once and without asking anybody."""

    def liveness(self) -> Iterable[Check]:
        """Return what must hold; where it does not, only a restart helps."""

    def readiness(self) -> Iterable[Check]:
        """Return what must hold for it to do its work; where it does not, that may pass."""


def check_loops(loops: Iterable[WatchedLoop], prefix: str = "") -> list[Check]:
    """Return a check for each loop: that it has not stalled."""
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
    """Return whether all is well, and a line of text for each check, faults first."""
    checks = sorted(checks, key=lambda check: check.fault is None)
    lines = [f"{check.name}: {'ok' if check.fault is None else check.fault}\n" for check in checks]
    return all(check.fault is None for check in checks), "".join(lines) or "ok\n"
