"""Changes of circuit breakers, as the statements that record attempts report them."""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BreakerChange:
    """The breaker of a key that a statement opened or closed."""

    key: str
    is_open: bool
    """Whether it opened; otherwise it closed."""
    failures: int = 0
    """How many failures in a row opened it."""
    openings: int = 0
    """How often it opened since it was last closed."""
    pause_seconds: float = 0.0
    """How long until its next probe, if it opened."""
    open_seconds: float = 0.0
    """How long it was open, half-open included, if it closed."""


def breaker_changes(text: str | None) -> list[BreakerChange]:
    """Return the changes that `meshhook.record_key_failures` or `..._successes` reported."""
    if text is None:
        return []
    return [BreakerChange(is_open="failures" in each, **each) for each in json.loads(text)]
