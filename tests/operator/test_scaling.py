"""The decision, case by case: the replicas, and the explanation."""

from dataclasses import replace

import pytest

from meshhook_operator.api.sentences import scaling_sentence
from meshhook_operator.scaling import (
    Decision,
    Failure,
    Fleet,
    Learned,
    Limit,
    Sample,
    ScalerState,
    ScalingSpec,
    Signal,
    StepLimit,
    WorkerReport,
    decide,
    default_tick_seconds,
    lookahead_seconds,
)
from support.situations import situation

DOWN = Failure(reason="SourceUnavailable", message="The database does not answer.")
LEARNED = Learned(replica_jobs_per_second=5.0, lead_seconds=8.0)


class Queue:
    """A queue and its fleet, decided about tick by tick; pods are Ready at the next tick."""

    decision: Decision

    def __init__(self, spec, *, replicas=0, learned=LEARNED, pods_start=True):
        self.spec = spec
        self.now = 1_000.0
        self.pods_start = pods_start
        self.state = ScalerState.begin(self.now, learned)
        self.fleet = Fleet(replicas=replicas, ready_replicas=replicas, created_at=self.now)
        self.sent = 0

    def tick(self, *, ready=0, arrived=0, fleet=None, failure=None, **sample):
        """Let a tick pass, and return the replicas decided."""
        self.now += self.spec.tick_seconds
        self.sent += arrived
        seen = failure or Sample(
            sampled_at=self.now, ready=ready, enqueued_total=self.sent, **sample
        )
        fleet = replace(self.fleet, **(fleet or {}))
        self.decision, self.state = decide(self.spec, seen, fleet, self.state, self.now)
        if self.decision.may_write:
            replicas = self.decision.desired_replicas
            ready_replicas = replicas if self.pods_start else self.fleet.ready_replicas
            self.fleet = replace(self.fleet, replicas=replicas, ready_replicas=ready_replicas)
        return self.decision.desired_replicas

    def ticks(self, count, **tick):
        """Let so many like ticks pass, and return what was decided in each."""
        return [self.tick(**tick) for _ in range(count)]


def spec(**changes):
    """Return settings that allow 0 to 20 replicas."""
    return ScalingSpec(**({"max_replicas": 20, "min_replicas": 0} | changes))


def test_a_message_that_somebody_holds_keeps_a_replica():
    """With nothing ready, a leased message keeps one replica until it is gone."""
    queue = Queue(spec(), replicas=1)
    assert set(queue.ticks(100, leased=1)) == {1}
    assert queue.ticks(100)[-1] == 0


def test_an_outage_changes_nothing():
    """Ten minutes without a read keep the replicas, and so does the first read."""
    queue = Queue(spec(), replicas=5)
    queue.ticks(20, ready=750, arrived=0)
    before = queue.fleet.replicas
    assert set(queue.ticks(120, failure=DOWN)) == {before}
    blind = queue.decision
    assert queue.tick(ready=10) == before
    assert (blind.limit, queue.decision.limit) == (Limit.SOURCE_UNAVAILABLE, Limit.STARTING)


def test_replicas_come_back_after_an_outage():
    """After a whole window of reads, replicas that are not needed are removed."""
    queue = Queue(spec(), replicas=5)
    queue.ticks(20, failure=DOWN)
    assert queue.ticks(20)[-1] < 5


def test_the_fallback_raises_after_three_failures():
    """At zero, the third failed read in a row starts the replicas of the fallback."""
    queue = Queue(spec(fallback_replicas=2))
    assert queue.ticks(4, failure=DOWN) == [0, 0, 2, 2]
    assert queue.decision.recommended[Signal.FALLBACK] == 2


def test_the_fallback_never_lowers():
    """A fleet larger than the fallback is kept."""
    queue = Queue(spec(fallback_replicas=2), replicas=7)
    assert set(queue.ticks(10, failure=DOWN)) == {7}


def test_blind_replicas_cover_what_arrived_last():
    """When reads begin to fail, there are at least as many replicas as arrivals need."""
    queue = Queue(spec(), replicas=5)
    queue.ticks(60, arrived=5 * 28, ready=900)
    queue.fleet = replace(queue.fleet, replicas=5, ready_replicas=5)
    queue.state = replace(queue.state, desired=5)
    assert queue.tick(failure=DOWN) == 6


