"""What an examination finds: how bad, of what, and the way out."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How bad it is."""

    CRITICAL = "critical"
    """Jobs wait, fail or may be lost, now or soon."""
    WARNING = "warning"
    """It costs something, or will become critical."""
    OK = "ok"
    """The check found nothing."""


DOCUMENTATION = "https://github.com/meshhook/meshhook-queue/blob/main/docs/how-to/doctor.md"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found, or that a check found nothing."""

    check: str
    """The name of the check, such as `vacuum`."""
    severity: Severity
    subject: str
    """What it is about, such as a queue, a table or a session; empty for the whole database."""
    message: str
    """What is wrong."""
    remedy: str
    """What to do, with the command where there is one; empty if nothing is wrong."""

    @property
    def documentation(self) -> str:
        """Where the documentation says what the check looks for."""
        return f"{DOCUMENTATION}#{self.check}"


def spelled(seconds: float) -> str:
    """Return a length of time in words, in its largest unit."""
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"
