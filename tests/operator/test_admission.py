"""Arrivals that the scaler plans for, where limits or holds keep messages back."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from meshhook_operator.reconciliation.admission import Admission
from meshhook_operator.scaling import Sample, WorkerReport

CAP = 10_000


def sample(sent: int, **fields: Any) -> Sample:
    """Return a sample of a queue to which so many messages were ever sent."""
    fields = {"ready": 0, "kept_back_is_capped": fields.get("kept_back", 0) >= CAP} | fields
    return Sample(sampled_at=0.0, enqueued_total=sent, **fields)


def worker(processed: int) -> WorkerReport:
    """Return the report of a worker that has completed so many jobs."""
    return WorkerReport(
        worker="a", concurrency=10, running=4, processed=processed, busy_seconds=0, seen_at=0
    )


def arrived(*samples: Sample) -> list[int]:
    """Return how many messages arrive for the scaler from each sample to the next."""
    state, totals = Admission(), []
    for each in samples:
        state, admitted = state.observe(each)
        totals.append(admitted.enqueued_total)
    return [after - before for before, after in pairwise(totals)]


def test_without_limits_all_that_is_sent_arrives():
    """Nothing is kept back, so the total is the queue's own."""
    state, admitted = Admission().observe(sample(120, ready=20))
    assert admitted.enqueued_total == 120
    assert state.observe(sample(150, ready=50))[1].enqueued_total == 150


def test_what_is_sent_to_a_held_key_does_not_arrive():
    """100 a second to a held key are no arrivals; 3 to others are."""
    assert arrived(
        sample(1_000, kept_back=500), sample(1_100, kept_back=600), sample(1_203, kept_back=700)
    ) == [0, 3]


def test_what_is_let_go_arrives_then():
    """When a hold ends, its messages arrive all at once."""
    assert arrived(
        sample(1_000, kept_back=500), sample(1_000, ready=500), sample(1_010, ready=510)
    ) == [500, 10]


def test_a_new_limit_takes_back_what_had_arrived():
    """The total falls, which the scaler takes as no arrivals."""
    assert arrived(sample(1_000, ready=500), sample(1_000, ready=4, kept_back=496)) == [-496]


def test_a_flood_that_is_not_counted_arrives_as_it_is_worked_off():
    """Of 500 messages to a full key with more than 10,000, as many arrive as workers complete."""
    full = {"kept_back": CAP, "leased": 4}
    assert arrived(
        sample(50_000, workers=(worker(100),), **full),
        sample(50_500, workers=(worker(120),), **full),
        sample(51_000, workers=(worker(125), worker(0)), ready=2, **full),
    ) == [20, 5 + 2]


def test_a_flood_without_workers_does_not_arrive():
    """While more than 10,000 of a held key wait and nothing runs, nothing arrives."""
    held = {"kept_back": CAP}
    assert arrived(sample(50_000, **held), sample(50_500, **held), sample(51_000, **held)) == [0, 0]


def test_a_queue_that_was_created_again_counts_from_the_start():
    """Its sequence begins anew, and nothing is remembered of the one before."""
    state, _ = Admission().observe(sample(50_000, kept_back=400))
    assert state.observe(sample(7, ready=7))[1].enqueued_total == 7
