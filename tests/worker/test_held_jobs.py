"""The table of held jobs: the moves that a job may make, those that it may not, and answers."""

from __future__ import annotations

import contextvars
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from meshhook.jobs import Job
from meshhook.outcomes import AttemptOutcome
from meshhook.queue_config import QueueSettings
from meshhook.store.claims import KeyShare
from meshhook.store.settlements import Settlement
from meshhook.worker.attempt import Abort, Attempt
from meshhook.worker.held_job import HeldJob, IllegalMoveError, JobState
from meshhook.worker.held_jobs import HeldJobs
from meshhook.worker.leases import Lease
from meshhook.worker.slot_shares import SharedSlots


def make(concurrency: int = 4) -> HeldJobs:
    """Return the table of a worker's only queue."""
    return HeldJobs(SharedSlots(concurrency, {"jobs": 1}).shares["jobs"])


def job(
    msg_id: int,
    read_ct: int = 1,
    *,
    lost_attempts: int = 0,
    enqueued: float = 0.0,
    body: str = "null",
) -> Job[Any]:
    """Return a job as a claim makes it."""
    made: Job[Any] = Job(
        queue="jobs",
        msg_id=msg_id,
        attempt=read_ct,
        max_attempts=5,
        enqueued_timestamp=enqueued,
        ready_timestamp=0.0,
        claimed_timestamp=0.0,
        headers={},
        body=body,
    )
    made.lost_attempts = lost_attempts
    return made


def claim(held_jobs: HeldJobs, *jobs: Job[Any], at: float = 0.0) -> list[HeldJob]:
    """Claim jobs, and return those that are to start."""
    return held_jobs.claim(jobs, at, at).to_start


def settlement(held: HeldJob, outcome: AttemptOutcome = AttemptOutcome.SUCCEEDED) -> Settlement:
    """Return how a job ended."""
    return Settlement(held.key[0], held.read_ct, held.key[1], held.read_ct, outcome, 0.0, 1.0)


def begin(held: HeldJob, timeout_seconds: float | None = None) -> Attempt:
    """Give a job that has just started its attempt."""
    settings = QueueSettings(job_timeout_seconds=timeout_seconds)
    held.attempt = Attempt(held.job, 0.0, settings, contextvars.copy_context())
    return held.attempt


def claimed(held_jobs: HeldJobs) -> HeldJob:
    """Return a job that waits for a slot."""
    [held] = claim(held_jobs, job(1))
    held_jobs.queue([held])
    return held


def running(held_jobs: HeldJobs) -> HeldJob:
    """Return a job that runs."""
    claimed(held_jobs)
    held = held_jobs.start_next()
    begin(held)
    return held


def ended(held_jobs: HeldJobs) -> HeldJob:
    """Return a job whose outcome waits."""
    held = running(held_jobs)
    held_jobs.end(held, settlement(held), 1.0)
    held_jobs.ended.take_batch()
    return held


def settled(held_jobs: HeldJobs) -> HeldJob:
    """Return a job whose outcome is recorded."""
    held = ended(held_jobs)
    held_jobs.settle([held], [])
    held_jobs.ended.batch_done()
    return held


def released(held_jobs: HeldJobs) -> HeldJob:
    """Return a job that was given back."""
    held = running(held_jobs)
    held_jobs.release([held])
    return held


def lost(held_jobs: HeldJobs) -> HeldJob:
    """Return a job whose lease was lost."""
    held = ended(held_jobs)
    held_jobs.settle([], [held])
    held_jobs.ended.batch_done()
    return held


MAKERS: dict[JobState, Callable[[HeldJobs], HeldJob]] = {
    JobState.CLAIMED: claimed,
    JobState.RUNNING: running,
    JobState.ENDED: ended,
    JobState.SETTLED: settled,
    JobState.RELEASED: released,
    JobState.LOST: lost,
}
"""How to make a job of each state."""


def start(held_jobs: HeldJobs, held: HeldJob) -> None:
    """Start a job, be it queued or not."""
    if held not in held_jobs.waiting:
        held_jobs.waiting.append(held)
    held_jobs.start_next()


def end(held_jobs: HeldJobs, held: HeldJob) -> None:
    """End a job."""
    held_jobs.end(held, settlement(held), 1.0)


