"""Whether something has held for a while, so that what flickers is told once. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Steady:
    """A state that changes only after a number of seconds in which it was seen to differ."""

    holds: bool
    """Whether it holds, as told."""
    on_after_seconds: float
    """How long it must hold before that is told."""
    off_after_seconds: float
    """How long it must no longer hold before that is told."""
    differs_since: float | None = None
    """Since when it has been seen to be otherwise; None if it is not."""

    def observe(self, *, holds: bool, now: float) -> Steady:
        """Take an observation; one that is as told starts the wait again."""
        if holds == self.holds:
            return replace(self, differs_since=None)
        since = now if self.differs_since is None else self.differs_since
        wait_seconds = self.on_after_seconds if holds else self.off_after_seconds
        if now - since < wait_seconds:
            return replace(self, differs_since=since)
        return replace(self, holds=holds, differs_since=None)