def test_a_sample_that_is_not_new_counts_as_a_failure():
    """The same reading twice says nothing about now."""
    queue = Queue(spec(), replicas=3)
    sample = Sample(sampled_at=1.0, ready=0, enqueued_total=0)
    _, queue.state = decide(spec(), sample, queue.fleet, queue.state, queue.now)
    decision, _ = decide(spec(), sample, queue.fleet, queue.state, queue.now + 300)
    assert decision.desired_replicas == 3
    assert decision.limit is Limit.SOURCE_UNAVAILABLE


def test_an_empty_queue_goes_down_in_steps():
    """Five replicas never go to zero at once."""
    queue = Queue(spec(), replicas=5)
    seen = queue.ticks(40)
    assert [n for n, before in zip(seen, [5, *seen], strict=False) if n != before] == [2, 1, 0]


def test_the_last_replica_stays_for_the_cooldown():
    """An arrival renews the cooldown, and the decision says until when it lasts."""
    queue = Queue(spec(cooldown_seconds=120), replicas=1)
    queue.ticks(10)
    queue.tick(arrived=1)
    arrived_at = queue.now
    assert set(queue.ticks(23)) == {1}
    assert queue.decision.limit is Limit.COOLDOWN
    assert queue.decision.next_scale_down_at == arrived_at + 120
    assert queue.tick() == 0


def test_the_first_cooldown_begins_when_the_resource_was_made():
    """A new queue keeps its replica for a cooldown, even with nothing to do."""
    queue = Queue(spec(cooldown_seconds=200), replicas=1)
    assert queue.ticks(39)[-1] == 1
    assert queue.tick() == 0


def test_pending_pods_count_as_capacity():
    """A hundred messages whose pods are pending for ten ticks ask for no more pods."""
    queue = Queue(spec(), learned=None, pods_start=False)
    assert queue.ticks(10, ready=100, oldest_ready_seconds=50.0) == [10] * 10


def test_a_conflict_stops_every_write():
    """While something else scales the Deployment it is left alone, and the decision says what."""
    queue = Queue(spec(), replicas=1)
    who = "HorizontalPodAutoscaler default/mail also scales it."
    queue.tick(ready=5_000, arrived=5_000, fleet={"conflict": who})
    assert not queue.decision.may_write
    assert queue.decision.desired_replicas == 1
    assert (queue.decision.limit, queue.decision.conflict) == (Limit.CONFLICT, who)


def test_paused_scaling_writes_nothing():
    """A paused queue keeps what its Deployment has, even outside the limits."""
    queue = Queue(spec(max_replicas=3), replicas=9)
    queue.tick(fleet={"paused": True})
    assert not queue.decision.may_write
    assert queue.decision.desired_replicas == 9
    assert queue.decision.limit is Limit.PAUSED


def test_scaling_resumes_from_what_is_there():
    """After a pause, the replicas of the Deployment are where scaling begins."""
    queue = Queue(spec(), replicas=2)
    queue.ticks(10, ready=50)
    queue.fleet = replace(queue.fleet, replicas=8, ready_replicas=8)
    queue.ticks(2, ready=50, fleet={"paused": True})
    assert queue.tick(ready=50) >= 4


def test_nothing_goes_down_during_a_rollout():
    """Fewer replicas wait until the rollout is over."""
    queue = Queue(spec(), replicas=6)
    assert set(queue.ticks(30, fleet={"rolling_out": True})) == {6}
    assert queue.decision.limit is Limit.ROLLOUT
    assert queue.tick() == 3


def test_surge_pods_are_no_capacity():
    """The additional pods of a rollout change no decision."""
    plain, surging = Queue(spec(), replicas=4), Queue(spec(), replicas=4)
    rollout = {"rolling_out": True}
    plain.tick(ready=2_000, arrived=200, fleet=rollout)
    surging.tick(ready=2_000, arrived=200, fleet=rollout | {"ready_replicas": 7})
    assert surging.decision.recommended == plain.decision.recommended


def test_a_message_of_the_far_future_stops_nothing():
    """A message due in a hundred years neither starts nor keeps a replica."""
    queue = Queue(spec(), replicas=1)
    assert queue.ticks(100, next_due_seconds=3e9, unfinished=1)[-1] == 0
    assert queue.tick(ready=1, arrived=1, next_due_seconds=3e9) == 1


def test_replicas_that_somebody_else_changed_are_put_back():
    """What was decided last counts, not what the Deployment says."""
    queue = Queue(spec(), replicas=1)
    wanted = queue.ticks(3, ready=1_500, arrived=100)[-1]
    assert wanted > 1
    queue.fleet = replace(queue.fleet, replicas=1)
    assert queue.tick(ready=1_500, arrived=100) >= wanted


