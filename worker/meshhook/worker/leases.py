"""The held jobs of one queue by key, with their leases. Two threads share them."""

from __future__ import annotations

import threading
from math import inf
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from meshhook.jobs import JobKey
    from meshhook.worker.held_job import HeldJob


class Lease(NamedTuple):
    """A lease at some moment. The job may have been claimed again since then."""

    held: HeldJob
    read_ct: int


class LeaseTable:
    """All held jobs of one queue by key.

    The worker's event loop changes the table; the lease keeper's thread reads it. Times only say
    when to ask the database, which alone decides whether a lease still holds.
    """

    def __init__(self) -> None:
        self.jobs: dict[JobKey, HeldJob] = {}
        """The job with the newest lease of each key. Changed only under the lock."""
        self.lock = threading.Lock()

    def __len__(self) -> int:
        """Return how many leases are held. Can be called from any thread."""
        with self.lock:
            return sum(held.extended_at < inf for held in self.jobs.values())

    def due(self, now: float, age_seconds: float) -> list[Lease]:
        """Return the leases last extended `age_seconds` ago or earlier. Any thread may ask.

        The lease of a handler that never ends is not extended for ever. The lease of a job that
        waits to start, or to be recorded, is.
        """
        with self.lock:
            return [
                Lease(held, held.read_ct)
                for held in self.jobs.values()
                if now - held.extended_at >= age_seconds and held.may_keep_lease(now)
            ]

    def extended(self, leases: Iterable[Lease], asked_at: float) -> None:
        """Note that leases were extended. Can be called from any thread."""
        with self.lock:
            for held, read_ct in leases:
                if held.read_ct == read_ct and held.extended_at < inf:
                    held.extended_at = asked_at

    def end(self, jobs: Iterable[HeldJob]) -> None:
        """Note that jobs no longer have a lease, but keep them."""
        with self.lock:
            for held in jobs:
                held.extended_at = inf

    def remove(self, jobs: Iterable[HeldJob]) -> None:
        """Remove jobs, unless a newer claim has replaced them."""
        table = self.jobs
        with self.lock:
            for held in jobs:
                if table.get(held.key) is held:
                    del table[held.key]
