"""Jobs one by one: when each arrives, how long it runs, how often it fails first.

Such a trace is played both by the simulator and by the benchmark on a real node.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Job:
    """One job.

    Attributes:
        at: the second in which it arrives, from the beginning of the trace.
        run_seconds: how long each of its attempts takes.
        failures: how many of its attempts fail before one succeeds; these run as long.
        ahead_seconds: it was sent so much earlier, as a scheduled job.
        retry_at: the second in which its failed attempts fall due; by default the trace says it.
        key: whose job it is.
    """

    at: float
    run_seconds: float
    failures: int = 0
    ahead_seconds: float = 0.0
    retry_at: float | None = None
    key: str = ""


@dataclass(frozen=True, slots=True)
class Lead:
    """How long a pod takes from its creation until it is Ready: anything between two times."""

    shortest_seconds: float
    longest_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class JobTrace:
    """The load of one run.

    Attributes:
        name: of the trace.
        about: what it is, for a table.
        jobs: in the order of their arrival.
        concurrency: how many jobs a replica runs at a time.
        target_age_seconds: how long a job may wait before it starts.
        seconds: how long it is played; jobs arrive until then at the latest.
        min_replicas: the JobQueue's.
        max_replicas: the JobQueue's.
        is_steady: it changes slowly, or not at all: here the cost counts.
        lead: of its pods.
        last_lead: of the pods that are asked for at the end; in between it changes evenly. Default:
            the lead stays.
        failing_share: of the pods, fail at their first start, of these the same share at the second
            one, and so on.
        quota: how many pods a ResourceQuota admits, those that stop included.
        retry_seconds: after a failure the next attempt is due so much later.
        grace_seconds: how long a pod that is stopped lets its jobs run; then they go back.
        max_running: how many jobs of a key may run at a time; of keys that are not named here, any
            number.
    """

    name: str
    about: str
    jobs: tuple[Job, ...]
    concurrency: int
    target_age_seconds: int
    seconds: int
    min_replicas: int
    max_replicas: int
    is_steady: bool
    lead: Lead = Lead(3, 6)
    last_lead: Lead | None = None
    failing_share: float = 0.0
    quota: int | None = None
    retry_seconds: float = 1.0
    grace_seconds: float = 25.0
    max_running: Mapping[str, int] = field(default_factory=dict)

    def until(self, seconds: int) -> JobTrace:
        """Return the beginning of the trace."""
        jobs = tuple(job for job in self.jobs if job.at < seconds)
        return replace(self, jobs=jobs, seconds=min(seconds, self.seconds))
