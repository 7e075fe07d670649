"""What a JobQueue's spec makes the scaler do."""

from __future__ import annotations

from meshhook_operator.reconciliation.autoscaler import scaling_rules
from meshhook_operator.scaling import ScalingSpec
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


def test_without_a_worker_of_its_own_it_takes_the_usual_time():
    """The grace period of somebody else's Deployment is not known."""
    found = jobqueue(worker=None, deploymentRef={"name": "mail"})
    assert found.spec is not None
    assert scaling_rules(found.spec).drain_seconds == ScalingSpec(max_replicas=1).drain_seconds
