"""Idle pods go first."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from meshhook_operator.api.jobqueue import ObjectKey
from meshhook_operator.cluster.pods import PodView
from meshhook_operator.errors import ClusterRefusedError, ClusterUnavailableError
from meshhook_operator.workers.idle_pods import (
    FIRST_TO_GO,
    changed_costs,
    deleted_before,
    is_kept,
    mark_idle_pods,
)
from meshhook_operator.workers.pod_work import PodWork
from support.jobqueues import deployment


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


def test_a_pod_that_has_not_reported_goes_before_busy_ones():
    """Its worker may be blocked by a job, or be about to report: idle pods go before it."""
    pods = {"a": work(1), "c": work()}
    assert changed_costs([A, B, C], pods, surplus=1) == {C: FIRST_TO_GO}
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


def test_pods_that_do_not_run_yet_go_first():
    """Of idle pods, first those without a node, then those that start, then those not ready."""
    unplaced = replace(C, is_scheduled=False, is_running=False, has_started=False, is_ready=False)
    starting = replace(B, is_running=False, has_started=False, is_ready=False)
    pods = {"a": work(cordoned=True)}
    assert set(changed_costs([A, starting, unplaced], pods, surplus=1)) == {unplaced}
    assert set(changed_costs([A, starting, unplaced], pods, surplus=2)) == {unplaced, starting}


# --- How many may be removed ----------------------------------------------------------------------

SILENT = pod("silent")


def test_what_is_kept():
    """Kept are pods with a job that may be cut off: any where jobs are long, or an old one."""
    pods = {"a": work(1, oldest_seconds=2.0), "b": work(1, oldest_seconds=11.0), "c": work()}

    def kept(*, runs_are_long: bool) -> set[str]:
        views = [A, B, C, SILENT]
        found = {each for each in views if is_kept(each, pods, runs_are_long=runs_are_long)}
        return {each.key.name for each in found}

    assert kept(runs_are_long=False) == {"b"}
    assert kept(runs_are_long=True) == {"a", "b", "silent"}
    assert not is_kept(replace(SILENT, has_started=False), pods, runs_are_long=True)


def test_a_busy_pod_that_is_not_ready_bars_all_others():
    """Kubernetes deletes it before any that is ready, whatever they cost."""
    lost = replace(A, is_ready=False)
    assert deleted_before({lost}, [lost, B, C], {B: FIRST_TO_GO}) == 0
    starting = replace(B, is_running=False, is_ready=False)
    assert deleted_before({lost}, [lost, starting, C], {}) == 1


def test_equal_pods_are_not_certain():
    """Of pods that cost the same, Kubernetes may delete any first."""
    assert deleted_before({A}, [A, B, C], {B: FIRST_TO_GO}) == 1
    assert deleted_before(set(), [A, B, C], {}) == 3


class Pods:
    """A cluster whose pods may not be listed, or not be marked."""

    def __init__(self, *views: PodView) -> None:
        self.views = list(views)
        self.is_down = False
        self.refused: set[str] = set()
        self.marked: dict[str, int | None] = {}

    async def list_pods(self, *_: object) -> list[PodView]:
        """Return the pods."""
        if self.is_down:
            raise ClusterUnavailableError("down")
        return self.views

    async def set_deletion_cost(self, key: ObjectKey, cost: int | None) -> None:
        """Mark a pod."""
        if key.name in self.refused:
            raise ClusterRefusedError("forbidden", 403)
        self.marked[key.name] = cost

    async def may_go(
        self, replicas: int, pods: dict[str, PodWork] | None, *, runs_are_long: bool = True
    ) -> int:
        """Return how many may go of three, when so many are to be left."""
        return await mark_idle_pods(
            cast("Any", self),
            deployment(replicas=3),
            replicas,
            pods,
            runs_are_long=runs_are_long,
        )


async def test_busy_pods_stay_where_jobs_are_long():
    """Only as many may go as are idle, and no busy one is marked."""
    cluster = Pods(A, B, C)
    pods = {"a": work(1), "b": work(), "c": work(2)}
    assert await cluster.may_go(1, pods) == 1
    assert cluster.marked == {"b": FIRST_TO_GO}
    assert await cluster.may_go(1, pods | {"b": work(1)}) == 0


async def test_busy_pods_may_go_where_jobs_are_short():
    """They finish their jobs while they stop."""
    cluster = Pods(A, B, C)
    pods = {"a": work(1), "b": work(), "c": work(2)}
    assert await cluster.may_go(1, pods, runs_are_long=False) == 3
    assert cluster.marked == {"a": FIRST_TO_GO, "b": FIRST_TO_GO}


@pytest.mark.parametrize("refused", ["a", "b"])
async def test_pods_that_cannot_be_marked(refused: str):
    """If one of two idle pods cannot be marked, one may go; if a mark stays on a busy one, none."""
    cluster = Pods(A, B, C)
    cluster.refused = {refused}
    assert await cluster.may_go(1, {"a": work(), "b": work(), "c": work(1)}) == 1
    stale = pod("c", FIRST_TO_GO)
    cluster = Pods(A, B, stale)
    cluster.refused = {"c"}
    assert await cluster.may_go(1, {"a": work(), "b": work(), "c": work(1)}) == 0


async def test_pods_that_cannot_be_listed():
    """No pod may go where a long job may run; others do not wait for the API server."""
    cluster = Pods(A, B, C)
    cluster.is_down = True
    idle = {"a": work(), "b": work(), "c": work()}
    assert await cluster.may_go(1, idle) == 0
    assert await cluster.may_go(1, idle | {"a": work(1, oldest_seconds=60.0)}) == 0
    assert await cluster.may_go(1, idle, runs_are_long=False) == 3


async def test_workers_that_do_not_report():
    """If no worker reports, nothing is known of jobs and all may go; if none was read, none may."""
    cluster = Pods(A, B, C)
    assert await cluster.may_go(1, {}) == 3
    assert await cluster.may_go(1, None) == 0
