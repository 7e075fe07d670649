"""What the end of a batch handler means for each job, and which options batches have."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshhook import Cancel, Done, FollowUp, InvalidPayloadError, InvalidSettingError, RetryAfter
from meshhook.worker.batch_ends import ends_of_batch
from meshhook.worker.batch_options import BatchOptions, checked_batch
from meshhook.worker.batch_starts import BatchStarts
from meshhook.worker.fair_turns import FairTurns
from meshhook.worker.held_job import HeldJob
from meshhook.worker.results import UnusableResultError
from support.claimed_jobs import claimed_job
from support.waiting import eventually

ENDS = st.sampled_from([None, Done(), RetryAfter(3), Cancel(), ValueError("no"), {"a": 1}, 7])


def jobs(count: int) -> list[Any]:
    """Return claimed jobs with the msg_ids 1, 2 and so on."""
    found = [claimed_job("{}") for _ in range(count)]
    for msg_id, job in enumerate(found, start=1):
        job.msg_id = msg_id
    return found


@given(st.lists(ENDS, max_size=20))
def test_a_list_or_a_dict_has_the_end_of_each_job(ends: list[object]) -> None:
    """In the order of the jobs, or by msg_id."""
    batch = jobs(len(ends))
    assert ends_of_batch(ends, batch) == ends
    assert ends_of_batch(tuple(ends), batch) == ends
    assert ends_of_batch({n: end for n, end in enumerate(ends, start=1) if end}, batch) == [
        end or None for end in ends
    ]


@given(st.lists(ENDS, max_size=20), st.integers(0, 20))
def test_ends_for_other_jobs_are_an_error_of_all(ends: list[object], count: int) -> None:
    """Nobody knows which jobs they are for."""
    found = ends_of_batch(ends, jobs(count))
    assert len(found) == count
    if len(ends) != count:
        assert all(isinstance(each, UnusableResultError) for each in found)


@given(st.permutations(range(8)))
def test_a_list_that_the_handler_has_sorted_has_its_ends_in_that_order(order: list[int]) -> None:
    """Each job has the end that stands where the job stands."""
    batch = jobs(8)
    listed = [batch[place] for place in order]
    ends = [f"end of {job.msg_id}" for job in listed]
    assert ends_of_batch(ends, batch, listed) == [f"end of {job.msg_id}" for job in batch]


@pytest.mark.parametrize("change", ["emptied", "cut", "repeated", "replaced"])
def test_ends_of_a_list_that_has_other_jobs_by_now_are_an_error_of_all(change: str) -> None:
    """As after a loop of pop(), whose ends are in the reverse order."""
    batch = jobs(3)
    listed = {
        "emptied": [],
        "cut": batch[:2],
        "repeated": [batch[0], batch[1], batch[1]],
        "replaced": [batch[0], batch[1], *jobs(1)],
    }[change]
    found = ends_of_batch([1, 2, 3], batch, listed)
    assert all(isinstance(each, UnusableResultError) for each in found)
    assert "has changed the list" in str(found[0])
    assert ends_of_batch({1: 7}, batch, listed) == [7, None, None]


@pytest.mark.parametrize("end", [ValueError("down"), RetryAfter(5), Cancel(), Done()])
def test_an_exception_or_outcome_is_the_end_of_every_job(end: BaseException) -> None:
    """Also one that a task of a group raised."""
    assert ends_of_batch(end, jobs(3)) == [end] * 3


def test_an_outcome_in_a_group_is_the_end_of_every_job() -> None:
    """If a task of a `TaskGroup` raised it."""
    outcome = RetryAfter(5)
    assert ends_of_batch(ExceptionGroup("tasks", [outcome]), jobs(2)) == [outcome] * 2


def test_an_outcomes_class_is_an_outcome() -> None:
    """As where a handler of one job returns it."""
    [end] = ends_of_batch([Cancel], jobs(1))
    assert isinstance(end, Cancel)


@pytest.mark.parametrize(
    "end", [Done(result=1), Done(then=FollowUp("others", {})), InvalidPayloadError("of which?")]
)
def test_what_is_of_one_job_is_no_end_of_several(end: BaseException) -> None:
    """A job that follows would be enqueued for each, and a good job would become a dead letter."""
    assert all(isinstance(each, UnusableResultError) for each in ends_of_batch(end, jobs(2)))
    assert ends_of_batch(end, jobs(1)) == [end]


async def test_an_awaitable_is_an_error_of_its_job() -> None:
    """What it is to do has not been done."""
    task = asyncio.ensure_future(asyncio.sleep(0))
    first, second = ends_of_batch([None, task], jobs(2))
    assert first is None
    assert isinstance(second, UnusableResultError)
    await task


@pytest.mark.parametrize(
    ("batch", "wait_seconds", "expected"),
    [
        (None, None, None),
        (1, None, BatchOptions(1)),
        (1000, 60, BatchOptions(1000, 60.0)),
        (7, 0.2, BatchOptions(7, 0.2)),
    ],
)
def test_options(batch: Any, wait_seconds: Any, expected: BatchOptions | None) -> None:
    """The most jobs, and how long to wait."""
    assert checked_batch(batch, wait_seconds) == expected


@pytest.mark.parametrize(
    ("batch", "wait_seconds", "named"),
    [
        (0, None, "batch"),
        (1001, None, "batch"),
        (True, None, "batch"),
        ("10", None, "batch"),
        (10, -1, "batch_wait_seconds"),
        (10, 61, "batch_wait_seconds"),
        (10, float("nan"), "batch_wait_seconds"),
        (10, "1", "batch_wait_seconds"),
        (None, 1, "batch_wait_seconds"),
    ],
)
def test_options_out_of_range(batch: Any, wait_seconds: Any, named: str) -> None:
    """The error names the argument."""
    with pytest.raises(InvalidSettingError, match=named):
        checked_batch(batch, wait_seconds)


def waiting(count: int, *, age_seconds: float = 0.0, lost_attempts: int = 0) -> FairTurns:
    """Return jobs that wait for a slot, claimed some time ago."""
    found = FairTurns()
    for job in jobs(count):
        job.lost_attempts = lost_attempts
        claimed_at = time.monotonic() - age_seconds
        found.append(HeldJob(job, claimed_at, claimed_at))
    return found


@pytest.mark.parametrize(
    ("count", "wait_seconds", "age_seconds", "due"),
    [
        (9, 0, 0, 1),
        (10, 0, 0, 1),
        (25, 0, 0, 3),
        (9, 60, 0, 0),
        (10, 60, 0, 1),
        (25, 60, 0, 2),
        (9, 60, 61, 1),
        (25, 60, 61, 3),
    ],
)
async def test_how_many_batches_are_due(
    count: int, wait_seconds: float, age_seconds: float, due: int
) -> None:
    """Those that are full, and one more whose jobs have waited long enough."""
    starts = BatchStarts(BatchOptions(10, wait_seconds), lambda: None)
    found = waiting(count, age_seconds=age_seconds)
    assert starts.due(found, found.first) == due


async def test_suspects_are_due_at_once() -> None:
    """Each by itself."""
    starts = BatchStarts(BatchOptions(10, 60), lambda: None)
    found = waiting(3, lost_attempts=1)
    assert starts.due(found, found.first) == 3


async def test_what_is_gathered_starts_if_something_waits_for_it() -> None:
    """Jobs that are claimed later wait for others as before."""
    looks: list[int] = []
    starts = BatchStarts(BatchOptions(10, 60), lambda: looks.append(1))
    found = waiting(3)
    starts.hurry()
    assert looks == [1]
    assert starts.due(found, found.first) == 1
    later = waiting(2, age_seconds=-1)
    assert starts.due(later, later.first) == 0


async def test_it_looks_again_when_an_older_batch_is_due() -> None:
    """Also if it was to look later, at the job that was more urgent and has started."""
    looks: list[int] = []
    starts = BatchStarts(BatchOptions(10, 60), lambda: looks.append(1))
    young, old = waiting(3), waiting(3, age_seconds=59.9)
    assert starts.due(young, young.first) == 0
    assert starts.due(old, old.first) == 0
    await eventually(lambda: bool(looks))


async def test_it_looks_again_when_a_batch_is_due() -> None:
    """Once, however often it was asked."""
    looks: list[float] = []
    starts = BatchStarts(BatchOptions(10, 60), lambda: looks.append(time.monotonic()))
    # Due soon, and not while it is asked, even if this process stands still meanwhile.
    found = waiting(3, age_seconds=58)
    for _ in range(3):
        assert starts.due(found, found.first) == 0
    await eventually(lambda: bool(looks))
    assert starts.due(found, found.first) == 1
    assert len(looks) == 1
