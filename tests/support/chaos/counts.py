"""What may be wrong with jobs, counted by kind, and what is clean."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Counts:
    """How many jobs are not as they should be, by what is wrong. All zero is clean."""

    lost: int = 0
    """Confirmed, and neither ended nor in the queue."""
    left: int = 0
    """Still in the queue, although there was time to end them all."""
    never_ran: int = 0
    """Ended as if they had run, and no handler has seen them."""
    ended_twice: int = 0
    """With more than one final outcome."""
    ended_and_live: int = 0
    """With a final outcome, and in the queue as well."""
    stored_twice: int = 0
    """Enqueued once, and stored as more than one message."""
    rolled_back_stored: int = 0
    """Rolled back by their producer, and stored or run all the same."""
    refused_stored: int = 0
    """Refused with an error that says that nothing was stored, and stored or run."""
    unanswered: int = 0
    """Of which the producer never heard, while it lived."""
    wrong_endings: int = 0
    """Ended otherwise than the job itself did."""
    dead_letters_differ: int = 0
    """Dead in the history and not in the dead letters, or the other way round."""
    effects_twice: int = 0
    """Whose effect by `job.complete` happened more than once."""
    effects_without_success: int = 0
    """Whose effect is there although they did not succeed."""
    successes_without_effect: int = 0
    """Recorded as succeeded without the effect that belongs to it."""
    unexplained_repeats: int = 0
    """Ran to their end again although no lease was lost and no process died."""
    attempt_gaps: int = 0
    """Ended with attempts of which the history knows nothing."""
    late: int = 0
    """Sent after the fault, and not ended in time."""
    metrics_differ: int = 0
    """By how much the metrics of workers that lived differ from the history."""
    unsettled: int = 0
    """Outcomes that a worker still waits to record."""
    not_ready: int = 0
    """Workers that do not say that they are ready."""
    bad_ends: int = 0
    """Workers that did not end with 0 when told to stop."""


CLEAN = Counts()


@dataclass(frozen=True)
class Facts:
    """How much happened."""

    confirmed: int
    uncertain: int
    refused: int
    rolled_back: int
    runs: int
    repeats: int
    """Jobs that ran to their end more than once."""
    lost_attempts: int
    """Attempts whose lease ran out with no outcome."""
    forgiven: int
    """Jobs that the fault itself takes away, as a restored backup does."""
    died: int
    """Processes that were killed or died."""