def test_a_message_wakes_an_idle_queue():
    """One ready message starts one replica, at whatever moment it is seen."""
    queue = Queue(spec())
    queue.tick()
    sample = Sample(sampled_at=queue.now + 0.2, ready=1, enqueued_total=1)
    decision, _ = decide(queue.spec, sample, queue.fleet, queue.state, queue.now + 0.2)
    assert decision.desired_replicas == 1
    assert decision.signal is Signal.BACKLOG


def test_messages_that_fall_due_wake_workers_ahead_of_time():
    """What falls due before a pod could be Ready starts replicas now."""
    queue = Queue(spec())
    assert queue.tick(due_soon=1_000, unfinished=1_000) > 1
    assert queue.decision.signal is Signal.SCHEDULED


def test_the_lookahead_is_the_lead_and_a_tick():
    """`due_soon` reaches as far as a pod asked for in the next tick takes."""
    assert lookahead_seconds(spec(), ScalerState.begin(0.0, LEARNED)) == 13.0


def test_a_replica_started_ahead_of_time_stays_until_then():
    """If pods start faster than expected, it does not stop before what it was started for."""
    queue = Queue(spec(cooldown_seconds=0, scale_down_window_seconds=0), learned=None)
    queue.ticks(20)
    ahead = lookahead_seconds(queue.spec, queue.state)
    assert queue.tick(due_soon=1, next_due_seconds=ahead) == 1
    left = [queue.tick(next_due_seconds=ahead - 5 * n) for n in range(1, int(ahead) // 5)]
    assert lookahead_seconds(queue.spec, queue.state) < ahead
    assert set(left) == {1}
    assert queue.ticks(3, due_soon=1, next_due_seconds=0.0) == [1] * 3
    assert queue.ticks(20)[-1] == 0


def test_lost_messages_ask_for_one_replica():
    """Lost messages run one at a time, so a thousand need only one replica."""
    queue = Queue(spec())
    assert set(queue.ticks(100, lost=1_000)) == {1}
    assert queue.decision.signal is Signal.RUNNING


def test_long_running_jobs_keep_their_slots():
    """Of workers that report nothing, there stays a slot for each running job."""
    queue = Queue(spec(concurrency=2), replicas=5)
    queue.ticks(40, leased=8)
    assert queue.fleet.replicas == 4
    assert queue.decision.signal is Signal.RUNNING


def test_short_jobs_keep_no_slots():
    """A stopping replica finishes short jobs, so running jobs keep no replica."""
    report = WorkerReport(
        worker="a", concurrency=2, running=2, processed=0, busy_seconds=0.0, seen_at=0.0
    )
    queue = Queue(spec(), replicas=5)
    for n in range(1, 40):
        done = replace(report, seen_at=5.0 * n, processed=10 * n, busy_seconds=10.0 * n)
        queue.tick(leased=10, workers=(done,))
    assert queue.fleet.replicas == 1


def test_the_maximum_is_said():
    """At the maximum the condition holds that scaling is limited."""
    queue = Queue(spec(max_replicas=3), replicas=1)
    assert queue.tick(ready=9_000, arrived=9_000) == 3
    assert queue.decision.limit is Limit.MAX_REPLICAS
    assert queue.decision.scaling_limited


def test_the_minimum_is_said():
    """At the minimum the decision says that fewer would do."""
    queue = Queue(spec(min_replicas=2), replicas=2)
    queue.ticks(20)
    assert queue.decision.limit is Limit.MIN_REPLICAS
    assert not queue.decision.scaling_limited


def test_a_limit_on_steps_up():
    """No more replicas come within a period than the limit allows."""
    limit = StepLimit(replicas=2, period_seconds=10)
    queue = Queue(spec(scale_up=limit), replicas=1)
    assert queue.ticks(5, ready=9_000, arrived=100) == [3, 3, 5, 5, 7]
    assert queue.decision.limit is Limit.SCALE_UP_LIMIT


def test_a_percentage_lets_the_first_replica_come():
    """A limit that is only a percentage still allows one replica where there is none."""
    queue = Queue(spec(scale_up=StepLimit(percent=100, period_seconds=5)))
    assert queue.ticks(4, ready=9_000, arrived=100) == [1, 2, 4, 8]


def test_a_limit_on_steps_down():
    """No more replicas go within a period than the limit allows."""
    limit = StepLimit(percent=10, period_seconds=20)
    queue = Queue(spec(scale_down=limit, min_replicas=1), replicas=10)
    seen = queue.ticks(18)
    assert seen[6:] == [9, 9, 9, 9, 8, 8, 8, 8, 7, 7, 7, 7]
    assert queue.decision.limit is Limit.SCALE_DOWN_LIMIT


def test_the_window_is_said():
    """While more were needed a moment ago, the decision says until when they stay."""
    queue = Queue(spec(), replicas=4)
    queue.ticks(10, ready=600)
    needed_at = queue.now
    queue.tick()
    assert queue.decision.limit is Limit.SCALE_DOWN_WINDOW
    assert queue.decision.next_scale_down_at == needed_at + queue.spec.scale_down_window_seconds


def test_new_limits_hold_at_once():
    """A smaller maximum applies to what is there, even while the queue cannot be read."""
    queue = Queue(spec(), replicas=10)
    queue.spec = spec(max_replicas=4)
    assert queue.tick(failure=DOWN) == 4


def test_a_restarted_operator_lowers_nothing_before_it_has_seen_a_window():
    """It cannot know what was needed a moment ago."""
    queue = Queue(spec(), replicas=6)
    assert set(queue.ticks(6)) == {6}
    assert queue.decision.limit is Limit.STARTING
    assert queue.tick() < 6


def test_what_was_learned_survives_a_restart():
    """A scaler that begins with what another learned does not begin with the length."""
    queue = Queue(spec(target_length=1))
    assert queue.tick(ready=40, arrived=40) == 1
    assert queue.decision.learned == LEARNED


def test_the_length_counts_until_a_rate_is_known():
    """Without any measurement there is a replica for each `target_length` messages."""
    queue = Queue(spec(target_length=5), learned=None)
    assert queue.tick(ready=20, leased=5, arrived=25) == 5


def test_the_rate_of_a_replica_is_learned_from_full_workers():
    """Two readings of full workers are enough."""
    queue = Queue(spec(), replicas=2, learned=None)
    for n in range(4):
        reports = tuple(
            WorkerReport(
                worker=name,
                concurrency=10,
                running=10,
                processed=25 * n,
                busy_seconds=50.0 * n,
                seen_at=5.0 * n,
            )
            for name in "ab"
        )
        queue.tick(ready=500, workers=reports)
    assert queue.decision.estimates.replica_jobs_per_second == pytest.approx(5.0)


def test_the_rate_of_a_replica_is_learned_without_reports():
    """Where workers report nothing, what leaves the queue tells the rate."""
    queue = Queue(spec(), replicas=2, learned=None)
    queue.tick(ready=500, unfinished=520, arrived=520)
    queue.fleet = replace(queue.fleet, replicas=2, ready_replicas=2)
    for n in range(1, 4):
        queue.state = replace(queue.state, desired=2)
        queue.fleet = replace(queue.fleet, replicas=2, ready_replicas=2)
        queue.tick(ready=500 - 50 * n, unfinished=520 - 50 * n)
    assert queue.decision.estimates.replica_jobs_per_second == pytest.approx(5.0)


def test_the_lead_is_learned():
    """From asking for pods to seeing them all Ready."""
    queue = Queue(spec(), learned=None, pods_start=False)
    queue.ticks(4, ready=30, arrived=0)
    assert queue.decision.estimates.lead_seconds == 10.0
    queue.fleet = replace(queue.fleet, ready_replicas=3)
    queue.tick(ready=30)
    assert queue.decision.estimates.lead_seconds == 17.5


def test_a_capped_count_is_carried_on():
    """Beyond the cap of the count, arrivals less what was finished tell the backlog."""
    queue = Queue(spec(), replicas=1)
    queue.tick(ready=9_000, arrived=9_000)
    queue.tick(ready=10_000, ready_is_capped=True, arrived=50_000)
    assert queue.decision.estimates.backlog == 59_000


def test_a_queue_made_anew_is_no_burst():
    """A sequence that starts over is neither arrivals nor an error."""
    queue = Queue(spec(), replicas=1)
    queue.tick(arrived=1_000_000)
    queue.sent = 0
    queue.ticks(60)
    assert queue.decision.estimates.arrivals_per_second < 100_000
    assert queue.decision.desired_replicas >= 0


def test_another_database_is_no_burst():
    """Where the sequence is further on, nothing has arrived for it."""
    queue = Queue(spec(), replicas=1)
    queue.ticks(12, arrived=40)
    before = queue.decision
    queue.sent += 100_000
    queue.state = queue.state.elsewhere()
    after = [(queue.tick(arrived=40), queue.decision) for _ in range(12)]
    assert {replicas for replicas, _ in after} == {before.desired_replicas}
    assert after[-1][1].estimates.arrivals_per_second == pytest.approx(
        before.estimates.arrivals_per_second, rel=0.2
    )


def shared_bottleneck(queue, ticks, jobs_per_second):
    """Workers that share something: more of them finish no more."""
    done: dict[int, float] = {}
    for n in range(ticks):
        count = queue.fleet.ready_replicas
        for name in range(count):
            done[name] = done.get(name, 0.0) + 5.0 * jobs_per_second / count
        reports = tuple(
            WorkerReport(
                worker=str(name),
                concurrency=10,
                running=10,
                processed=round(done[name]),
                busy_seconds=50.0 * (n + 1),
                seen_at=5.0 * n,
            )
            for name in range(count)
        )
        queue.tick(ready=9_000, arrived=5_000, workers=reports, oldest_ready_seconds=55.0)


def test_steps_that_gain_nothing_end():
    """Two steps up without more throughput hold the fleet, and the condition says why."""
    limit = StepLimit(percent=50, period_seconds=60)
    queue = Queue(spec(max_replicas=1_000, scale_up=limit), replicas=4)
    shared_bottleneck(queue, 60, jobs_per_second=20)
    assert queue.fleet.replicas < 40
    assert queue.decision.limit is Limit.NO_THROUGHPUT_GAIN
    assert queue.decision.scaling_limited


def test_the_hold_ends():
    """Five minutes later it is tried again."""
    limit = StepLimit(percent=50, period_seconds=60)
    queue = Queue(spec(max_replicas=1_000, scale_up=limit), replicas=4)
    shared_bottleneck(queue, 60, jobs_per_second=20)
    held = queue.fleet.replicas
    shared_bottleneck(queue, 70, jobs_per_second=20)
    assert queue.fleet.replicas > held


CRASHES = "Container worker of 3 of 3 pods crashes again and again."


def test_pods_that_fail_are_not_answered_with_more():
    """While pods do not start, a growing backlog holds the fleet, and the pods' reason is told."""
    queue = Queue(spec(), replicas=3, pods_start=False)
    queue.fleet = replace(queue.fleet, ready_replicas=0, pods_failing=CRASHES)
    for backlog in (100, 1_000, 9_000):
        assert queue.tick(ready=backlog, arrived=backlog) == 3
    assert queue.decision.limit is Limit.PODS_FAILING
    assert queue.decision.scaling_limited
    assert CRASHES in scaling_sentence(situation(queue.decision))


def test_a_fleet_that_recovers_grows():
    """Once the pods start, the backlog is answered at the next tick."""
    queue = Queue(spec(), replicas=3)
    queue.tick(ready=1_000, arrived=1_000, fleet={"pods_failing": CRASHES})
    assert queue.tick(ready=1_000) > 3
    assert queue.decision.limit is not Limit.PODS_FAILING


def test_failing_pods_do_not_hold_what_is_not_needed():
    """A fleet of failing pods is still scaled down, and its minimum is still asked for."""
    queue = Queue(spec(min_replicas=2), replicas=8, pods_start=False)
    queue.fleet = replace(queue.fleet, ready_replicas=0, pods_failing=CRASHES)
    assert queue.ticks(40)[-1] == 2
    queue.spec = spec(min_replicas=5)
    assert queue.tick() == 5
    assert not queue.decision.scaling_limited


def test_an_idle_queue_is_woken_whatever_its_last_pods_did():
    """Without pods, none can fail: the first message asks for one."""
    queue = Queue(spec())
    assert queue.tick(ready=1, arrived=1, fleet={"pods_failing": CRASHES}) == 1


@pytest.mark.parametrize(
    ("age_seconds", "tick_seconds"), [(5, 1.0), (15, 1.25), (60, 5.0), (3_600, 5.0)]
)
def test_the_tick_follows_the_target_age(age_seconds, tick_seconds):
    """A short target is looked at more often."""
    assert default_tick_seconds(age_seconds) == tick_seconds


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"max_replicas": 0}, "max_replicas must be at least 1, got 0"),
        ({"min_replicas": 21}, "min_replicas must be 0 to max_replicas"),
        ({"target_age_seconds": 0}, "target_age_seconds must be above 0"),
        ({"cooldown_seconds": -1}, "cooldown_seconds must not be negative"),
        ({"concurrency": 0}, "concurrency must be at least 1"),
    ],
)
def test_a_spec_out_of_range_is_refused(changes, words):
    """The message names the field and the value."""
    with pytest.raises(ValueError, match=words):
        spec(**changes)


def test_a_step_limit_must_limit():
    """One that says nothing is refused."""
    with pytest.raises(ValueError, match="leave the limit out"):
        StepLimit()
