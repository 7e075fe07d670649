"""Idle pods go first."""

from __future__ import annotations

from meshhook_operator.api.jobqueue import ObjectKey
from meshhook_operator.cluster.pods import PodView
from meshhook_operator.workers.idle_pods import FIRST_TO_GO, changed_costs


def pod(name: str, cost: int = 0) -> PodView:
    """Return a pod."""
    return PodView(ObjectKey("shop", name), cost)


A, B, C = pod("a"), pod("b"), pod("c")


def test_the_least_busy_are_marked():
    """As many pods as are to be removed are marked: those that run the fewest jobs."""
    changed = changed_costs([A, B, C], {"a": 5, "b": 0, "c": 3}, surplus=2)
    assert changed == {B: FIRST_TO_GO, C: FIRST_TO_GO}


def test_a_pod_that_has_not_reported_is_idle():
    """A pod that has not reported counts as idle."""
    assert changed_costs([A, B], {"a": 1}, surplus=1) == {B: FIRST_TO_GO}


def test_a_mark_that_is_right_is_left_alone():
    """A pod that is already marked costs no request."""
    marked = pod("b", FIRST_TO_GO)
    assert changed_costs([A, marked], {"a": 1, "b": 0}, surplus=1) == {}


def test_a_mark_that_is_wrong_is_taken_back():
    """A pod that was marked but is busy now is unmarked."""
    marked = pod("b", FIRST_TO_GO)
    assert changed_costs([A, marked], {"a": 0, "b": 9}, surplus=1) == {A: FIRST_TO_GO, marked: None}


def test_the_marks_of_others_stay():
    """A cost that somebody else has set is not removed."""
    assert changed_costs([A, pod("b", 7)], {"a": 0, "b": 9}, surplus=1) == {A: FIRST_TO_GO}


def test_no_surplus():
    """With too few pods nothing is marked."""
    assert changed_costs([A, B], {}, surplus=-1) == {}
