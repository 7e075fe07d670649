"""What is served before the jobs of each band, and what is remembered of their arrivals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from meshhook.priorities import Priority
from meshhook_operator.scaling import Band, Sample, ScalingSpec
from meshhook_operator.scaling.band_demand import BandDemand, demand_by_band
from meshhook_operator.scaling.band_memory import (
    BandMemory,
    band_demands,
    remember_arrivals,
    remember_sent,
    shares,
)
from meshhook_operator.scaling.rates import ArrivalRate, Sent
from meshhook_operator.scaling.targets import Demand, targets

TARGETS = (5.0, 15.0, 60.0, 600.0)


def bands_of(**lists: Any) -> tuple[BandDemand, ...]:
    """Return four bands; each argument has one value for each of them."""
    nothing: dict[str, Any] = {
        "ready": 0.0,
        "aged": 0.0,
        "due_soon": 0,
        "waiting": (),
        "arrivals_per_second": 40.0,
        "expected_per_second": 20.0,
        "share": 0.0,
    }
    if "due_soon_of" in lists:
        lists["due_soon"] = lists.pop("due_soon_of")
    return tuple(
        BandDemand(target_seconds=target, **nothing | {name: lists[name][i] for name in lists})
        for i, target in enumerate(TARGETS)
    )


def demand_of(due_soon: int = 0, **lists: Any) -> Demand:
    """Return the demand of a queue with four bands."""
    return Demand(
        ready=0.0,
        lost=0,
        due_soon=due_soon,
        running=0,
        waiting=(),
        arrivals_per_second=0.0,
        expected_per_second=0.0,
        ready_replicas=1,
        slots_a_replica=10,
        workers_report=True,
        runs_are_long=False,
        replica_jobs_per_second=5.0,
        latest_rate=5.0,
        started_within=lambda _: None,
        highest_rate=5.0,
        lead_seconds=3.0,
        bands=bands_of(**lists),
    )


def plans(due_soon: int = 0, **lists: Any) -> list[Demand]:
    """Return the demand that each band with work is planned for."""
    return [each for _, _, each in demand_by_band(demand_of(due_soon, **lists))]


def sample_of(*bands: Any, at: float = 0.0, sent: int = 0) -> Sample:
    """Return a sample with these bands: ready, running and the seconds of the oldest."""
    found = tuple(
        Band(target_seconds=target, ready=ready, running=running, oldest_ready_seconds=oldest)
        for target, (ready, running, oldest) in zip(TARGETS, bands, strict=True)
    )
    return Sample(sampled_at=at, ready=0, enqueued_total=sent, bands=found)


NOTHING = (0, 0, 0.0)


def test_what_is_more_urgent_counts() -> None:
    """A band waits for the bands above it and for itself; one without work is not planned for."""
    found = plans(due_soon=9, ready=[10.0, 0.0, 30.0, 40.0])
    assert [each.ready for each in found] == [10, 40, 80]
    assert [each.due_soon for each in found] == [0, 0, 9]


def test_each_band_is_planned_for_with_its_own_target() -> None:
    """Its number and target come with what it waits for."""
    found = [(each, target) for each, target, _ in demand_by_band(demand_of(ready=[1.0] * 4))]
    assert found == list(enumerate(TARGETS))


def test_the_largest_need_of_any_band_counts() -> None:
    """Of growth and of what must stay, and whichever band it is of."""
    spec = ScalingSpec(max_replicas=100)
    for ready, leading in (([400.0, 0.0, 10.0, 0.0], 0), ([10.0, 0.0, 0.0, 90_000.0], 3)):
        demand = demand_of(ready=ready)
        alone = {
            band: targets(replace(spec, target_age_seconds=target), of_band)
            for band, target, of_band in demand_by_band(demand)
        }
        needs = [max(each.up.values()) for each in alone.values()]
        stays = [each.down for each in alone.values()]
        assert min(stays) < max(stays)
        found = targets(spec, demand)
        assert max(found.up.values()) == max(needs) > min(needs)
        assert found.down == max(stays)
        assert found.band == leading


def test_of_bands_that_need_as_many_the_most_urgent_is_named() -> None:
    """That is the one to look at first."""
    demand = replace(demand_of(ready=[0.0, 1.0, 1.0, 1.0]), replica_jobs_per_second=None)
    assert targets(ScalingSpec(max_replicas=100), demand).band == 1


def test_what_falls_due_counts_as_what_is_ready() -> None:
    """That of the bands above, and of the band; the lowest takes what is of no known band, too."""
    assert [each.due_soon for each in plans(due_soon=9, due_soon_of=[1, 2, 4, 0])] == [1, 3, 9]


def test_aged_jobs_below_count_among_those_that_waited() -> None:
    """Beside ten high jobs that have waited, a third as many aged low ones start."""
    waiting = [(), ((5.0, 9.0),), (), ()]
    found = plans(ready=[0.0, 9.0, 0.0, 50.0], aged=[0.0, 0.0, 0.0, 50.0], waiting=waiting)
    assert found[0].waiting == ((5.0, 12.0),)


def test_aged_jobs_below_count_up_to_a_quarter_of_what_starts() -> None:
    """Beside 30 urgent jobs ten aged ones start, or as many as there are."""
    assert plans(ready=[30.0, 0.0, 0.0, 100.0], aged=[0.0, 0.0, 0.0, 100.0])[0].ready == 40
    assert plans(ready=[30.0, 0.0, 0.0, 100.0], aged=[0.0, 0.0, 0.0, 5.0])[0].ready == 35


@pytest.mark.parametrize(
    ("high", "age", "start"),
    [(60.0, 10.0, 70.0), (60.0, 47.9, 70.0), (60.0, 48.0, 40.0), (20.0, 50.0, 30.0)],
)
def test_aged_jobs_wait_for_four_times_their_number_at_the_most(
    high: float, age: float, start: float
) -> None:
    """Ten normal jobs behind high ones: all of these go first until the ten are aged."""
    waiting = [(), (), ((age, 10.0),), ()]
    found = plans(ready=[0.0, high, 10.0, 0.0], waiting=waiting)
    assert found[1].waiting == ((age, start),)


def test_arrivals_are_those_of_the_band_and_of_more_urgent_ones() -> None:
    """The lowest band with work has all of them; what is more urgent goes ahead."""
    found = plans(ready=[1.0, 0.0, 1.0, 0.0], share=[0.25, 0.0, 0.5, 0.0])
    assert [each.arrivals_per_second for each in found] == [10, 40]
    assert [each.expected_per_second for each in found] == [5, 20]
    assert [each.ahead_per_second for each in found] == [0, 5]
    found = plans(ready=[1.0, 1.0, 1.0, 0.0], share=[0.25, 0.5, 0.25, 0.0])
    assert [each.arrivals_per_second for each in found] == [10, 30, 40]
    assert [each.expected_per_second for each in found] == [5, 15, 20]
    assert [each.ahead_per_second for each in found] == [0, 5, 15]


def test_a_queue_without_work_is_that_of_normal_jobs() -> None:
    """As long as nobody knows what arrives, all of it is normal."""
    [(band, target, found)] = demand_by_band(demand_of())
    assert (band, target) == (Priority.NORMAL, 60)
    assert (found.ready, found.arrivals_per_second) == (0, 40)


def test_shares_follow_from_what_is_in_the_queue() -> None:
    """A hundred that wait 9 s and run 1 s arrive as often as 20 that wait and run 2 s."""
    found = sample_of((0, 20, 1.0), NOTHING, NOTHING, (90, 10, 9.0))
    assert shares(found.bands, run_seconds=1.0) == [0.5, 0, 0, 0.5]
    assert shares(sample_of(*[NOTHING] * 4).bands, run_seconds=1.0) is None


def test_the_shares_are_those_of_the_sample_before() -> None:
    """A new band shows one sample later; the first shares are known at once."""
    memory = (BandMemory(share=1.0), *[BandMemory(share=0.0)] * 3)
    before = sample_of((10, 0, 1.0), NOTHING, NOTHING, NOTHING)
    after = sample_of(NOTHING, NOTHING, NOTHING, (10, 0, 1.0), at=20.0)
    given: Any = {"arrived": 0, "run_seconds": 0.0, "half_life_seconds": lambda _: 20.0}
    found = remember_arrivals(memory, before, after, **given)
    assert [each.share for each in found] == [1, 0, 0, 0]
    found = remember_arrivals((BandMemory(),) * 4, sample_of(*[NOTHING] * 4), after, **given)
    assert [each.share for each in found] == [0, 0, 0, 1]
    later = sample_of(NOTHING, NOTHING, NOTHING, (10, 0, 1.0), at=40.0)
    found = remember_arrivals(memory, after, later, **given)
    assert [each.share for each in found] == [0.5, 0, 0, 0.5], "half of it after a half-life"


def test_each_band_is_remembered_for_as_long_as_its_target_asks() -> None:
    """What was sent a minute ago says nothing of urgent jobs, and much of low ones."""
    arrivals, sent = ArrivalRate(), Sent(((40.0, 1), (92.0, 5)))
    sample = sample_of(*[NOTHING] * 4, at=100.0, sent=9)
    made = remember_sent((), sample, arrivals=arrivals, sent=sent)
    assert [each.sent.moments[0] for each in made] == [(100, 9), (92, 5), (40, 1), (40, 1)]
    asked: list[float] = []

    def half_life_seconds(target_seconds: float) -> float:
        asked.append(target_seconds)
        return target_seconds

    later = sample_of(*[NOTHING] * 4, at=110.0, sent=109)
    found = remember_arrivals(
        made, sample, later, arrived=100, run_seconds=1.0, half_life_seconds=half_life_seconds
    )
    assert tuple(asked) == TARGETS
    rates = [each.arrivals.per_second for each in found]
    assert rates == sorted(set(rates), reverse=True), "the shorter the target, the sooner it rises"


def test_what_was_not_counted_is_of_the_lowest_of_two_that_have_more() -> None:
    """Workers serve it last."""
    found = (
        Band(target_seconds=5.0, ready=10_000, is_capped=True),
        Band(target_seconds=15.0),
        Band(target_seconds=60.0, ready=10_000, is_capped=True, aged=40),
        Band(target_seconds=600.0, ready=7, aged=7),
    )
    sample = Sample(sampled_at=1.0, ready=20_007, enqueued_total=0, bands=found)
    memory = remember_sent((), sample, arrivals=ArrivalRate(), sent=Sent())
    made = band_demands(memory, sample, 50_007.0)
    assert [each.ready for each in made] == [10_000, 0, 40_000, 7]
    assert [each.aged for each in made] == [0, 0, 40, 7]
    assert [each.ready for each in band_demands(memory, sample, 5.0)] == [10_000, 0, 10_000, 7]


def test_new_bands_begin_with_what_is_known_of_the_queue() -> None:
    """When priorities are turned on, the arrivals before are not forgotten."""
    arrivals, sent = ArrivalRate(7.0), Sent(((9.0, 1),))
    sample = sample_of(*[NOTHING] * 4, at=10.0, sent=2)
    found = remember_sent((), sample, arrivals=arrivals, sent=sent)
    assert [each.arrivals for each in found] == [arrivals] * 4
    assert [each.sent.moments for each in found] == [((9.0, 1), (10.0, 2))] * 4


def test_a_burst_of_low_jobs_does_not_make_urgent_ones_young() -> None:
    """Of 2,000 sent in the last 3 s all are low: the five urgent ones wait for longer."""
    sent = Sent(((96.0, 0), (97.0, 5), (100.0, 2_005)))
    memory = (BandMemory(sent=sent, share=0.5), *[BandMemory(sent=sent, share=0.5)] * 3)
    found = band_demands(
        memory, sample_of((5, 0, 3.5), NOTHING, NOTHING, (2_000, 0, 2.9), at=100.0), 2_005
    )
    assert found[0].waiting == ((3.0, 5.0), (0.0, 5.0))


def test_what_was_not_counted_is_of_the_lowest_band_that_has_more() -> None:
    """The estimate of the backlog beyond the counts goes to the band whose count was cut short."""
    found = (
        Band(target_seconds=5.0, ready=3),
        Band(target_seconds=15.0),
        Band(target_seconds=60.0, ready=10_000, is_capped=True, aged=10_000),
        Band(target_seconds=600.0, ready=7),
    )
    sample = Sample(sampled_at=1.0, ready=10_010, enqueued_total=0, bands=found)
    memory = remember_sent((), sample, arrivals=ArrivalRate(), sent=Sent())
    made = band_demands(memory, sample, 50_010.0)
    assert [each.ready for each in made] == [3, 0, 50_000, 7]
    assert [each.aged for each in made] == [0, 0, 50_000, 0]


def test_ages_are_those_between_the_oldest_job_and_now() -> None:
    """Of five urgent jobs one was sent in the last second; nothing waits that is older."""
    sent = Sent(((90.0, 0), (98.0, 0), (99.0, 4), (100.0, 5)))
    memory = (BandMemory(sent=sent, share=1.0), *[BandMemory(sent=sent, share=0.0)] * 3)
    for oldest in (1.0, 3.0):
        sample = sample_of((5, 0, oldest), NOTHING, NOTHING, NOTHING, at=100.0)
        assert band_demands(memory, sample, 5)[0].waiting == ((1.0, 4.0), (0.0, 5.0))
    # More low jobs came than were sent: then none of the urgent ones is known to be young.
    sample = sample_of((5, 0, 1.0), NOTHING, NOTHING, (3_000, 0, 1.0), at=100.0)
    assert band_demands(memory, sample, 3_005)[0].waiting == ((1.0, 5.0), (0.0, 5.0))


def test_a_rise_is_expected_to_last() -> None:
    """Before the average follows, the last intervals show it."""
    sent = Sent(tuple((10.0 * n, 1_000 * n) for n in range(6)))
    memory = (BandMemory(sent=sent),) * 4
    found = band_demands(memory, sample_of(*[NOTHING] * 4, at=50.0, sent=5_000), 0)
    assert found[0].arrivals_per_second == 0
    assert 90 < found[0].expected_per_second < 100
