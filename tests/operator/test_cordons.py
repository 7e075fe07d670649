"""Which pods are cordoned: a pure choice, stable from tick to tick."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshhook_operator.scaling import WorkerReport
from meshhook_operator.workers.cordons import choose_cordons, cordon_seconds, must_write
from meshhook_operator.workers.pod_work import PodWork, work_by_pod


def report(
    host: str,
    *,
    running: int = 0,
    oldest_seconds: float = 0.0,
    cordon_seconds: float = 0.0,
    cordoned: bool | None = None,
    draining: bool = False,
) -> WorkerReport:
    """Return the report of a worker; it obeys unless said otherwise."""
    return WorkerReport(
        worker=f"{host}-1",
        host=host,
        concurrency=10,
        running=running,
        processed=0,
        busy_seconds=0.0,
        oldest_running_seconds=oldest_seconds,
        seen_at=0.0,
        draining=draining,
        cordoned=cordon_seconds > 0 if cordoned is None else cordoned,
        cordon_seconds=cordon_seconds,
    )


def choose(*reports: WorkerReport, active: int, may_add: bool = True) -> set[str]:
    """Return the pods that are chosen."""
    return set(choose_cordons(work_by_pod(reports), active, may_add=may_add))


def test_the_busiest_go_on():
    """Those with the oldest jobs, then those with most: the others are idle soonest."""
    reports = (
        report("a", running=1, oldest_seconds=5.0),
        report("b", running=1, oldest_seconds=50.0),
        report("c", running=2, oldest_seconds=5.0),
        report("d"),
    )
    assert choose(*reports, active=2) == {"a", "d"}
    assert choose(*reports, active=0) == {"a", "b", "c", "d"}
    assert choose(*reports, active=4) == set()


def test_pods_that_claim_go_on_claiming():
    """A pod is not cordoned in exchange for a busier one that is cordoned already."""
    reports = (
        report("a", running=1, oldest_seconds=900.0, cordon_seconds=20.0),
        report("b", running=1, oldest_seconds=1.0),
        report("c", running=1, oldest_seconds=2.0),
    )
    assert choose(*reports, active=2) == {"a"}


def test_the_busiest_of_the_cordoned_claim_first_again():
    """Idle ones are about to be removed."""
    reports = (
        report("a", running=1, oldest_seconds=9.0, cordon_seconds=20.0),
        report("b", cordon_seconds=20.0),
        report("c", running=1, oldest_seconds=1.0),
    )
    assert choose(*reports, active=2) == {"b"}


def test_nothing_is_cordoned_where_it_cannot_be_told():
    """No report, no pod to be told from others, or fewer pods that report than are to claim."""
    assert choose(active=2) == set()
    assert choose(report(""), report(""), active=1) == set()
    assert choose(report("a", cordon_seconds=9.0), active=2) == set()


def test_stopping_pods_do_not_count():
    """They claim nothing in any case."""
    reports = (report("a", draining=True, running=1), report("b"), report("c"))
    assert choose(*reports, active=2) == set()


def test_a_pod_that_is_about_to_go_stays_cordoned():
    """Enough pods claim: no other is cordoned, and none is let free that is not needed."""
    reports = (report("a"), report("b"), report("c", cordon_seconds=9.0))
    assert choose(*reports, active=1, may_add=False) == {"c"}
    assert choose(*reports, active=2, may_add=False) == {"c"}
    assert choose(*reports, active=3, may_add=False) == set()


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from([0.0, 1.0, 600.0]), st.booleans()), max_size=12
    ),
    st.integers(0, 14),
)
def test_a_choice_that_was_carried_out_stays(
    pods: list[tuple[int, float, bool]], active: int
) -> None:
    """Whatever the pods do: as many claim as should, or all, and the next choice is the same."""
    works = {f"pod-{n}": work(*each) for n, each in enumerate(pods)}
    chosen = choose_cordons(works, active, may_add=True)
    assert len(works) - len(chosen) == min(active, len(works))
    after = {
        name: work(each.running, each.oldest_running_seconds, name in chosen)
        for name, each in works.items()
    }
    assert choose_cordons(after, active, may_add=True) == chosen
    assert not must_write(after, chosen, 30.0)


def work(running: int, oldest_seconds: float, is_asked: bool) -> PodWork:
    """Return what a pod with one worker does."""
    return PodWork(
        running=running,
        oldest_running_seconds=oldest_seconds,
        is_cordoned=is_asked,
        cordon_seconds=(29.0 if is_asked else 0.0,),
    )


@pytest.mark.parametrize(
    ("seconds", "is_chosen", "must"),
    [
        ((0.0,), False, False),
        ((0.0,), True, True),
        ((29.0,), True, False),
        ((14.0,), True, True),
        ((29.0, 0.0), True, True),
        ((1.0,), False, True),
        ((), True, False),
    ],
)
def test_what_is_written(seconds: tuple[float, ...], is_chosen: bool, must: bool) -> None:
    """A beginning, an end, a new worker in a cordoned pod, and a renewal after half of the time."""
    pod = PodWork(running=0, oldest_running_seconds=0.0, is_cordoned=False, cordon_seconds=seconds)
    assert must_write({"a": pod}, {"a"} if is_chosen else set(), 30.0) is must


def test_a_pod_with_several_workers():
    """Its jobs are added up, its oldest job counts, and it is idle when all of them obey."""
    works = work_by_pod(
        [
            report("a", running=1, oldest_seconds=3.0, cordon_seconds=9.0),
            report("a", running=2, oldest_seconds=7.0, cordon_seconds=9.0, cordoned=False),
            report("b", cordon_seconds=9.0),
        ]
    )
    assert works["a"] == PodWork(
        running=3, oldest_running_seconds=7.0, is_cordoned=False, cordon_seconds=(9.0, 9.0)
    )
    assert works["b"].is_cordoned


def test_a_cordon_outlasts_several_ticks():
    """However long they are: it must be renewed before it ends."""
    assert cordon_seconds(1.0) == 30.0
    assert cordon_seconds(60.0) == 240.0
    assert cordon_seconds(300.0) <= 3_600.0
