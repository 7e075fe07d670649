"""What a JobQueue's spec makes the scaler do."""

from __future__ import annotations

from typing import Any

from meshhook_operator.reconciliation.autoscaler import Autoscaler, scaling_rules
from meshhook_operator.scaling import Decision, Sample, ScalingSpec, Signal
from meshhook_operator.workers.manifests import worker_deployment
from support.jobqueues import jobqueue


def test_the_scaler_counts_with_the_time_that_workers_have_to_stop():
    """The scaler and the worker use the same number, whatever the pod's grace period is."""
    worker = {"image": "example.org/emails:1", "handler": "emails:send"}
    for seconds in (10, 600):
        found = jobqueue(worker=worker | {"terminationGracePeriodSeconds": seconds})
        assert found.spec is not None
        rules = scaling_rules(found.spec)
        assert rules.drain_seconds == seconds - 5
        template = worker_deployment(found, replicas=1)["spec"]["template"]
        (container,) = template["spec"]["containers"]
        assert f"--grace-seconds={seconds - 5}" in container["args"]


def test_a_flood_of_a_held_key_asks_for_nothing():
    """100 messages a second to a held key start no worker; the tick after its end does."""
    now = 1_000.0
    scaler = Autoscaler(clock=lambda: now)
    about = jobqueue(scaling={"minReplicas": 0, "maxReplicas": 50})

    def decide(sent: int, **fields: Any) -> Decision:
        found = Sample(sampled_at=now, enqueued_total=sent, **fields)
        return scaler.decide(about, found, None, paused=False, conflict=None)

    for tick in range(1, 30):
        now += 5
        kept_back = min(tick * 500, 10_000)
        found = decide(
            tick * 500, ready=0, kept_back=kept_back, kept_back_is_capped=kept_back == 10_000
        )
        assert not any(found.recommended.values()), found
        assert found.estimates.arrivals_per_second == 0
    now += 5
    assert decide(15_000, ready=10_000, ready_is_capped=True).recommended[Signal.BACKLOG] > 0


def test_without_a_worker_of_its_own_it_takes_the_usual_time():
    """The grace period of somebody else's Deployment is not known."""
    found = jobqueue(worker=None, deploymentRef={"name": "mail"})
    assert found.spec is not None
    assert scaling_rules(found.spec).drain_seconds == ScalingSpec(max_replicas=1).drain_seconds
