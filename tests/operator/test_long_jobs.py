"""Scaling where jobs run longer than they may wait: slots, running jobs, and workers that stay."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import pytest

from meshhook_operator.scaling import (
    Decision,
    Fleet,
    Learned,
    Limit,
    Sample,
    ScalerState,
    ScalingSpec,
    Signal,
    WorkerReport,
    decide,
)
from meshhook_operator.scaling.guards import Gain
from meshhook_operator.scaling.holding import by_pod, held_pods
from meshhook_operator.scaling.rates import (
    ReplicaRate,
    RunTime,
    Sent,
    Starts,
    Throughput,
    busy_rate,
    throughput,
)
from meshhook_operator.scaling.supply import Supply

SPEC = ScalingSpec(max_replicas=50, min_replicas=1, target_age_seconds=30.0, tick_seconds=2.5)


@dataclass
class Workers:
    """A fleet whose jobs never end by themselves; every replica is Ready at the next tick."""

    spec: ScalingSpec = SPEC
    slots: int = 4
    learned: Learned | None = None
    now: float = 1_000.0
    sent: int = 0
    running: list[int] = field(default_factory=list)
    """How many jobs each worker runs."""
    finished: int = 0
    busy_seconds: float = 0.0
    cordoned: frozenset[int] = frozenset()
    decision: Decision | None = None

    def __post_init__(self) -> None:
        self.state = ScalerState.begin(self.now, self.learned or Learned(lead_seconds=5.0))

    def tick(
        self,
        *,
        ready: int = 0,
        arrived: int = 0,
        leased: int | None = None,
        oldest_seconds: float = 1.0,
    ) -> Decision:
        """Let a tick pass, in which every running job runs on."""
        self.now += self.spec.tick_seconds
        self.sent += arrived
        running = sum(self.running) if leased is None else leased
        self.busy_seconds += running * self.spec.tick_seconds
        reports = tuple(
            WorkerReport(
                worker=str(number),
                concurrency=self.slots,
                running=jobs,
                processed=self.finished if number == 0 else 0,
                busy_seconds=self.busy_seconds if number == 0 else 0.0,
                seen_at=self.now,
                cordoned=number in self.cordoned,
            )
            for number, jobs in enumerate(self.running)
        )
        sample = Sample(
            sampled_at=self.now,
            ready=ready,
            leased=running,
            enqueued_total=self.sent,
            workers=reports,
            oldest_ready_seconds=oldest_seconds if ready else 0.0,
        )
        replicas = len(self.running)
        fleet = Fleet(replicas=replicas, ready_replicas=replicas, created_at=0.0)
        self.decision, self.state = decide(self.spec, sample, fleet, self.state, self.now)
        return self.decision


def test_what_runs_tells_before_any_job_has_ended() -> None:
    """A slot for each waiting job is asked for while the first ones still run."""
    workers = Workers(running=[4])
    for _ in range(6):
        decision = workers.tick(ready=36)
    assert decision.estimates.run_seconds is not None
    assert decision.estimates.run_seconds >= 40
    assert decision.desired_replicas == 10


def test_messages_that_wait_get_a_slot_before_anything_is_measured() -> None:
    """A third of the target age is time enough for a guess: then each of them gets a slot."""
    spec = replace(SPEC, target_length=100)
    workers = Workers(spec=spec, running=[4])
    decision = workers.tick(ready=20, arrived=20)
    assert decision.desired_replicas == 1
    for _ in range(4):
        decision = workers.tick(ready=20, oldest_seconds=workers.now - 1_000.0)
        workers.busy_seconds = 0.0
    assert decision.recommended[Signal.DEADLINE] == 6


def test_no_more_slots_than_jobs() -> None:
    """However long jobs run, nothing is gained by more slots than there are jobs."""
    workers = Workers(running=[4] * 10, learned=Learned(replica_jobs_per_second=0.001))
    assert workers.tick(ready=8).desired_replicas == 12


def test_long_jobs_that_end_together_ask_for_no_replica() -> None:
    """When the first long jobs have ended at once, nothing waits and the fleet does not grow."""
    workers = Workers(running=[4] * 10)
    for _ in range(20):
        workers.tick()
    workers.running, workers.finished = [0] * 10, 40
    assert workers.tick().desired_replicas <= 10


def test_workers_of_long_jobs_are_held_until_they_are_known_to_be_idle() -> None:
    """A worker goes when it has said that it takes no jobs and runs none; the others stay."""
    workers = Workers(running=[1] * 10)
    for _ in range(30):
        decision = workers.tick()
    assert (decision.desired_replicas, decision.active_replicas) == (10, 1)
    assert decision.limit is Limit.FINISHING_JOBS
    workers.running = [1, 1, 1, 0, 0, 0, 0, 1, 1, 1]
    workers.cordoned = frozenset(range(3, 10))
    assert workers.tick().desired_replicas == 6


def test_cordoned_workers_take_jobs_again_before_pods_are_asked_for() -> None:
    """More jobs than the active replicas can take make cordoned ones active, at the same size."""
    workers = Workers(running=[2] * 10)
    for _ in range(30):
        decision = workers.tick()
    assert decision.active_replicas < 10
    workers.cordoned = frozenset(range(decision.active_replicas, 10))
    decision = workers.tick(ready=12, arrived=12)
    assert decision.active_replicas > 10 - len(workers.cordoned)
    assert decision.desired_replicas == 10


def test_held_workers_do_not_exceed_the_maximum() -> None:
    """A smaller maxReplicas holds at once, whatever runs."""
    workers = Workers(running=[1] * 10)
    workers.tick()
    workers.spec = replace(SPEC, max_replicas=4)
    assert workers.tick().desired_replicas == 4


def test_an_empty_queue_holds_nobody() -> None:
    """Where the database knows no running job, reports of some seconds ago hold no replica."""
    workers = Workers(running=[0] * 10)
    for _ in range(40):
        decision = workers.tick(leased=0)
    assert decision.desired_replicas == 1


@pytest.mark.parametrize(
    ("workers", "run_seconds", "held"),
    [
        pytest.param([{"running": 0}], 40.0, 1, id="idle, but may have taken a job since"),
        pytest.param([{"running": 0, "cordoned": True}], 40.0, 0, id="idle and takes none"),
        pytest.param([{"running": 1, "cordoned": True}], 40.0, 1, id="takes none and runs one"),
        pytest.param([{"running": 1, "draining": True}], 40.0, 0, id="stops already"),
        pytest.param([{"running": 4}], 1.0, 0, id="short jobs end in time"),
        pytest.param(
            [{"running": 4, "oldest_running_seconds": 11.0}], 1.0, 1, id="a long one among short"
        ),
        pytest.param([{"running": 1}], None, 1, id="nobody knows how long"),
    ],
)
def test_which_workers_are_held(
    workers: list[dict[str, Any]], run_seconds: float | None, held: int
) -> None:
    """A worker is held where stopping it may cut a job off."""
    blank = WorkerReport(
        worker="a", concurrency=4, running=0, processed=0, busy_seconds=0.0, seen_at=0.0
    )
    reports = [replace(blank, **fields) for fields in workers]
    assert held_pods([[each] for each in reports], len(reports), run_seconds, 25.0) == held


def test_a_replica_that_has_not_reported_is_held() -> None:
    """A pod that has just become Ready may have taken a job before its first report."""
    assert held_pods([], 3, 40.0, 25.0) == 3


def report_of(host: str, worker: str, **fields: Any) -> WorkerReport:
    """Return the report of an idle worker on that host."""
    blank = WorkerReport(
        worker=worker,
        host=host,
        concurrency=4,
        running=0,
        processed=0,
        busy_seconds=0.0,
        seen_at=0.0,
    )
    return replace(blank, **fields)


def test_a_pod_with_several_processes_is_held_once() -> None:
    """It goes when all of its processes have stopped taking jobs and run none."""
    pod = by_pod([report_of("w-1", "a", running=2), report_of("w-1", "b", cordoned=True)], "w-")
    assert held_pods(pod, 1, 40.0, 25.0) == 1
    pod = by_pod([report_of("w-1", name, cordoned=True) for name in "ab"], "w-")
    assert held_pods(pod, 1, 40.0, 25.0) == 0


def test_workers_elsewhere_hold_no_pod() -> None:
    """Workers of the queue on other machines count only if no pod reports under its name."""
    elsewhere = [report_of("vm-1", "x", running=4), report_of("vm-2", "y", running=4)]
    assert len(by_pod([*elsewhere, report_of("w-1", "a")], "w-")) == 1
    assert len(by_pod(elsewhere, "w-")) == 2


def supply(**fields: object) -> Supply:
    """Return two busy replicas of four slots whose jobs run for 40 seconds."""
    found: dict[str, object] = {
        "ready_replicas": 2,
        "replica_jobs_per_second": 0.1,
        "slots_a_replica": 4,
        "running": 8.0,
        "started_within": lambda _seconds: 0.0,
    }
    return Supply(**(found | fields))  # type: ignore[arg-type]


def test_jobs_that_have_just_started_free_no_slot() -> None:
    """Of jobs that all started within the last seconds, none ends within a short time."""
    fresh = supply(started_within=lambda seconds: 8.0 if seconds > 3.0 else 0.0)
    assert fresh.of_present(20.0) == 0.0
    assert supply().of_present(20.0) == 8.0


def test_free_slots_count_at_once() -> None:
    """A slot that is free starts a job whatever runs."""
    half = supply(running=4.0, started_within=lambda _seconds: 4.0)
    assert half.of_present(10.0) == 4.0


def test_short_jobs_flow() -> None:
    """Where jobs are shorter than the time, what a replica completes is what it starts."""
    assert supply(replica_jobs_per_second=4.0).of_present(10.0) == 80.0
    assert supply(replica_jobs_per_second=4.0).of_new(10.0) == 40.0
    assert supply(slots_a_replica=None).of_new(10.0) == 1.0


def test_a_new_replica_starts_a_job_in_each_slot() -> None:
    """It has free slots, so that jobs start though none ends in time."""
    assert supply().of_new(10.0) == 4.0


@pytest.mark.parametrize(("jobs", "replicas"), [(0, 0.0), (4, 1.0), (8, 2.0), (12, 3.0)])
def test_replicas_for_so_many_jobs(jobs: int, replicas: float) -> None:
    """The present replicas start what they can, and new ones the rest."""
    assert supply().replicas_for(jobs, present_seconds=20.0, new_seconds=10.0) == replicas


def sample(at: float, *, processed: int, busy: float, running: int, sent: int = 0) -> Sample:
    """Return a sample with one worker."""
    report = WorkerReport(
        worker="a",
        concurrency=10,
        running=running,
        processed=processed,
        busy_seconds=busy,
        seen_at=at,
    )
    return Sample(sampled_at=at, ready=0, enqueued_total=sent, workers=(report,))


def test_the_running_time_grows_while_nothing_ends() -> None:
    """Ten jobs that have run for five seconds without an end run longer than that on average."""
    first = sample(0.0, processed=0, busy=0.0, running=10)
    second = sample(5.0, processed=0, busy=50.0, running=10)
    third = sample(40.0, processed=10, busy=400.0, running=0)
    early = RunTime().observe(first, second)
    assert early.seconds == 50.0
    assert early.observe(second, third).seconds == pytest.approx(38.7, abs=1.5)


def test_long_jobs_in_all_slots_show_before_the_mean_follows() -> None:
    """After hundreds of short jobs, ten that run for forty seconds without an end are long."""
    seen = [
        sample(5.0 * tick, processed=50 * min(tick, 12), busy=50.0 * tick, running=10)
        for tick in range(21)
    ]
    run_time = RunTime()
    found = [run_time := run_time.observe(before, after) for before, after in pairwise(seen)]
    assert found[11].seconds == pytest.approx(1.0)
    assert found[19].seconds is not None
    assert found[19].seconds > 9.0


def test_the_rate_of_long_jobs_is_that_of_their_slots() -> None:
    """Few of them end between two samples: how long they run gives the rate of a replica."""
    long = RunTime(busy_seconds=400.0, processed=10.0)
    short = RunTime(busy_seconds=4.0, processed=10.0)
    measured = ReplicaRate(saturated=(2.0, 2.0))
    assert busy_rate(ReplicaRate(), long, 4) == pytest.approx(0.1)
    assert busy_rate(measured, long, 4) == pytest.approx(0.1)
    assert busy_rate(measured, short, 4) == 2.0
    assert busy_rate(ReplicaRate(saturated=(0.0, 0.0)), long, 4) == pytest.approx(0.1)
    assert busy_rate(ReplicaRate(), short, 4) is None
    assert busy_rate(ReplicaRate(), long, None) is None


def test_a_rate_of_full_load_is_forgotten_below_it() -> None:
    """The longer replicas are below full load, the more their bound counts; never beyond it."""
    rate = ReplicaRate(saturated=(1.0, 1.0))
    below = Throughput(jobs_per_second=1.0, replica_jobs_per_second=4.0, is_saturated=False)
    seen = [rate := rate.observe(below, 15.0) for _ in range(20)]
    found = [each.per_second or 0.0 for each in seen]
    assert found[0] == 1.0
    assert found == sorted(found)
    assert found[3] == pytest.approx(2.83, abs=0.01)
    assert 3.9 < found[-1] <= 4.0
    full = Throughput(jobs_per_second=1.0, replica_jobs_per_second=1.5, is_saturated=True)
    assert rate.observe(full, 5.0).per_second == 1.0


def test_a_full_load_that_completes_nothing_is_seen() -> None:
    """Workers whose slots are all taken while messages wait complete none: that counts as well."""
    before = replace(sample(0.0, processed=5, busy=0.0, running=10), ready=30)
    after = replace(sample(5.0, processed=5, busy=50.0, running=10), ready=30)
    seen = throughput(before, after, 1)
    assert seen == Throughput(0.0, 0.0, is_saturated=True)
    idle = replace(after, ready=0), replace(before, ready=0)
    assert throughput(idle[1], idle[0], 1) is None


def test_messages_that_wait_for_blocked_slots_get_new_ones() -> None:
    """Where replicas were fast and complete nothing now, what has waited for long gets slots."""
    workers = Workers(
        running=[4] * 3, learned=Learned(replica_jobs_per_second=8.0, lead_seconds=4.0)
    )
    workers.tick(arrived=16)
    for _ in range(5):
        decision = workers.tick(ready=16, oldest_seconds=workers.now - 1_000.0)
    assert decision.estimates.replica_jobs_per_second is not None
    assert decision.recommended[Signal.DEADLINE] == 7


def test_ages_of_running_jobs_follow_from_their_starts() -> None:
    """What started within a time is what had not been started before it."""
    samples = [
        sample(0.0, processed=0, busy=0.0, running=0),
        sample(10.0, processed=0, busy=0.0, running=4),
        sample(20.0, processed=2, busy=0.0, running=8),
    ]
    starts = Starts()
    for before, after in pairwise(samples):
        starts = starts.observe(before, after, 100.0)
    assert starts.within(5.0) == 6
    assert starts.within(0.0) == 0


def test_a_burst_is_no_rate() -> None:
    """Many messages at once do not let as many be expected; a lasting rate does."""
    burst, lasting = Sent(), Sent()
    for number in range(6):
        at = 2.5 * number
        sent = 100 if number >= 3 else 0
        burst = burst.observe(
            sample(at, processed=0, busy=0.0, running=0, sent=sent), age_seconds=60.0
        )
        lasting = lasting.observe(
            sample(at, processed=0, busy=0.0, running=0, sent=100 * number), age_seconds=60.0
        )
    assert burst.expected_per_second(2.0) == 2.0
    assert lasting.expected_per_second(2.0) == pytest.approx(34.3, abs=0.1)


def test_a_lasting_fall_shows_before_the_average_follows() -> None:
    """When nothing arrives for four intervals, no more is expected than that can explain."""
    sent = Sent()
    for number in range(8):
        total = 20 * min(number, 3)
        sent = sent.observe(
            sample(2.5 * number, processed=0, busy=0.0, running=0, sent=total), age_seconds=60.0
        )
    assert sent.expected_per_second(8.0) == pytest.approx(0.2)
    assert sent.expected_per_second(0.1) == 0.1


def test_failing_pods_do_not_count_as_slow() -> None:
    """Pods that failed for ten minutes and then started do not make the lead time ten minutes."""
    state = ScalerState.begin(0.0)
    now, sent = 0.0, 0
    for tick in range(242):
        now += 2.5
        sent += 100
        failing = 0 < tick < 240
        fleet = Fleet(
            replicas=1 if tick == 0 else 10,
            ready_replicas=1 if tick < 241 else 10,
            created_at=0.0,
            pods_failing="The image cannot be pulled." if failing else None,
        )
        seen = Sample(sampled_at=now, ready=100, enqueued_total=sent)
        _, state = decide(SPEC, seen, fleet, state, now)
    assert state.lead.seconds <= 10.0


def test_slow_pods_are_named() -> None:
    """Where a pod takes longer than a job may wait, the decision says so while messages wait."""
    workers = Workers(running=[4], learned=Learned(lead_seconds=45.0))
    for _ in range(4):
        decision = workers.tick(ready=36)
    assert decision.limit is Limit.SLOW_PODS
    assert decision.scaling_limited
    quick = Workers(running=[4])
    for _ in range(4):
        decision = quick.tick(ready=36)
    assert decision.limit is None


def test_a_queue_worked_off_forgets_growths_without_gain() -> None:
    """Once replicas are below full load, an earlier growth without gain does not count."""
    full = Throughput(jobs_per_second=10.0, replica_jobs_per_second=1.0, is_saturated=True)
    below = replace(full, is_saturated=False)
    gain = Gain(known_replicas=5, known_jobs_per_second=10.0, replicas=10, strikes=1)
    assert gain.observe(10, full, 0.0, 5.0).strikes == 1
    assert gain.observe(10, below, 0.0, 5.0).strikes == 0


def test_long_jobs_are_given_time_to_show_a_gain() -> None:
    """A growth is not judged before the jobs of the new replicas could have ended."""
    full = Throughput(jobs_per_second=10.0, replica_jobs_per_second=1.0, is_saturated=True)
    gain = Gain(known_replicas=5, known_jobs_per_second=10.0, replicas=10, since=0.0)
    long = short = gain
    for tick in range(1, 20):
        long = long.observe(10, full, 60.0, 5.0 * tick)
        short = short.observe(10, full, 1.0, 5.0 * tick)
    assert (long.known_replicas, short.known_replicas) == (5, 10)


def test_a_running_signal_of_one_keeps_workers_that_report() -> None:
    """Running jobs ask for one replica; which workers stay is decided by what they report."""
    workers = Workers(running=[1] * 4)
    assert workers.tick().recommended[Signal.RUNNING] == 1
