"""In which order jobs of a keyed queue start that were claimed ahead."""

from __future__ import annotations

import contextvars
from collections import Counter
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from meshhook.jobs import Job
from meshhook.outcomes import AttemptOutcome
from meshhook.queue_config import QueueSettings
from meshhook.store.claims import KeyShare
from meshhook.store.settlements import Settlement
from meshhook.worker.attempt import Attempt
from meshhook.worker.fair_turns import MAX_OUTDATED, FairTurns
from meshhook.worker.held_job import HeldJob
from meshhook.worker.held_jobs import HeldJobs
from meshhook.worker.slot_shares import SharedSlots


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


def held_job(msg_id: int, key: str | None = None, weight: float = 1.0) -> HeldJob:
    """Return a claimed job with a key."""
    held = HeldJob(job(msg_id), 0.0, 0.0)
    held.share = KeyShare(key, weight)
    return held


def start(turns: FairTurns, count: int) -> list[HeldJob]:
    """Start so many jobs."""
    return [turns.popleft() for _ in range(count)]


def keys_of(jobs: list[HeldJob]) -> Counter[str | None]:
    """Count the jobs of each key."""
    return Counter(key_of(held) for held in jobs)


def key_of(held: HeldJob) -> str | None:
    """Return the key of a job."""
    assert held.share is not None
    return held.share.key


class Worker:
    """The held jobs of a worker with so many slots, whose claims tell the keys."""

    def __init__(self, slots: int) -> None:
        self.held_jobs = HeldJobs(SharedSlots(slots, {"jobs": 1}).shares["jobs"])

    def claim(self, key: str, *msg_ids: int) -> None:
        """Claim jobs of a key."""
        jobs = [job(msg_id) for msg_id in msg_ids]
        shares = {each.key: KeyShare(key, 1.0) for each in jobs}
        self.held_jobs.queue(self.held_jobs.claim(jobs, 0.0, 0.0, shares).to_start)

    def start(self) -> HeldJob:
        """Start the next job."""
        held = self.held_jobs.start_next()
        held.attempt = Attempt(held.job, 0.0, QueueSettings(), contextvars.copy_context())
        return held

    def end(self, held: HeldJob) -> None:
        """Let a job end well."""
        outcome = AttemptOutcome.SUCCEEDED
        settlement = Settlement(held.key[0], 1, held.key[1], 1, outcome, 0.0, 1.0)
        self.held_jobs.end(held, settlement, 1.0)


def test_a_quiet_key_starts_in_the_next_free_slot() -> None:
    """It does not wait for what was claimed ahead of a key that floods."""
    worker = Worker(slots=4)
    worker.claim("flood", *range(100))
    running = [worker.start() for _ in range(4)]
    worker.claim("quiet", 100)
    worker.end(running[0])
    assert worker.start().key[0] == 100
    worker.end(running[1])
    assert worker.start().key[0] == 4


def test_a_key_that_holds_slots_for_long_gets_no_more_than_its_share() -> None:
    """What runs is shared out, not what starts: the slots of quick jobs stay theirs."""
    worker = Worker(slots=4)
    worker.claim("slow", *range(50))
    worker.claim("quick", *range(100, 200))
    running = [worker.start() for _ in range(4)]
    for _ in range(20):
        quick = next(held for held in running if held.key[0] >= 100)
        worker.end(quick)
        running.remove(quick)
        running.append(worker.start())
    assert sorted(held.key[0] >= 100 for held in running) == [False, False, True, True]


@pytest.mark.parametrize("way", ["release", "stopped", "cut_off"])
def test_a_slot_counts_no_more_however_its_job_leaves_it(way: str) -> None:
    """A key whose job was given back, lost or cut off is not kept waiting for it."""
    worker = Worker(slots=2)
    worker.claim("one", 1, 2, 3)
    worker.claim("other", 11, 12)
    first = worker.start()
    assert first.key[0] == 1
    assert worker.start().key[0] == 11
    if way == "release":
        worker.held_jobs.release([first])
    elif way == "stopped":
        worker.held_jobs.stopped(first)
    else:
        worker.held_jobs.cut_off(first)
        worker.held_jobs.release([first])
    assert worker.start().key[0] == 2


def test_keys_go_round_in_a_single_slot() -> None:
    """With nothing else running, a key that comes waits for one job of each other at most."""
    worker = Worker(slots=1)
    worker.claim("flood", *range(10))
    worker.end(worker.start())
    worker.claim("quiet", 10, 11)
    order = []
    for _ in range(5):
        order.append(worker.start())
        worker.end(order[-1])
    assert [held.key[0] for held in order] == [1, 10, 2, 11, 3]