def settle(held_jobs: HeldJobs, held: HeldJob) -> None:
    """Record its outcome."""
    held_jobs.settle([held], [])


def lose_outcome(held_jobs: HeldJobs, held: HeldJob) -> None:
    """Find that its outcome could not be recorded."""
    held_jobs.settle([], [held])


def release(held_jobs: HeldJobs, held: HeldJob) -> None:
    """Give it back."""
    held_jobs.take_unstarted()
    held_jobs.release([held])


def stopped(held_jobs: HeldJobs, held: HeldJob) -> None:
    """Note that its attempt has ended, whose lease was lost."""
    held_jobs.stopped(held)


MOVES: dict[Callable[[HeldJobs, HeldJob], None], tuple[JobState, set[JobState]]] = {
    start: (JobState.RUNNING, {JobState.CLAIMED}),
    end: (JobState.ENDED, {JobState.CLAIMED, JobState.RUNNING}),
    settle: (JobState.SETTLED, {JobState.ENDED}),
    lose_outcome: (JobState.LOST, {JobState.ENDED}),
    release: (JobState.RELEASED, {JobState.CLAIMED, JobState.RUNNING}),
    stopped: (JobState.LOST, {JobState.RUNNING}),
}
"""Where each move leads, and from where it may be made."""


@pytest.mark.parametrize("state", JobState)
@pytest.mark.parametrize("move", MOVES, ids=lambda move: move.__name__)
async def test_a_job_moves_only_along_its_life(
    state: JobState, move: Callable[[HeldJobs, HeldJob], None]
) -> None:
    """Each move is made from the states that it follows, and refused from all others."""
    held_jobs = make()
    held = MAKERS[state](held_jobs)
    assert held.state is state
    leads_to, legal = MOVES[move]
    if state in legal:
        move(held_jobs, held)
        assert held.state is leads_to
    else:
        with pytest.raises(IllegalMoveError, match=f"it is {state.value}"):
            move(held_jobs, held)
        assert held.state is state


@pytest.mark.parametrize("state", [JobState.SETTLED, JobState.RELEASED, JobState.LOST])
async def test_a_job_that_is_done_with_is_held_no_longer(state: JobState) -> None:
    """It has no lease, no slot and no outcome to record, and nobody waits for it."""
    held_jobs = make()
    MAKERS[state](held_jobs)
    assert (len(held_jobs.leases), held_jobs.taken_slots, held_jobs.unsettled) == (0, 0, 0)
    assert (held_jobs.unstarted, held_jobs.free) == (0, 4)
    await held_jobs.wait_idle()
    await held_jobs.ended.wait_empty()


async def test_a_job_that_has_ended_keeps_no_message() -> None:
    """Many may wait to be recorded, and their messages may be large."""
    held = ended(make())
    assert not hasattr(held, "job")
    assert held.attempt is None


async def test_jobs_start_in_the_order_of_their_claims() -> None:
    """The one that waits longest for a slot is the next."""
    held_jobs = make()
    held_jobs.queue(claim(held_jobs, job(2), job(1)))
    held_jobs.queue(claim(held_jobs, job(3)))
    assert [held_jobs.start_next().key[0] for _ in range(3)] == [2, 1, 3]


async def test_a_lost_lease_ends_a_job_that_has_not_started() -> None:
    """It moves to LOST at once, also where it waits to run apart from others."""
    held_jobs = make()
    queued, apart = claim(held_jobs, job(1), job(2))
    held_jobs.queue([queued])
    assert held_jobs.leases_lost([Lease(queued, 1), Lease(apart, 1)]) == 2
    assert (queued.state, apart.state) == (JobState.LOST, JobState.LOST)
    held_jobs.queue([apart])
    assert held_jobs.unstarted == 0


async def test_a_lost_lease_stops_a_running_job_first() -> None:
    """It moves when its attempt has ended; until then it keeps its slot."""
    held_jobs = make()
    held = running(held_jobs)
    assert held_jobs.leases_lost([Lease(held, 1)]) == 1
    assert held.state is JobState.RUNNING
    assert held.attempt is not None
    assert held.attempt.abort is Abort.LEASE_LOST
    assert (len(held_jobs.leases), held_jobs.free) == (0, 3)
    assert held_jobs.leases_lost([Lease(held, 1)]) == 0, "said once"
    held_jobs.stopped(held)
    assert held_jobs.free == 4


