"""One job that a worker holds: its lease, its state and its attempt."""

from __future__ import annotations

from enum import Enum
from math import inf
from typing import TYPE_CHECKING, Any

from meshhook.observability.job_context import fields_of
from meshhook.observability.loggers import get_logger

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

    from meshhook.jobs import Job, JobKey
    from meshhook.retry import RetryPolicy
    from meshhook.store.claims import KeyShare
    from meshhook.store.settlements import Settlement
    from meshhook.worker.attempt import Attempt
    from meshhook.worker.priority_turns import PriorityPlace


_log = get_logger("meshhook.worker.held_job")


class JobState(Enum):
    """How far a held job has come. The last three are final: the worker no longer holds it."""

    CLAIMED = "claimed"
    """Leased. It waits for a slot, for its message to be read, or to run apart from others."""
    RUNNING = "running"
    """Its attempt is under way."""
    ENDED = "ended"
    """Its attempt has ended or was refused, and its outcome waits to be recorded."""
    SETTLED = "settled"
    """The outcome is recorded."""
    RELEASED = "released"
    """The lease was given back; the attempt does not count."""
    LOST = "lost"
    """The lease was lost: another worker may have the job, and no outcome is recorded here."""


# Looked up once: in Python 3.11 access to an enum member is a function call.
CLAIMED, RUNNING, ENDED = JobState.CLAIMED, JobState.RUNNING, JobState.ENDED
SETTLED, RELEASED, LOST = JobState.SETTLED, JobState.RELEASED, JobState.LOST


class HeldJob:
    """A job that the worker holds. Only `HeldJobs` moves it from one state to the next.

    Times are seconds of the monotonic clock.
    """

    __slots__ = (
        "attempt",
        "claimed_at",
        "completed_key",
        "ended_at",
        "extended_at",
        "is_failure",
        "job",
        "key",
        "key_hold_seconds",
        "own_policy",
        "place",
        "read_ct",
        "settlement",
        "share",
        "span",
        "state",
        "was_completed",
    )

    job: Job[Any]
    """The job, until it has ended. Not longer, because its message may be large."""
    key: JobKey
    state: JobState
    read_ct: int
    """Which lease of the job this is."""
    claimed_at: float
    """When the answer to its claim was received."""
    extended_at: float
    """When the database was last asked for the lease and granted it; infinite without a lease."""
    attempt: Attempt | None
    """The attempt while it is under way."""
    settlement: Settlement
    """How it ended. Set when it ends."""
    ended_at: float
    """When it ended. Set when it ends."""
    share: KeyShare | None
    """The key of the message, in a keyed queue."""
    place: PriorityPlace | None
    """Its place, in a queue with priorities."""
    key_hold_seconds: float
    """How long its handler asked to hold the message's key; 0 means not at all."""
    own_policy: RetryPolicy | None
    """The job's own retry policy, if jobs follow it: for when these are refused."""
    is_failure: bool
    """Whether its end counts as a failure of its key."""
    completed_key: str | None
    """The key of the message, if its handler settled the job and the keys have breakers."""
    was_completed: bool
    """Whether the handler settled the job in its own transaction. If that was committed, the
    message is gone and the job is done; if it was rolled back, `settlement` holds."""
    span: SpanContext | None
    """The span of the attempt that has ended, if it was traced."""

    def __init__(self, job: Job[Any], asked_at: float, claimed_at: float) -> None:
        self.job = job
        self.key = job.key
        self.state = CLAIMED
        self.read_ct = job.read_ct
        self.claimed_at = claimed_at
        self.extended_at = asked_at
        self.attempt = None
        self.share = None
        self.place = None
        self.key_hold_seconds = 0.0
        self.own_policy = None
        self.is_failure = False
        self.completed_key = None

    @property
    def has_lease(self) -> bool:
        """Whether it has a lease, as far as the worker knows."""
        return self.extended_at < inf

    def may_keep_lease(self, now: float) -> bool:
        """Return whether its lease may be extended. A handler that never ends loses it in the end.

        A job that waits to start, or waits for its outcome to be recorded, keeps its lease. Can be
        called from any thread.
        """
        attempt = self.attempt
        return attempt is None or attempt.may_keep_lease(now)

    def take_up_again(self, job: Job[Any], asked_at: float) -> bool:
        """Continue under the new lease of a later claim. Returns whether that is possible.

        It is not if the attempt is being stopped, or if the new claim follows a later attempt than
        the one whose outcome waits here.

        Args:
            job: the job as it was claimed.
            asked_at: when the database was asked for the new lease.
        """
        if self.state is ENDED:
            ended = self.settlement
            # Only if the claim counts as lost the attempt whose outcome waits here.
            if not job.lost_attempts or job.attempt - ended.attempt > job.lost_attempts:
                return False
            _log.warning("lease taken up again for an outcome", **fields_of(job))
            self.settlement = ended._replace(read_ct=job.read_ct, attempt=job.attempt)
        else:
            if self.attempt is not None and self.attempt.abort is not None:
                return False
            _log.warning("lease taken up again", **fields_of(job))
            self.job.read_ct, self.job.attempt = job.read_ct, job.attempt
            self.job.lost_attempts, self.job.lease_expired = job.lost_attempts, False
        self.read_ct, self.extended_at = job.read_ct, asked_at
        return True


class IllegalMoveError(RuntimeError):
    """A job was to enter a state that cannot follow its current one: a bug in the worker."""

    def __init__(self, held: HeldJob, state: JobState) -> None:
        super().__init__(f"job {held.key[0]} cannot become {state.value}: it is {held.state.value}")
