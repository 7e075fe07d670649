"""In which order jobs of a queue with priorities start that were claimed ahead."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshhook.jobs import Job
from meshhook.outcomes import AttemptOutcome
from meshhook.priorities import AGED_SHARE, Priority
from meshhook.store.settlements import Settlement
from meshhook.worker.aged_share import AgedShare
from meshhook.worker.batch_options import BatchOptions
from meshhook.worker.held_job import HeldJob
from meshhook.worker.held_jobs import HeldJobs
from meshhook.worker.priority_turns import PriorityPlace, PriorityTurns
from meshhook.worker.slot_shares import SharedSlots

URGENT, HIGH, NORMAL, LOW = Priority
NEVER = 1e9


def job(msg_id: int) -> Job[Any]:
    """Return a job as a claim makes it."""
    return Job(
        queue="jobs",
        msg_id=msg_id,
        attempt=1,
        max_attempts=5,
        enqueued_timestamp=0.0,
        ready_timestamp=0.0,
        claimed_timestamp=0.0,
        headers={},
        body="null",
    )


def held_job(msg_id: int, band: int, aged_at: float = NEVER) -> HeldJob:
    """Return a claimed job of a band."""
    held = HeldJob(job(msg_id), 0.0, 0.0)
    held.place = PriorityPlace(band, aged_at)
    return held


def turns_of(*jobs: HeldJob, now: float = 0.0) -> PriorityTurns:
    """Return turns in which these jobs wait."""
    turns = PriorityTurns(lambda: now)
    for each in jobs:
        turns.append(each)
    return turns


def order_of(turns: PriorityTurns) -> list[int]:
    """Start all jobs, and return their ids."""
    return [turns.popleft().key[0] for _ in range(len(turns))]


def test_the_most_urgent_starts_first() -> None:
    """Bands come in their order, and within a band jobs in the order in which they came."""
    jobs = [held_job(n, band) for n, band in enumerate([LOW, NORMAL, URGENT, HIGH, URGENT, LOW])]
    assert order_of(turns_of(*jobs)) == [2, 4, 3, 1, 0, 5]


def test_one_start_in_four_goes_to_an_aged_job() -> None:
    """While urgent jobs wait, every fourth start goes to the job that has been aged for longest."""
    urgent = [held_job(n, URGENT) for n in range(9)]
    aged = [held_job(100, LOW, 3.0), held_job(101, LOW, 4.0), held_job(102, HIGH, 2.0)]
    assert order_of(turns_of(*urgent, *aged, held_job(103, NORMAL), now=5.0)) == [
        *(0, 1, 2, 102),
        *(3, 4, 5, 100),
        *(6, 7, 8, 101, 103),
    ]


def test_a_job_that_is_not_aged_waits_for_all_that_are_more_urgent() -> None:
    """Before it is aged it gets no turn of its own."""
    jobs = [held_job(0, LOW, 7.0), *(held_job(n, HIGH) for n in range(1, 9))]
    assert order_of(turns_of(*jobs, now=5.0))[-1] == 0


def test_a_kept_slot_is_for_urgent_jobs() -> None:
    """In it an aged job does not start, whatever its turn."""
    jobs = [held_job(n, URGENT) for n in range(6)]
    turns = turns_of(held_job(100, LOW, 0.0), *jobs, now=5.0)
    assert [turns.popleft(only_urgent=True).key[0] for _ in range(6)] == [0, 1, 2, 3, 4, 5]
    with pytest.raises(IndexError):
        turns.popleft(only_urgent=True)


def test_waiting_jobs_can_be_removed() -> None:
    """A job whose lease was lost waits no longer."""
    first, second = held_job(1, LOW), held_job(2, LOW)
    turns = turns_of(first, second)
    turns.remove(first)
    assert [*turns] == [second]
    with pytest.raises(ValueError, match="not in deque"):
        turns.remove(first)
    turns.clear()
    assert len(turns) == 0


@given(
    claims=st.lists(st.tuples(st.integers(1, 40), st.integers(0, 40)), min_size=1, max_size=60),
)
def test_aged_jobs_get_a_part_and_no_more(claims: list[tuple[int, int]]) -> None:
    """However claims go: of all jobs at most a quarter and one are aged, in any stretch of them."""
    share = AgedShare()
    taken: list[tuple[int, int]] = []
    for limit, aged in claims:
        most = share.most(limit)
        assert most <= limit
        got = min(aged, most)
        share.took(limit, got)
        taken.append((limit, got))
    for start in range(len(taken)):
        jobs = aged = 0
        for limit, got in taken[start:]:
            jobs, aged = jobs + limit, aged + got
            assert aged <= jobs * AGED_SHARE + 1


@given(limits=st.lists(st.integers(1, 5), min_size=20, max_size=20))
def test_aged_jobs_are_never_starved(limits: list[int]) -> None:
    """If some always wait, then of every eight jobs one is aged."""
    share = AgedShare()
    jobs = aged = 0
    for limit in limits:
        got = share.most(limit)
        share.took(limit, got)
        jobs, aged = jobs + limit, aged + got
    assert aged >= jobs * AGED_SHARE - 1


def made(concurrency: int, urgent_slots: int) -> HeldJobs:
    """Return the table of a worker's only queue."""
    held_jobs = HeldJobs(SharedSlots(concurrency, {"jobs": 1}).shares["jobs"])
    held_jobs.start_in_turn(has_keys=False, has_priorities=True)
    held_jobs.keep_slots(urgent_slots)
    return held_jobs


