"""One JobQueue: which spec its status is about, and when a message should wake its queue."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from meshhook_operator.api.jobqueue import JobQueue
from meshhook_operator.databases.database import DatabaseAddress
from meshhook_operator.metrics import OperatorMetrics
from meshhook_operator.reconciliation.conflicts import Conflict
from meshhook_operator.reconciliation.jobqueues import JobQueueTable
from meshhook_operator.reconciliation.reconciler import JobQueueReconciler
from meshhook_operator.reconciliation.sources import Source
from meshhook_operator.scaling import Failure, Fleet, Sample, ScalerState, ScalingSpec, decide
from support.jobqueues import deployment, jobqueue, jobqueue_body
from support.recorded_cluster import RecordedCluster

SCALING = {"minReplicas": 0, "maxReplicas": 20}


async def test_the_status_has_the_generation_that_was_reconciled():
    """A spec that comes meanwhile is not called seen before it has been reconciled itself."""
    cluster = RecordedCluster()
    newer = jobqueue_body(scaling=SCALING)
    newer["metadata"]["generation"] = 2

    def change(found: JobQueueReconciler) -> Conflict:
        found.on_jobqueue_changed(JobQueue.from_body(newer))
        return Conflict("another JobQueue has the queue", is_about_queue=True)

    found = JobQueueReconciler(
        jobqueue(scaling=SCALING),
        cluster=cast("Any", cluster),
        metrics=OperatorMetrics(CollectorRegistry()),
        find_conflict=change,
        clock=lambda: 1_000.0,
    )
    nowhere = Failure(reason="SecretNotFound", message="there is no Secret")
    for generation in (1, 2):
        await found.reconcile(nowhere, Source(database=None, checksum=None))
        status = cluster.statuses[found.jobqueue.key]
        assert status["observedGeneration"] == generation
        assert {each["observedGeneration"] for each in status["conditions"]} == {generation}


def reconciler(**spec: Any) -> JobQueueReconciler:
    """Return a reconciler that has looked for the Deployment; it writes nothing here."""
    found = JobQueueReconciler(
        jobqueue(scaling=SCALING, **spec),
        cluster=cast("Any", RecordedCluster()),
        metrics=OperatorMetrics(CollectorRegistry()),
        find_conflict=lambda _: None,
        clock=lambda: 1_000.0,
    )
    found._workers.fleet.is_known = True
    return found


@pytest.fixture
def asleep() -> JobQueueReconciler:
    """The reconciler of a queue at zero."""
    found = reconciler()
    found.on_deployment_changed(deployment(replicas=0))
    return found


def test_a_queue_at_zero_wants_to_be_woken(asleep):
    """A queue at zero wants to be woken, also before it has a Deployment, but not with workers."""
    assert asleep.wants_wake_up
    assert reconciler().wants_wake_up
    asleep._workers.fleet.view = deployment(replicas=1)
    assert not asleep.wants_wake_up


def test_a_queue_all_of_whose_workers_are_cordoned_wants_to_be_woken(asleep):
    """They only finish long jobs: a message should have one of them claim again at once."""
    rules = ScalingSpec(max_replicas=20, min_replicas=0)
    sample = Sample(sampled_at=1_000.0, ready=0, enqueued_total=1)
    fleet = Fleet(replicas=1, ready_replicas=1, created_at=0.0)
    decision, _ = decide(rules, sample, fleet, ScalerState.begin(990.0), 1_000.0)
    asleep._workers.fleet.view = deployment(replicas=1)
    for active, is_woken in ((1, False), (0, True)):
        asleep._workers.autoscaler.decision = replace(decision, active_replicas=active)
        assert asleep.wants_wake_up is is_woken


def test_what_no_message_could_start_is_not_woken(asleep):
    """Otherwise each message would cost a read, and maybe another refused write."""
    asleep._requeue_after_failure()
    assert not asleep.wants_wake_up
    asleep._failures = 0
    assert asleep.wants_wake_up
    sample = Sample(sampled_at=1_000.0, ready=1, enqueued_total=1)
    paused = Fleet(replicas=0, ready_replicas=0, created_at=0.0, paused=True)
    state = ScalerState.begin(990.0)
    rules = ScalingSpec(max_replicas=20, min_replicas=0)
    for fleet, is_woken in ((paused, False), (replace(paused, paused=False), True)):
        asleep._workers.autoscaler.decision, state = decide(rules, sample, fleet, state, 1_000.0)
        assert asleep.wants_wake_up is is_woken
        sample = replace(sample, sampled_at=1_005.0)


def test_a_deployment_that_is_not_there_is_not_woken():
    """Without the Deployment there are no pods to start."""
    found = reconciler(worker=None, deploymentRef={"name": "mail"})
    assert not found.wants_wake_up


def test_a_queue_can_be_found_though_conflicts_were_looked_for_in_between():
    """A database that was just identified must not hide that a JobQueue is new or has moved."""
    table = JobQueueTable(lambda _: None)
    new = reconciler()
    table.add(new)
    table.refresh_claims()
    assert table.is_stale
    address = DatabaseAddress("postgresql://db/app", pooled=False)
    table.refresh({new.jobqueue.key: address})
    assert list(table.of_queue(address, "emails")) == [new]