async def test_a_lost_lease_costs_nothing_where_none_is_needed() -> None:
    """A job that has ended, or that its handler has completed, goes on as it is."""
    held_jobs = make()
    held = ended(held_jobs)
    assert held_jobs.leases_lost([Lease(held, 1)]) == 0
    assert held.state is JobState.ENDED
    held_jobs = make()
    held = running(held_jobs)
    assert held.attempt is not None
    held.attempt.was_completed = True
    assert held_jobs.leases_lost([Lease(held, 1)]) == 0
    assert held.attempt.abort is None


@pytest.mark.parametrize("state", [JobState.CLAIMED, JobState.RUNNING])
async def test_a_job_that_is_claimed_again_goes_on_under_its_new_lease(state: JobState) -> None:
    """It does not run a second time; what is said of the lease before counts no more."""
    held_jobs = make()
    held = MAKERS[state](held_jobs)
    held.job.lease_expired = True
    again = held_jobs.claim([job(1, 2, lost_attempts=1)], 5.0, 6.0)
    assert (again.to_start, again.to_release) == ([], [])
    assert (held.state, held.read_ct, held.job.read_ct, held.job.attempt) == (state, 2, 2, 2)
    assert not held.job.lease_expired
    assert held_jobs.leases_lost([Lease(held, 1)]) == 0
    held_jobs.leases.extended([Lease(held, 1)], 9.0)
    assert held.extended_at == 5.0


@pytest.mark.parametrize("reason", Abort)
async def test_a_job_that_is_being_stopped_does_not_run_beside_itself(reason: Abort) -> None:
    """Where it is claimed again, that claim is given back."""
    held_jobs = make()
    held = running(held_jobs)
    assert held.attempt is not None
    held.attempt.stop(reason)
    again = held_jobs.claim([job(1, 2)], 5.0, 6.0)
    assert again.to_start == []
    held_jobs.release(again.to_release)
    assert held.state is JobState.RUNNING
    assert held_jobs.taken_slots == 1


async def test_a_job_whose_thread_runs_on_does_not_run_beside_it() -> None:
    """Its attempt has ended, and its retry waits until the thread has ended, too."""
    held_jobs = make()
    held = running(held_jobs)
    held_jobs.running.give_up([held.key])
    held_jobs.end(held, settlement(held), 1.0)
    held_jobs.settle(held_jobs.ended.take_batch(), [])
    assert (held_jobs.taken_slots, held_jobs.free) == (1, 3)
    assert len(held_jobs.claim([job(1, 2)], 5.0, 6.0).to_release) == 1
    held_jobs.thread_ended([held.key])
    assert held_jobs.free == 4
    assert len(claim(held_jobs, job(1, 2))) == 1


@pytest.mark.parametrize(
    ("read_ct", "lost_attempts", "is_taken_up"), [(2, 1, True), (3, 2, True), (3, 1, False)]
)
async def test_an_outcome_that_waits_goes_on_under_a_new_lease(
    read_ct: int, lost_attempts: int, *, is_taken_up: bool
) -> None:
    """If the claim counts its attempt as lost. Else the attempt is recorded, and another is due."""
    held_jobs = make()
    held = ended(held_jobs)
    to_start = claim(held_jobs, job(1, read_ct, lost_attempts=lost_attempts))
    assert (to_start == []) is is_taken_up
    assert held.settlement.read_ct == held.read_ct == (read_ct if is_taken_up else 1)
    held_jobs.settle([held], [])
    assert len(held_jobs.leases) == len(to_start), "the newer lease stays"


async def test_jobs_of_one_id_are_told_apart() -> None:
    """An id may come again where a queue was made anew: it is another job."""
    held_jobs = make()
    assert len(claim(held_jobs, job(1), job(1, enqueued=7.0))) == 2
    assert len(held_jobs.leases) == 2


async def test_a_lease_is_due_by_its_age() -> None:
    """When it was claimed, or last extended, long enough ago."""
    held_jobs = make()
    one, two = claim(held_jobs, job(1), job(2))
    due = held_jobs.leases.due
    assert due(9, 10) == []
    assert due(10, 10) == [Lease(one, 1), Lease(two, 1)]
    held_jobs.leases.extended([Lease(one, 1)], 10)
    assert due(15, 10) == [Lease(two, 1)]
    held_jobs.leases_lost([Lease(two, 1)])
    assert due(99, 10) == [Lease(one, 1)]