def claim(held_jobs: HeldJobs, *bands: int, aged_at: float = NEVER) -> list[HeldJob]:
    """Claim a job of each band, and let them wait."""
    start = len(held_jobs.leases.jobs)
    jobs = [job(start + n) for n in range(len(bands))]
    places = {
        each.key: PriorityPlace(band, aged_at) for each, band in zip(jobs, bands, strict=True)
    }
    claimed = held_jobs.claim(jobs, 0, 0, places=places).to_start
    held_jobs.queue(claimed)
    return claimed


def start_all(held_jobs: HeldJobs) -> list[HeldJob]:
    """Start all jobs that may start."""
    started = []
    while held_jobs.may_start:
        started.append(held_jobs.start_next())
    return started


def end(held_jobs: HeldJobs, held: HeldJob) -> None:
    """Let a job end."""
    key = held.key
    outcome = AttemptOutcome.SUCCEEDED
    held_jobs.end(held, Settlement(key[0], 1, key[1], 1, outcome, 0.0, 1.0), 1.0)


def test_a_slot_is_kept_free_for_urgent_jobs() -> None:
    """Other jobs leave it free, and an urgent one starts in it at once."""
    held_jobs = made(4, 1)
    claim(held_jobs, LOW, NORMAL, HIGH, LOW, LOW)
    assert len(start_all(held_jobs)) == 3
    # The kept one, and those in which the other two would start.
    assert (held_jobs.free, held_jobs.free_for_urgent) == (0, 3)
    [urgent] = claim(held_jobs, URGENT)
    assert (held_jobs.free, held_jobs.free_for_urgent) == (0, 2)
    assert start_all(held_jobs) == [urgent]


def test_a_kept_slot_is_for_no_aged_job() -> None:
    """Although it is the turn of one: it waits for another slot."""
    held_jobs = made(4, 1)
    claim(held_jobs, LOW, LOW, LOW, LOW, aged_at=0.0)
    assert len(start_all(held_jobs)) == 3
    [urgent] = claim(held_jobs, URGENT)
    assert start_all(held_jobs) == [urgent]


def test_urgent_jobs_are_claimed_ahead_of_jobs_that_wait() -> None:
    """With all slots taken, as many as others would start before them; without any, none."""
    held_jobs = made(2, 0)
    claim(held_jobs, LOW, LOW, LOW, LOW)
    start_all(held_jobs)
    assert held_jobs.free_for_urgent == 2
    urgent = claim(held_jobs, URGENT, URGENT)
    assert held_jobs.free_for_urgent == 0
    end(held_jobs, next(iter(held_jobs.running.jobs.values())))
    assert start_all(held_jobs) == urgent[:1]


def test_an_urgent_job_counts_as_one_that_has_a_kept_slot() -> None:
    """While urgent jobs run, no more slots are kept, so that they hold back nobody else."""
    held_jobs = made(4, 2)
    claim(held_jobs, URGENT, URGENT, LOW, LOW, LOW)
    started = start_all(held_jobs)
    assert [held.place.band for held in started if held.place] == [URGENT, URGENT, LOW, LOW]
    end(held_jobs, started[0])
    assert (held_jobs.free, held_jobs.free_for_urgent) == (0, 2)
    assert not held_jobs.may_start


@pytest.mark.parametrize(("concurrency", "kept"), [(1, 0), (2, 1), (3, 1), (4, 2), (9, 3)])
def test_at_most_half_of_the_slots_are_kept(concurrency: int, kept: int) -> None:
    """A worker with one slot keeps none."""
    held_jobs = made(concurrency, 3)
    claim(held_jobs, *[LOW] * 20)
    assert len(start_all(held_jobs)) == concurrency - kept


