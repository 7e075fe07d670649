"""How many slots are kept for urgent jobs, by how many of them ran of late."""

from __future__ import annotations

from math import exp

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshhook.worker.urgent_load import MEMORY_SECONDS, UrgentLoad, slots_to_keep


def test_the_average_follows_what_runs() -> None:
    """It comes near a steady number within some memories, and forgets it as fast."""
    load = UrgentLoad()
    load.note(4, 100.0)
    assert load.average(100.0) == 0
    assert load.average(100.0 + MEMORY_SECONDS) == pytest.approx(4 * (1 - exp(-1)))
    assert load.average(100.0 + 5 * MEMORY_SECONDS) == pytest.approx(4, rel=0.01)
    load.note(0, 100.0 + 5 * MEMORY_SECONDS)
    assert load.average(100.0 + 10 * MEMORY_SECONDS) == pytest.approx(0, abs=0.03)


def test_jobs_count_for_as_long_as_they_run() -> None:
    """Ten that run for a tenth of the time each count as one that runs always."""
    load = UrgentLoad()
    for turn in range(100):
        load.note(10, turn * 0.1)
        load.note(0, turn * 0.1 + 0.01)
    assert load.average(10.0) == pytest.approx(1, rel=0.05)


@given(times=st.lists(st.floats(0.0, 10.0), max_size=20), running=st.integers(0, 50))
def test_it_does_not_matter_how_often_it_is_noted(times: list[float], running: int) -> None:
    """Each note of the same number leaves the average as it is."""
    often, once = UrgentLoad(), UrgentLoad()
    for load in (often, once):
        load.note(7, 0.0)
        load.note(running, 1.0)
    for each in sorted(times):
        often.note(running, 1.0 + each)
    assert often.average(12.0) == pytest.approx(once.average(12.0))


def test_a_clock_that_stands_still_changes_nothing() -> None:
    """Nor one that says an earlier time."""
    load = UrgentLoad()
    load.note(3, 5.0)
    assert load.average(5.0) == load.average(4.0) == 0


@pytest.mark.parametrize(
    ("average", "least", "slots", "kept"),
    [
        (0.0, 1, 20, 1),
        (0.1, 1, 20, 1),
        (0.2, 1, 20, 2),  # 0.2 + 2.5 * 0.45 = 1.3
        (1.0, 1, 20, 4),  # 1 + 2.5 = 3.5
        (1.0, 3, 40, 4),
        (1.0, 6, 40, 6),
        (9.0, 1, 20, 5),  # a quarter
        (9.0, 8, 20, 8),
        (9.0, 15, 20, 10),  # half
        (9.0, 1, 1, 0),
        (9.0, 1, 2, 1),
        (9.0, 1, 3, 1),
        (9.0, 1, 7, 1),
        (9.0, 1, 8, 2),
        (9.0, 0, 20, 0),
    ],
)
def test_as_many_are_kept_as_urgent_jobs_need(
    average: float, least: int, slots: int, kept: int
) -> None:
    """The average and 2.5 of its roots: at least the setting, at most a quarter or the setting."""
    assert slots_to_keep(average, least=least, slots=slots, is_late=False) == kept


@pytest.mark.parametrize(("least", "slots", "kept"), [(1, 20, 1), (15, 20, 10), (0, 20, 0)])
def test_for_aged_jobs_no_more_are_kept_than_the_setting_says(
    least: int, slots: int, kept: int
) -> None:
    """However many urgent jobs run, others that are nearly late get the slots beyond."""
    assert slots_to_keep(9.0, least=least, slots=slots, is_late=True) == kept
