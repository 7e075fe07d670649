"""A request to cancel a job, as its handler sees it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Cancellation:
    """A request to cancel a job that runs."""

    reason: str | None
    """Why, in the words of whoever asked; None if nothing was said."""
    requested_by: str
    """Who asked: a name that was given, else the database role."""
    requested_at: datetime
    """When, by the database's clock."""