def test_more_slots_are_kept_where_urgent_jobs_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as they need, those among them in which they run; for an aged job only one."""
    monkeypatch.setattr(PriorityTurns, "average_urgent", 1.0)
    held_jobs = made(20, 1)
    assert held_jobs.free == 16
    claim(held_jobs, *[LOW] * 40)
    assert len(start_all(held_jobs)) == 16
    claim(held_jobs, URGENT, URGENT, URGENT)
    assert len(start_all(held_jobs)) == 3
    held_jobs.keep_slots(1)
    end(held_jobs, next(iter(held_jobs.running.jobs.values())))
    assert [held.place.band for held in start_all(held_jobs) if held.place] == [LOW]
    claim(held_jobs, NORMAL, aged_at=0.0)
    held_jobs.keep_slots(1)
    assert [held.place.band for held in start_all(held_jobs) if held.place] == [NORMAL]


def test_where_aged_jobs_start_at_once_more_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where jobs run long, none waits in the worker: what the last claim found says so."""
    monkeypatch.setattr(PriorityTurns, "average_urgent", 1.0)
    held_jobs = made(20, 1)
    claim(held_jobs, LOW, HIGH, aged_at=0.0)
    start_all(held_jobs)
    held_jobs.keep_slots(1)
    assert held_jobs.free == 17
    claim(held_jobs, URGENT, aged_at=0.0)  # a look for urgent jobs says nothing of others
    start_all(held_jobs)
    held_jobs.keep_slots(1)
    assert held_jobs.free == 17
    claim(held_jobs, LOW)
    start_all(held_jobs)
    held_jobs.keep_slots(1)
    assert held_jobs.free == 13


def test_aged_jobs_are_known_of() -> None:
    """One that becomes aged while it waits here counts, and an urgent one never does."""
    now = 4.0
    turns = PriorityTurns(lambda: now)
    turns.note_claim([PriorityPlace(URGENT, 0.0), PriorityPlace(LOW, 5.0)])
    turns.append(held_job(0, URGENT, 0.0))
    turns.append(held_job(1, LOW, 5.0))
    assert not turns.has_aged
    now = 6.0
    assert turns.has_aged


def test_slots_that_are_kept_no_longer_are_used_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for room hears that there is some."""
    monkeypatch.setattr(PriorityTurns, "average_urgent", 1.0)
    held_jobs = made(20, 1)
    claim(held_jobs, *[LOW] * 40)
    start_all(held_jobs)
    held_jobs.slots.are_wanted.clear()
    monkeypatch.setattr(PriorityTurns, "average_urgent", 0.0)
    held_jobs.keep_slots(1)
    assert held_jobs.slots.are_wanted.is_set()
    assert len(start_all(held_jobs)) == 3


def test_urgent_jobs_that_run_are_averaged() -> None:
    """From the start of each until it leaves; others do not count, nor what waits."""
    now = 0.0
    turns = PriorityTurns(lambda: now)
    jobs = [held_job(0, URGENT), held_job(1, URGENT), held_job(2, LOW), held_job(3, LOW)]
    for each in jobs:
        turns.append(each)
    first, second, low = (turns.popleft() for _ in range(3))
    now = 100.0
    assert turns.average_urgent == pytest.approx(2)
    turns.leave(first)
    turns.leave(low)
    now = 200.0
    assert turns.average_urgent == pytest.approx(1)
    turns.leave(second)
    turns.leave(second)
    now = 300.0
    assert turns.average_urgent == pytest.approx(0)


def test_batches_use_a_slot_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten urgent jobs that run as one batch need one slot, and little more."""
    monkeypatch.setattr(PriorityTurns, "average_urgent", 10.0)
    share = SharedSlots(40, {"jobs": 1}).shares["jobs"]
    held_jobs = HeldJobs(share, BatchOptions(10, 0.0))
    held_jobs.start_in_turn(has_keys=False, has_priorities=True)
    held_jobs.keep_slots(1)
    assert held_jobs.free == 36 * 10


def test_a_queue_without_priorities_keeps_no_slot() -> None:
    """After priorities were turned off, jobs start in the order in which they were claimed."""
    held_jobs = made(4, 2)
    claim(held_jobs, LOW, URGENT)
    jobs = [job(10), job(11)]
    held_jobs.queue(held_jobs.claim(jobs, 0, 0).to_start)
    assert (held_jobs.free, held_jobs.free_for_urgent) == (4, 0)
    assert [held.key[0] for held in start_all(held_jobs)] == [1, 0, 10, 11]
