"""What one tick observed: the queue in the database, and the workers in the cluster."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReport:
    """One row of `meshhook.workers`, for a worker that reported in the last 30 seconds."""

    worker: str
    """The worker's name; a restarted process has a new one."""
    concurrency: int
    running: int
    processed: int
    """Attempts whose outcome it has recorded since it started."""
    busy_seconds: float
    """The total running time of its jobs since it started."""
    oldest_running_seconds: float = 0.0
    """How long the oldest of its running jobs has run; 0 if none runs, or it does not say."""
    seen_at: float
    """When it reported, in seconds of the database's clock."""
    draining: bool = False
    host: str = ""
    """Where it runs: the name of its pod. Empty if that is not known."""
    cordoned: bool = False
    """Whether it claimed no jobs when it reported, because it is cordoned. So if it ran none, it
    runs none now."""
    cordon_seconds: float = 0.0
    """For how long it is asked to claim none, whether it knows that already or not; 0 if it is
    not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """The messages of one priority, in a queue that has priorities."""

    target_seconds: float
    """A job of it should start within this many seconds after it became ready."""
    ready: int = 0
    """Its ready messages, counted up to a cap of its own."""
    is_capped: bool = False
    """Whether there are more than were counted."""
    aged: int = 0
    """Those of them that have waited for so long that they get a part of the claims, whatever is
    more urgent."""
    running: int = 0
    """Its running messages, as far as they were counted."""
    due_soon: int = 0
    """Its messages that fall due within `lookahead_seconds`, with those of schedules."""
    oldest_ready_seconds: float = 0.0
    """How long the oldest of its ready messages has been ready; 0 if there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One queue at one moment, read in one statement.

    Times are seconds of the database's clock, from any fixed origin. Only differences between
    samples are used, so that clock need not agree with the operator's.
    """

    sampled_at: float
    """When the database took the snapshot."""
    ready: int
    """Messages that could start now and have no lost attempt, counted up to a cap. What a limit or
    a hold of its key keeps back could not."""
    ready_is_capped: bool = False
    """Whether there are more ready messages than were counted."""
    lost: int = 0
    """Messages whose lease expired without an outcome. They run one at a time, and never ask for
    more than one replica."""
    due_soon: int = 0
    """Scheduled and retrying messages that fall due within `lookahead_seconds`, and schedules that
    a worker has to fire by then, or should have fired already."""
    next_due_seconds: float | None = None
    """How long until the next scheduled or retrying message falls due, or the next schedule; None
    if there is none."""
    leased: int = 0
    """Running messages: their lease has not expired."""
    oldest_ready_seconds: float = 0.0
    """How long the oldest of the `ready` messages has been ready; 0 if there is none."""
    enqueued_total: int
    """How many messages were ever sent, from the queue's sequence."""
    unfinished: int | None = None
    """All messages of the queue in any state but those kept back; None if a count was capped. It
    gives the throughput if workers report nothing."""
    kept_back: int = 0
    """Messages that are due but may not start now, because of limits or holds, counted up to a
    cap."""
    behind_limits: int = 0
    """Those of them that limits keep back, not holds: each may start when another one ends."""
    kept_back_is_capped: bool = False
    """Whether more are kept back than were counted."""
    workers: tuple[WorkerReport, ...] = ()
    """The workers that are alive now."""
    bands: tuple[Band, ...] = ()
    """The bands of a queue with priorities, the most urgent first; empty without priorities. Their
    messages are among those above."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The queue could not be read in this tick."""

    reason: str
    """A word in CamelCase for a condition, such as `SourceUnavailable`."""
    message: str
    """A sentence for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """The worker Deployment of the queue, as the cluster reports it."""

    replicas: int
    """The number in the Deployment's spec."""
    ready_replicas: int
    """Pods that are Ready, which may include the surge pods of a rollout."""
    created_at: float
    """When the JobQueue was created, in seconds of the operator's clock: the first cooldown
    begins then."""
    rolling_out: bool = False
    """A rollout is under way: nothing is scaled down."""
    paused: bool = False
    """The user paused the scaling: nothing is written."""
    conflict: str | None = None
    """What else scales the Deployment, as a sentence; nothing is written meanwhile."""
    pod_prefix: str = ""
    """What the names of its pods begin with."""
    pods_failing: str | None = None
    """Why further pods would not start either, as a sentence: so many of those asked for cannot
    that no more are asked for. None if that is not so, or not known."""
