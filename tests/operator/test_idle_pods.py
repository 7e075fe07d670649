"""Idle pods go first."""

from __future__ import annotations

from meshhook_operator.api.jobqueue import ObjectKey
from meshhook_operator.cluster.pods import PodView
from meshhook_operator.workers.idle_pods import FIRST_TO_GO, changed_costs
from meshhook_operator.workers.pod_work import PodWork


def pod(name: str, cost: int = 0) -> PodView:
    """Return a pod."""
    return PodView(ObjectKey("shop", name), cost)


def work(running: int = 0, *, oldest_seconds: float = 0.0, cordoned: bool = False) -> PodWork:
    """Return what a pod with one worker does."""
    return PodWork(
        running=running,
        oldest_running_seconds=oldest_seconds,
        is_cordoned=cordoned,
        cordon_seconds=(30.0 if cordoned else 0.0,),
    )


A, B, C = pod("a"), pod("b"), pod("c")


def test_the_least_busy_are_marked():
    """As many pods as are to be removed are marked: those that run the fewest jobs."""
    changed = changed_costs([A, B, C], {"a": work(5), "b": work(), "c": work(3)}, surplus=2)
    assert changed == {B: FIRST_TO_GO, C: FIRST_TO_GO}


def test_an_idle_pod_that_is_cordoned_goes_first():
    """Nothing starts there any more; in another idle pod a job may have started meanwhile."""
    changed = changed_costs([A, B, C], {"a": work(), "b": work(cordoned=True)}, surplus=1)
    assert changed == {B: FIRST_TO_GO}


def test_the_longest_job_is_the_last_to_go():
    """Of busy pods, however many jobs they run and whether they are cordoned or not."""
    pods = {
        "a": work(1, oldest_seconds=3_000.0, cordoned=True),
        "b": work(1, oldest_seconds=40.0, cordoned=True),
        "c": work(9, oldest_seconds=0.5),
    }
    assert changed_costs([A, B, C], pods, surplus=1) == {C: FIRST_TO_GO}
    assert changed_costs([A, B, C], pods, surplus=2) == {B: FIRST_TO_GO, C: FIRST_TO_GO}


def test_a_pod_that_has_not_reported_is_idle():
    """A pod that has not reported counts as idle."""
    assert changed_costs([A, B], {"a": work(1)}, surplus=1) == {B: FIRST_TO_GO}


def test_a_mark_that_is_right_is_left_alone():
    """A pod that is already marked costs no request."""
    marked = pod("b", FIRST_TO_GO)
    assert changed_costs([A, marked], {"a": work(1), "b": work()}, surplus=1) == {}


def test_a_mark_that_is_wrong_is_taken_back():
    """A pod that was marked but is busy now is unmarked."""
    marked = pod("b", FIRST_TO_GO)
    assert changed_costs([A, marked], {"a": work(), "b": work(9)}, surplus=1) == {
        A: FIRST_TO_GO,
        marked: None,
    }


def test_the_marks_of_others_stay():
    """A cost that somebody else has set is not removed."""
    assert changed_costs([A, pod("b", 7)], {"a": work(), "b": work(9)}, surplus=1) == {
        A: FIRST_TO_GO
    }


def test_no_surplus():
    """With too few pods nothing is marked."""
    assert changed_costs([A, B], {}, surplus=-1) == {}