async def test_a_limited_lease_is_not_extended_for_ever() -> None:
    """A while after its job's time limit it is left to run out, unless the job has ended."""
    held_jobs = make()
    held = running(held_jobs)
    begin(held, timeout_seconds=10)
    assert held_jobs.leases.due(19, 10) == [Lease(held, 1)]
    assert held_jobs.leases.due(20, 10) == []
    held_jobs.end(held, settlement(held), 20.0)
    assert held_jobs.leases.due(20, 10) == [Lease(held, 1)]


async def test_a_lease_that_ended_is_told_to_its_job_once() -> None:
    """The job goes on; where it is claimed again, it has a lease again."""
    held_jobs = make()
    held = running(held_jobs)
    held_jobs.leases_expired([Lease(held, 2)])
    assert not held.job.lease_expired
    held_jobs.leases_expired([Lease(held, 1)])
    assert held.job.lease_expired
    held_jobs.end(held, settlement(held), 1.0)
    held_jobs.leases_expired([Lease(held, 1)])


async def test_a_job_that_is_cut_off_is_ended_or_given_back() -> None:
    """It has no slot any more, and still a lease."""
    held_jobs = make()
    held = running(held_jobs)
    held_jobs.cut_off(held)
    assert (held_jobs.taken_slots, len(held_jobs.leases)) == (0, 1)
    assert held_jobs.leases_lost([]) == 0
    assert held_jobs.running.take_cut_off() == [held]
    assert held_jobs.running.take_cut_off() == []
    held_jobs.end(held, settlement(held, AttemptOutcome.RETRIED), 1.0)
    assert held_jobs.unsettled == 1


async def test_a_job_that_takes_no_notice_keeps_its_slot_and_gives_its_lease_up() -> None:
    """At the end of a worker; it may still end, and is lost then."""
    held_jobs = make()
    held = running(held_jobs)
    held_jobs.release_leases([held])
    assert (len(held_jobs.leases), held_jobs.taken_slots) == (0, 1)
    held_jobs.end(held, settlement(held), 1.0)
    held_jobs.settle([], held_jobs.ended.take_batch())
    assert held.state is JobState.LOST


async def test_a_message_is_read_before_its_job_may_start() -> None:
    """Until it is read, and while others take too much memory, the job waits apart."""
    held_jobs = make()
    [held] = claim(held_jobs, job(1, body=""))
    held_jobs.queue([held])
    assert (held_jobs.ready, list(held_jobs.unread.jobs)) == (0, [held])
    held.job.body = "a message that was read"
    held_jobs.was_read(held)
    assert (held_jobs.ready, sum(held_jobs.unread.sizes.values())) == (1, len(held.job.body))
    held_jobs.start_next()
    held_jobs.end(held, settlement(held), 1.0)
    assert held_jobs.unread.sizes == {}


async def test_a_message_that_cannot_be_read_ends_its_job() -> None:
    """Or loses it, where another worker has it."""
    held_jobs = make()
    refused, elsewhere = claim(held_jobs, job(1, body=""), job(2, body=""))
    held_jobs.queue([refused, elsewhere])
    held_jobs.end_unread(refused, settlement(refused, AttemptOutcome.DEAD_LETTERED))
    held_jobs.unread_lost(elsewhere)
    assert (refused.state, elsewhere.state) == (JobState.ENDED, JobState.LOST)
    await held_jobs.wait_idle()


async def test_an_interrupted_batch_is_put_back_without_what_is_done() -> None:
    """What was settled, or put off, before the interruption is not settled again."""
    held_jobs = make()
    held_jobs.queue(claim(held_jobs, *(job(n) for n in range(4))))
    for _ in range(4):
        held = held_jobs.start_next()
        held_jobs.end(held, settlement(held), 1.0)
    batch = held_jobs.ended.take_batch()
    held_jobs.settle(batch[:1], [])
    held_jobs.ended.put_off(batch[1:2])
    held_jobs.ended.put_back(batch)
    held_jobs.ended.batch_done()
    assert held_jobs.unsettled == 3
    assert held_jobs.ended.take_batch() == batch[2:]


