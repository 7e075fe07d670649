"""Where claims of a queue with priorities look."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from meshhook.jobs import Job
from meshhook.priorities import Priority
from meshhook.store.claims import EVERYTHING, Claim, ClaimClass
from meshhook.worker.claim_window import LOW_MARGIN, WHOLE_SECONDS
from meshhook.worker.priority_windows import NOWHERE, PriorityLook, PriorityWindows, places_of

URGENT, HIGH, NORMAL, LOW = Priority
NOW = datetime(2026, 1, 1, tzinfo=UTC)
TIMESTAMP = NOW.timestamp()


def claimed(*found: tuple[int, float], claim_class: ClaimClass = ClaimClass.HEALTHY) -> Claim:
    """Return a claim of jobs of these bands, which have been ready for so many seconds."""
    jobs: list[Job[Any]] = [
        Job(
            queue="jobs",
            msg_id=number,
            attempt=1,
            max_attempts=5,
            enqueued_timestamp=0.0,
            ready_timestamp=TIMESTAMP - age_seconds,
            claimed_timestamp=TIMESTAMP,
            headers={},
            body="null",
        )
        for number, (_, age_seconds) in enumerate(found)
    ]
    bands = {job.key: band for job, (band, _) in zip(jobs, found, strict=True)}
    jobs.sort(key=lambda job: job.ready_timestamp)
    return Claim(jobs, claim_class, bands=bands, asked_timestamp=TIMESTAMP)


def looked(
    windows: PriorityWindows, found: Claim, at: float, seconds: float = 0.001, limit: int = 10
) -> PriorityLook:
    """Claim once, and note what was found."""
    look = windows.next_look(limit, LOW, at)
    windows.looked(look, found, at, at + seconds)
    return look


def low_of(look: PriorityLook, band: int) -> datetime:
    """Return where a claim begins in a band."""
    return look.ranges[band].from_vt


def test_the_first_claim_looks_everywhere() -> None:
    """Nothing is known yet."""
    look = PriorityWindows().next_look(10, LOW, 0.0)
    assert {each.from_vt for each in look.ranges} == {EVERYTHING}
    assert look.swept == (0, 1, 2, 3)


def test_each_band_begins_at_its_own_oldest_job() -> None:
    """The backlog of one band does not move where another begins."""
    windows = PriorityWindows()
    found = claimed((LOW, 500.0), (LOW, 400.0), (URGENT, 0.5), (HIGH, 3.0))
    looked(windows, found, 0.0, limit=4)
    look = windows.next_look(10, LOW, 0.01)
    assert low_of(look, LOW) == NOW - timedelta(seconds=500) - LOW_MARGIN
    assert low_of(look, URGENT) == NOW - timedelta(seconds=0.5) - LOW_MARGIN
    # Not all was taken: what waits in this band is not known.
    assert low_of(look, NORMAL) == EVERYTHING


def test_a_band_that_was_empty_is_not_walked_again() -> None:
    """Dead entries of a band without jobs are walked once, and then by sweeps only."""
    windows = PriorityWindows()
    looked(windows, claimed((LOW, 500.0)), 0.0)
    look = windows.next_look(10, LOW, 0.01)
    assert low_of(look, URGENT) == NOW - LOW_MARGIN
    assert look.swept == ()


def test_sweeps_look_below_the_windows() -> None:
    """A message that was committed late is found in every band."""
    windows = PriorityWindows()
    looked(windows, claimed((LOW, 500.0)), 0.0)
    look = windows.next_look(10, LOW, 31.0)
    assert look.swept == (0, 1, 2, 3)
    assert {each.from_vt for each in look.ranges} == {EVERYTHING}
    assert windows.next_look(10, LOW, 31.0, sweeps=False).swept == ()


def test_long_sweeps_go_in_slices_of_one_band_each() -> None:
    """Where the past is full of dead entries, each band has its turn, and nothing else is read."""
    windows = PriorityWindows()
    looked(windows, claimed((LOW, 500.0)), 0.0, seconds=WHOLE_SECONDS * 2)
    bands = []
    for number in range(8):
        look = windows.next_look(10, LOW, 100.0 + number)
        assert look.is_slice
        [band] = look.swept
        assert [each for each in look.ranges if each == NOWHERE] == [NOWHERE] * 3
        assert look.most_aged == 0
        bands.append(band)
        windows.looked(look, claimed(), 100.0 + number, 100.02 + number)
    assert bands == [0, 1, 2, 3, 0, 1, 2, 3]
    assert windows.seconds_to_sweep(200.0) == 0.0


def test_looks_for_urgent_jobs_leave_the_other_bands_alone() -> None:
    """What such a claim did not look at stays as it was known."""
    windows = PriorityWindows()
    looked(windows, claimed((LOW, 500.0)), 0.0)
    look = windows.next_look(1, URGENT, 0.01)
    windows.looked(look, claimed((URGENT, 0.1)), 0.01, 0.011)
    after = windows.next_look(10, LOW, 0.012)
    assert low_of(after, LOW) == NOW - timedelta(seconds=500) - LOW_MARGIN
    assert low_of(after, URGENT) == NOW - timedelta(seconds=0.1) - LOW_MARGIN


def test_aged_jobs_get_their_part_of_small_claims() -> None:
    """Of claims of one message each, every fourth may take an aged one."""
    windows = PriorityWindows()
    most = []
    for number in range(8):
        look = windows.next_look(1, LOW, number / 1_000)
        most.append(look.most_aged)
        found = claimed((LOW if look.most_aged else URGENT, 500.0))
        aged = {job.key for job in found.jobs if look.most_aged}
        found = Claim(found.jobs, found.claim_class, bands=found.bands, aged=aged)
        windows.looked(look, found, number / 1_000, number / 1_000)
    assert most == [0, 0, 0, 1, 0, 0, 0, 1]


def test_a_place_says_when_a_job_is_aged() -> None:
    """That is counted from when it was ready, by the database's clock."""
    found = claimed((LOW, 100.0), (URGENT, 1.0))
    places = places_of(found, (4.0, 12.0, 48.0, 480.0), 1_000.0)
    assert {place.band: place.aged_at for place in places.values()} == {
        LOW: 1_380.0,
        URGENT: 1_003.0,
    }


def test_a_look_that_is_never_answered_begins_later() -> None:
    """Tens of millions of dead entries: the next claim begins a minute ago, and slices follow."""
    windows = PriorityWindows()
    look = windows.next_look(10, LOW, 0.0)
    windows.gave_up(look, 30.0, NOW)
    after = windows.next_look(10, LOW, 30.0, sweeps=False)
    assert {each.from_vt for each in after.ranges} == {NOW - timedelta(minutes=1)}