def test_jobs_start_as_they_came_when_the_queue_is_keyed_no_more() -> None:
    """Those that wait stay where they are."""
    worker = Worker(slots=2)
    worker.claim("one", 1, 2)
    worker.claim("other", 11)
    more = worker.held_jobs.claim([job(3)], 0.0, 0.0)
    worker.held_jobs.queue(more.to_start)
    assert [worker.start().key[0] for _ in range(4)] == [1, 2, 11, 3]
    worker.claim("one", 4)
    assert worker.start().key[0] == 4


def test_weights_share_out_the_slots() -> None:
    """A key of weight 3 has three running jobs for each of one with weight 1."""
    turns = FairTurns()
    for number in range(100):
        turns.append(held_job(number, "heavy", 3.0))
        turns.append(held_job(100 + number, "light"))
    running = start(turns, 40)
    assert keys_of(running) == {"heavy": 30, "light": 10}
    for held in running[:20]:
        turns.leave(held)
    running = [*running[20:], *start(turns, 20)]
    assert keys_of(running) == {"heavy": 30, "light": 10}


def test_a_new_weight_counts_from_the_next_claim_on() -> None:
    """Also for jobs that wait already."""
    turns = FairTurns()
    for number in range(100):
        turns.append(held_job(number, "a"))
        turns.append(held_job(100 + number, "b"))
    turns.append(held_job(200, "a", 3.0))
    assert keys_of(start(turns, 40)) == {"a": 30, "b": 10}


def test_outdated_turns_are_cleared_away() -> None:
    """However many jobs have run, what is kept depends on the keys that wait."""
    turns = FairTurns()
    for number in range(10_000):
        turns.append(held_job(number, f"key-{number % 3}"))
        if number >= 30:
            turns.leave(turns.popleft())
    assert len(turns._turns) <= 2 * len(turns._keys) + MAX_OUTDATED
    for _ in range(30):
        turns.leave(turns.popleft())
    assert not turns
    assert not turns._keys
    with pytest.raises(IndexError):
        turns.popleft()


class Turns(RuleBasedStateMachine):
    """Whatever happens in whatever order: the next job is that of a plain search."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = FairTurns()
        self.round: list[str | None] = []
        """The keys of the jobs that wait, in the order of their places."""
        self.waiting: list[HeldJob] = []
        self.running: list[HeldJob] = []
        self.weights: dict[str | None, int] = {}
        self.came = 0

    def next(self) -> HeldJob:
        """Look for the job that is to start next."""
        running = keys_of(self.running)
        first = min(self.round, key=lambda key: Fraction(running[key], self.weights[key]))
        return next(held for held in self.waiting if key_of(held) == first)

    def wait_no_more(self, held: HeldJob) -> None:
        """Note that a job does not wait any more."""
        self.waiting.remove(held)
        if key_of(held) not in keys_of(self.waiting):
            self.round.remove(key_of(held))

    @rule(key=st.sampled_from([None, "", "a", "b", "c"]), weight=st.integers(1, 3))
    def append(self, key: str | None, weight: int) -> None:
        """Let a job wait."""
        self.came += 1
        self.weights[key] = weight
        held = held_job(self.came, key, float(weight))
        self.turns.append(held)
        self.waiting.append(held)
        if key not in self.round:
            self.round.append(key)

    @precondition(lambda self: self.waiting)
    @rule()
    def start(self) -> None:
        """Start a job."""
        expected = self.next()
        assert self.turns.first is expected
        assert self.turns.popleft() is expected
        self.running.append(expected)
        self.wait_no_more(expected)
        if key_of(expected) in self.round:
            self.round.remove(key_of(expected))
            self.round.append(key_of(expected))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """End a job, and say so twice."""
        held = data.draw(st.sampled_from(self.running))
        self.running.remove(held)
        self.turns.leave(held)
        self.turns.leave(held)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        """Remove a job that waits."""
        held = data.draw(st.sampled_from(self.waiting))
        assert held in self.turns
        self.turns.remove(held)
        assert held not in self.turns
        self.wait_no_more(held)

    @rule()
    def clear(self) -> None:
        """Remove all that wait."""
        self.turns.clear()
        self.waiting.clear()
        self.round.clear()

    @invariant()
    def knows_what_waits(self) -> None:
        """All of it, and the next one."""
        assert {*self.turns} == {*self.waiting}
        assert len(self.turns) == len(self.waiting)
        if self.waiting:
            assert self.turns.first is self.next()


TestTurns = Turns.TestCase
TestTurns.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