class Life(RuleBasedStateMachine):
    """Whatever happens in whatever order: the answers agree with the states of all jobs."""

    def __init__(self) -> None:
        super().__init__()
        self.held_jobs = make(3)
        self.every: list[HeldJob] = []
        self.reads: Counter[int] = Counter()

    def of_state(self, state: JobState) -> list[HeldJob]:
        """Return the jobs of a state, the oldest first."""
        return [held for held in self.every if held.state is state]

    @rule(msg_id=st.integers(0, 5), lost_attempts=st.integers(0, 2), is_keyed=st.booleans())
    def claim(self, msg_id: int, lost_attempts: int, *, is_keyed: bool) -> None:
        """Claim a job, perhaps again, while the queue is keyed or not."""
        self.reads[msg_id] += 1
        claimed = job(msg_id, self.reads[msg_id], lost_attempts=lost_attempts)
        shares = {claimed.key: KeyShare(str(msg_id % 2), 1.0)} if is_keyed else None
        made = self.held_jobs.claim([claimed], 0, 0, shares)
        self.every += [*made.to_start, *made.to_release]
        self.held_jobs.queue(made.to_start)
        self.held_jobs.release(made.to_release)

    @precondition(lambda self: self.held_jobs.may_start)
    @rule()
    def start(self) -> None:
        """Start a job."""
        first = self.held_jobs.first_ready
        held = self.held_jobs.start_next()
        assert held is first
        begin(held)

    @precondition(lambda self: self.held_jobs.running)
    @rule(is_aborted=st.booleans())
    def end(self, *, is_aborted: bool) -> None:
        """Let an attempt end, as its slot would."""
        held = next(iter(self.held_jobs.running.jobs.values()))
        assert held.attempt is not None
        if held.attempt.abort is Abort.LEASE_LOST:
            self.held_jobs.stopped(held)
        elif is_aborted:
            self.held_jobs.release([held])
        else:
            self.held_jobs.end(held, settlement(held), 1.0)

    @precondition(lambda self: self.held_jobs.ended.has_waiting)
    @rule(is_lost=st.booleans())
    def settle(self, *, is_lost: bool) -> None:
        """Let a batch of outcomes be recorded, or found to be too late."""
        batch = self.held_jobs.ended.take_batch()
        self.held_jobs.settle(*(([], batch) if is_lost else (batch, [])))
        self.held_jobs.ended.batch_done()

    @rule()
    def release(self) -> None:
        """Give back what has not started."""
        self.held_jobs.release(self.held_jobs.take_unstarted())

    @rule(msg_id=st.integers(0, 5))
    def lose_leases(self, msg_id: int) -> None:
        """Find that the leases of a job are lost."""
        due = self.held_jobs.leases.due(1e9, 0)
        self.held_jobs.leases_lost([lease for lease in due if lease.held.key[0] == msg_id])

    @invariant()
    def each_is_in_one_place(self) -> None:
        """It is counted once, and none waits or runs beside itself."""
        held_jobs = self.held_jobs
        waiting, running = self.of_state(JobState.CLAIMED), self.of_state(JobState.RUNNING)
        assert held_jobs.unstarted == held_jobs.ready == len(waiting)
        assert {*held_jobs.running.jobs.values()} == {*running}
        assert held_jobs.free == 3 - len(running)
        assert held_jobs.unsettled == len(self.of_state(JobState.ENDED))
        assert held_jobs.is_idle.is_set() is (not waiting and not running)
        keys = [held.key for held in waiting + running]
        assert len(keys) == len(set(keys))

    @invariant()
    def none_is_kept_that_is_done_with(self) -> None:
        """Only what is held has a lease, and all of that is in the table."""
        held = {each for each in self.every if each.state in HELD}
        assert {*self.held_jobs.leases.jobs.values()} <= held
        # A later claim may have taken the place of one whose outcome waits.
        others = {each for each in held if each.state is not JobState.ENDED}
        assert others <= {*self.held_jobs.leases.jobs.values()}


HELD = {JobState.CLAIMED, JobState.RUNNING, JobState.ENDED}


TestLife = Life.TestCase
