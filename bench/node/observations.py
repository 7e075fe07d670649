"""What is noted while a trace is played. All times are seconds from the beginning of the trace."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class PodLife:
    """A worker's pod, as a watch saw it; None is what has not happened."""

    name: str
    created: float
    ready: float | None = None
    stopped: float | None = None
    """When its deletion was requested: from then on it takes no job."""
    gone: float | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """A row of `meshhook.job_attempts`."""

    job: int
    """The job's place in the trace."""
    attempt: int
    outcome: str
    pod: str | None
    """None if no worker has recorded it, as when it was lost."""
    enqueued: float
    started: float | None
    finished: float
    retry_at: float | None


@dataclass(frozen=True, slots=True)
class Interruption:
    """A run that was broken off when its pod stopped; the job went back to the queue."""

    job: int
    pod: str
    started: float
    ended: float


@dataclass(frozen=True, slots=True)
class Moment:
    """The queue and its workers at one second."""

    second: int
    waiting: int
    """Jobs that are due, and have not been taken."""
    running: int
    replicas: int
    ready_pods: int


@dataclass(frozen=True, slots=True)
class Decision:
    """What the operator said of itself in the status of the JobQueue."""

    second: float
    desired_replicas: int | None
    message: str


@dataclass(frozen=True, slots=True)
class Load:
    """What the machine did meanwhile.

    Attributes:
        cpu_percent: of all processors, on average.
        others_percent: the part of it that neither the node nor this program used.
        waiting_percent: the share of time in which some process waited for a processor; None where
            the kernel does not tell.
        load_average: the highest of one minute.
    """

    cpu_percent: float
    others_percent: float
    waiting_percent: float | None
    load_average: float


@dataclass(slots=True, kw_only=True)
class Observations:
    """Everything about one trace.

    Attributes:
        seconds: until every job had ended, or the wait for them was given up.
        sent: how many jobs were stored.
        left: how many were still in the queue at the end.
        dead_letters: how many had become dead letters.
        replicas: each change of the Deployment's replicas: second and number.
    """

    seconds: float
    sent: int
    left: int
    dead_letters: int
    load: Load
    attempts: list[Attempt] = field(default_factory=list)
    interruptions: list[Interruption] = field(default_factory=list)
    pods: list[PodLife] = field(default_factory=list)
    replicas: list[tuple[float, int]] = field(default_factory=list)
    history: list[Moment] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
