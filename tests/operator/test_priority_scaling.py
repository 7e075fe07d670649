"""Scaling of queues with priorities: each band starts within its own target."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshhook.priorities import PRIORITY_NAMES, Priority
from meshhook_operator.api.sentences import scaling_sentence
from meshhook_operator.api.status import PriorityStatus
from meshhook_operator.scaling import (
    Band,
    Decision,
    Fleet,
    Learned,
    Limit,
    Sample,
    ScalerState,
    ScalingSpec,
    WorkerReport,
    decide,
    default_tick_seconds,
)
from support.situations import queue_status, situation

TARGETS = (5.0, 15.0, 60.0, 600.0)
LEARNED = Learned(replica_jobs_per_second=5.0, lead_seconds=3.0)

bands = st.builds(
    lambda ready, aged_share, running, due_soon, oldest: {
        "ready": ready,
        "aged": int(ready * aged_share),
        "running": running,
        "due_soon": due_soon,
        "oldest_ready_seconds": oldest if ready else 0.0,
    },
    ready=st.just(0) | st.integers(0, 9_999),
    aged_share=st.sampled_from([0.0, 0.5, 1.0]),
    running=st.integers(0, 50),
    due_soon=st.just(0) | st.integers(0, 500),
    oldest=st.floats(0.0, 2_000.0),
)
queues = st.tuples(bands, bands, bands, bands)
targets = st.lists(st.floats(0.1, 3_600.0), min_size=4, max_size=4).map(sorted)
measured = st.builds(
    Learned, replica_jobs_per_second=st.floats(0.01, 1_000.0), lead_seconds=st.floats(0.0, 120.0)
)
ticks = st.lists(st.tuples(st.floats(0.5, 30.0), st.integers(0, 2_000), queues), max_size=8)


def spec_of(target_seconds: float = 60.0, **fields: Any) -> ScalingSpec:
    """Return the settings of a queue whose limits never bind."""
    return ScalingSpec(
        min_replicas=0,
        max_replicas=1_000_000,
        target_age_seconds=target_seconds,
        tick_seconds=default_tick_seconds(TARGETS[0]),
        **fields,
    )


def sample_of(
    found: Any,
    target_seconds: Any = TARGETS,
    *,
    at: float = 1_000.0,
    sent: int = 0,
    slots: int = 10,
) -> Sample:
    """Return a sample with these bands, and a worker for what they run."""
    made = tuple(
        Band(target_seconds=seconds, **band)
        for seconds, band in zip(target_seconds, found, strict=True)
    )
    return Sample(
        sampled_at=at,
        ready=sum(band.ready for band in made),
        due_soon=sum(band.due_soon for band in made),
        leased=sum(band.running for band in made),
        oldest_ready_seconds=max(band.oldest_ready_seconds for band in made),
        enqueued_total=sent,
        bands=made,
        workers=(
            WorkerReport(
                worker="a", concurrency=slots, running=1, processed=1, busy_seconds=1.0, seen_at=at
            ),
        ),
    )


def only(band: int, **numbers: Any) -> list[dict[str, Any]]:
    """Return four bands, of which one has messages."""
    return [numbers if each == band else {} for each in range(4)]


def decided(sample: Sample, *, replicas: int = 1, learned: Learned = LEARNED) -> Decision:
    """Return the first decision about a queue."""
    fleet = Fleet(replicas=replicas, ready_replicas=replicas, created_at=0.0)
    return decide(spec_of(), sample, fleet, ScalerState.begin(0.0, learned), 1_000.0)[0]


def wish(decision: Decision) -> int:
    """Return how many replicas the signals ask for."""
    return max(decision.recommended.values())


def story_of(
    ticks_before: Any, spec: ScalingSpec, learned: Learned, *, strip: bool = False, band: int = -1
) -> tuple[ScalerState, Fleet, float, int]:
    """Play ticks; with `band`, everything is in that one, and with `strip` nobody says so."""
    now, sent = 1_000.0, 0
    state = ScalerState.begin(now, learned)
    fleet = Fleet(replicas=1, ready_replicas=1, created_at=now)
    for seconds, arrived, found in ticks_before:
        now, sent = now + seconds, sent + arrived
        sample = sample_of(only(band, **found[band]) if band >= 0 else found, at=now, sent=sent)
        sample = replace(sample, bands=()) if strip else sample
        decision, state = decide(spec, sample, fleet, state, now)
        fleet = replace(fleet, replicas=decision.desired_replicas)
    return state, fleet, now, sent


@given(ticks, queues, st.integers(0, 3), measured)
def test_one_band_alone_is_planned_as_a_queue_with_its_target(
    story: Any, found: Any, band: int, learned: Learned
) -> None:
    """The same replicas at each tick, whatever the band, arrivals, deadlines and schedules."""
    with_bands, plain = spec_of(), spec_of(TARGETS[band])
    state, fleet, now, sent = story_of(story, with_bands, learned, band=band)
    as_plain, plain_fleet, _, _ = story_of(story, plain, learned, band=band, strip=True)
    assert fleet == plain_fleet
    sample = sample_of(only(band, **found[band]), at=now + 2, sent=sent + 50)
    decision, _ = decide(with_bands, sample, fleet, state, now + 2)
    expected, _ = decide(plain, replace(sample, bands=()), fleet, as_plain, now + 2)
    if sample.ready or sample.due_soon or sample.leased:
        assert decision.recommended == expected.recommended
        assert decision.desired_replicas == expected.desired_replicas


@given(queues, targets, st.integers(0, 3), st.integers(1, 20_000), measured)
def test_more_jobs_in_a_band_never_lower_the_wish(
    found: Any, target_seconds: Any, band: int, more: int, learned: Learned
) -> None:
    """Neither for the band, nor for a more or a less urgent one."""
    fewer = decided(sample_of(found, target_seconds), learned=learned)
    added = [dict(each) for each in found]
    added[band]["ready"] += more
    # The oldest stays: so much later jobs are no reason for it to have waited less.
    added[band]["oldest_ready_seconds"] = found[band]["oldest_ready_seconds"]
    decision = decided(sample_of(added, target_seconds), learned=learned)
    assert wish(decision) >= wish(fewer)
    for signal, replicas in fewer.recommended.items():
        assert decision.recommended[signal] >= replicas


@given(ticks, queues, st.integers(0, 3), st.integers(1, 5_000), measured)
def test_more_jobs_never_lower_the_wish_after_arrivals(
    story: Any, found: Any, band: int, more: int, learned: Learned
) -> None:
    """With the same messages sent: which band they are of is an estimate from earlier samples."""
    state, fleet, now, sent = story_of(story, spec_of(), learned)
    if not any(each["ready"] or each["running"] for _, _, seen in story for each in seen):
        return  # what the first messages are tells what arrives
    fewer, _ = decide(spec_of(), sample_of(found, at=now + 2, sent=sent), fleet, state, now + 2)
    added = [dict(each) for each in found]
    added[band]["ready"] += more
    sample = sample_of(added, at=now + 2, sent=sent)
    decision, _ = decide(spec_of(), sample, fleet, state, now + 2)
    assert wish(decision) >= wish(fewer)


@pytest.mark.parametrize("jobs", [100, 1_000, 9_000])
def test_urgent_jobs_ask_for_more_than_low_ones(jobs: int) -> None:
    """The shorter the target, the more replicas the same jobs need."""
    wishes = [wish(decided(sample_of(only(band, ready=jobs)))) for band in range(4)]
    assert wishes == sorted(wishes, reverse=True)
    assert wishes[Priority.URGENT] >= 5 * wishes[Priority.LOW]


def test_a_flood_of_low_jobs_asks_for_what_their_target_needs() -> None:
    """A few urgent jobs beside it need no replica for each low job within the urgent target."""
    flood = only(Priority.LOW, ready=9_000, oldest_ready_seconds=30.0)
    low_alone = decided(sample_of(flood), replicas=10)
    flood[Priority.URGENT] = {"ready": 20, "oldest_ready_seconds": 1.0}
    both = decided(sample_of(flood), replicas=10)
    all_urgent = decided(sample_of(only(Priority.URGENT, ready=9_020)), replicas=10)
    assert wish(low_alone) <= wish(both) <= wish(low_alone) + 2
    assert wish(all_urgent) > 10 * wish(both)


def test_urgent_jobs_that_wait_ask_whatever_the_low_ones_ask() -> None:
    """A backlog of urgent jobs is worked off within their target, and the band is named."""
    found = only(Priority.LOW, ready=500, oldest_ready_seconds=30.0)
    found[Priority.URGENT] = {"ready": 400, "oldest_ready_seconds": 12.0}
    decision = decided(sample_of(found))
    alone = decided(sample_of(only(Priority.URGENT, ready=400, oldest_ready_seconds=12.0)))
    assert wish(decision) >= wish(alone)
    assert (decision.band, decision.band_target_seconds) == (Priority.URGENT, 5.0)


def test_what_is_more_urgent_is_served_before() -> None:
    """Normal jobs wait for the urgent and high ones too, so these count for their target."""
    found = only(Priority.NORMAL, ready=600)
    alone = wish(decided(sample_of(found)))
    found[Priority.HIGH] = {"ready": 600}
    more_urgent = wish(decided(sample_of(found)))
    found[Priority.LOW] = {"ready": 600}
    assert more_urgent > alone
    assert wish(decided(sample_of(found))) == more_urgent


def test_aged_jobs_take_a_quarter_of_the_claims() -> None:
    """While aged low jobs wait, urgent ones need a third more; young ones make no difference."""
    found = only(Priority.LOW, ready=5_000, oldest_ready_seconds=400.0)
    found[Priority.URGENT] = {"ready": 3_000}
    young = wish(decided(sample_of(found)))
    found[Priority.LOW] = {"ready": 5_000, "aged": 5_000, "oldest_ready_seconds": 500.0}
    aged = wish(decided(sample_of(found)))
    assert young < aged <= young * 4 / 3 + 1


def test_aged_jobs_do_not_wait_for_all_that_is_more_urgent() -> None:
    """Ten late jobs need what serves forty, not what serves the whole flood before them."""
    found = only(Priority.NORMAL, ready=10, aged=10, oldest_ready_seconds=55.0)
    alone = wish(decided(sample_of(found)))
    found[Priority.HIGH] = {"ready": 60}
    assert wish(decided(sample_of(found))) <= 4 * alone + 6


def test_a_schedule_of_an_urgent_job_is_planned_for() -> None:
    """What falls due soon counts in its band."""
    urgent = decided(sample_of(only(Priority.URGENT, due_soon=500)))
    low = decided(sample_of(only(Priority.LOW, due_soon=500)))
    assert wish(urgent) > wish(low)


def test_priorities_that_are_turned_on_forget_nothing() -> None:
    """The arrivals that were measured before still count; turned off again, too."""
    spec, now, sent = spec_of(), 1_000.0, 0
    state = ScalerState.begin(now, LEARNED)
    fleet = Fleet(replicas=8, ready_replicas=8, created_at=0.0)
    for number in range(60):
        now, sent = now + 1, sent + 40
        sample = sample_of(only(Priority.NORMAL, running=40), at=now, sent=sent)
        if not 20 <= number < 40:
            sample = replace(sample, bands=())
        decision, state = decide(spec, sample, fleet, state, now)
        if number > 10:
            assert decision.estimates.arrivals_per_second > 10
            assert decision.desired_replicas >= 6


def test_another_database_has_other_bands() -> None:
    """What was sent there is not compared with what was sent here."""
    found = sample_of(only(Priority.URGENT, ready=5), sent=1_000)
    fleet = Fleet(replicas=1, ready_replicas=1, created_at=0.0)
    _, state = decide(spec_of(), found, fleet, ScalerState.begin(0.0, LEARNED), 1_000.0)
    assert state.bands
    assert state.elsewhere().bands == ()


def test_slow_pods_are_those_slower_than_the_target_that_is_missed() -> None:
    """A lead of 20 s is too long for urgent jobs, and not for low ones."""
    learned = Learned(replica_jobs_per_second=5.0, lead_seconds=20.0)
    urgent = decided(sample_of(only(Priority.URGENT, ready=100)), learned=learned)
    low = decided(sample_of(only(Priority.LOW, ready=5_000)), learned=learned)
    assert (urgent.limit, low.limit) == (Limit.SLOW_PODS, None)


def test_the_sentence_names_the_band() -> None:
    """Which priority needs the replicas, and how long its jobs wait of their target."""
    found = only(Priority.LOW, ready=500, oldest_ready_seconds=30.0)
    found[Priority.URGENT] = {"ready": 400, "oldest_ready_seconds": 12.0}
    priorities = {
        name: PriorityStatus(
            ready=band.get("ready", 0),
            oldest_ready_seconds=int(band.get("oldest_ready_seconds", 0)),
            target_seconds=seconds,
        )
        for name, band, seconds in zip(PRIORITY_NAMES, found, TARGETS, strict=True)
    }
    queue = queue_status(ready=900, oldest_ready_seconds=30, priorities=priorities)
    told = scaling_sentence(situation(decided(sample_of(found)), queue=queue))
    assert "needed to start urgent jobs within 5 s (urgent jobs wait 12 s of 5 s)" in told
    assert "targetAgeSeconds" not in told
