"""The held jobs of one queue by their key, with their leases: shared by two threads."""

from __future__ import annotations

import threading
from math import inf
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from meshhook.jobs import JobKey
    from meshhook.worker.held_job import HeldJob


class Lease(NamedTuple):
    """A lease as it was at some moment: the job may have been claimed again since."""

    held: HeldJob
    read_ct: int


class LeaseTable:
    """Every held job of one queue, by its key.

    The event loop of the worker changes it, and the thread of the lease keeper reads it. Times only
    say when to ask the database, which alone decides whether a lease still holds.
    """

    def __init__(self) -> None:
        self.jobs: dict[JobKey, HeldJob] = {}
        """The job with the newest lease of each key; changed under the lock."""
        self.lock = threading.Lock()

    def __len__(self) -> int:
        """Return how many leases are held. Any thread may ask."""
        with self.lock:
            return sum(held.extended_at < inf for held in self.jobs.values())

    def due(self, now: float, age_seconds: float) -> list[Lease]:
        """Return the leases last extended `age_seconds` ago or earlier. Any thread may ask.

        A lease is not extended for ever for a handler that never ends. That of a job which waits
        for its start, or has ended and waits to be recorded, is.
        """
        with self.lock:
            return [
                Lease(held, held.read_ct)
                for held in self.jobs.values()
                if now - held.extended_at >= age_seconds and held.may_keep_lease(now)
            ]

    def extended(self, leases: Iterable[Lease], asked_at: float) -> None:
        """Note leases that were extended as was asked at a moment. Any thread may call it."""
        with self.lock:
            for held, read_ct in leases:
                if held.read_ct == read_ct and held.extended_at < inf:
                    held.extended_at = asked_at

    def end(self, jobs: Iterable[HeldJob]) -> None:
        """Note that jobs have no lease any more, though they stay here."""
        with self.lock:
            for held in jobs:
                held.extended_at = inf

    def remove(self, jobs: Iterable[HeldJob]) -> None:
        """Remove jobs; one that was claimed again since, as another held job, stays."""
        table = self.jobs
        with self.lock:
            for held in jobs:
                if table.get(held.key) is held:
                    del table[held.key]
