"""What one tick saw: of the queue in the database, and of the workers in the cluster."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReport:
    """One row of `meshhook.workers`, of a worker that was seen in the last 30 seconds."""

    worker: str
    """The worker's name; a restarted process has a new one."""
    concurrency: int
    running: int
    processed: int
    """Attempts whose outcome it has recorded since it started."""
    busy_seconds: float
    """The time that its jobs ran since it started, added up over them all."""
    seen_at: float
    """When it reported, in seconds of the database's clock."""
    draining: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One queue at one moment, read in one statement.

    Moments are seconds of the database's clock, since any fixed moment. Only the differences
    between samples are used, so that clock need not agree with the operator's.
    """

    sampled_at: float
    """When the database took the snapshot."""
    ready: int
    """Messages that could start now and have no lost attempt; counted up to a cap."""
    ready_is_capped: bool = False
    """There are more ready messages than were counted."""
    lost: int = 0
    """Messages whose lease ran out with no outcome: they run one at a time, and never call for
    more than one replica."""
    due_soon: int = 0
    """Scheduled and retrying messages that fall due within `lookahead_seconds`."""
    next_due_seconds: float | None = None
    """How long until the next scheduled or retrying message falls due; None if there is none."""
    leased: int = 0
    """Messages that run: their lease has not ended."""
    oldest_ready_seconds: float = 0.0
    """How long the oldest of the `ready` messages has been ready; 0 if there is none."""
    enqueued_total: int
    """How many messages were ever sent: the queue's sequence."""
    unfinished: int | None = None
    """All messages of the queue in whatever state; None if a count was capped. With it the
    throughput is known even where workers report nothing."""
    workers: tuple[WorkerReport, ...] = ()
    """The workers that live now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The queue could not be read in this tick."""

    reason: str
    """A word in CamelCase for a condition, such as `SourceUnavailable`."""
    message: str
    """A sentence for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """The worker Deployment of the queue, and what the cluster says about it."""

    replicas: int
    """What the Deployment's spec asks for."""
    ready_replicas: int
    """Pods that are Ready; the surge pods of a rollout may be among them."""
    created_at: float
    """When the JobQueue was created, in seconds of the operator's clock: the first cooldown
    begins then."""
    rolling_out: bool = False
    """A rollout is under way: nothing is scaled down."""
    paused: bool = False
    """The user paused the scaling: nothing is written."""
    conflict: str | None = None
    """Who else scales the Deployment, in a sentence; nothing is written while it stands."""
