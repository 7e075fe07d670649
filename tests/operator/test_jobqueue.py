"""JobQueues as received from the API server, including invalid ones."""

from __future__ import annotations

import pytest

from meshhook.queue_config import (
    KEY_SETTING_NAMES,
    PRIORITY_SETTING_NAMES,
    SETTING_NAMES,
    QueueSettings,
)
from meshhook_operator.api.jobqueue import JobQueue, ObjectKey
from support.jobqueues import jobqueue, jobqueue_body


def test_what_is_taken_in():
    """Identity, generation and times."""
    body = jobqueue_body()
    body["metadata"] |= {"finalizers": ["a"], "deletionTimestamp": "2026-01-02T03:04:06Z"}
    found = JobQueue.from_body(body)
    assert found.key == ObjectKey("shop", "emails")
    assert str(found.key) == "shop/emails"
    assert found.created_at == 1767323045
    assert found.finalizers == ("a",)
    assert found.is_deleting


def test_the_deployment():
    """A worker's Deployment is named after the JobQueue; a reference names somebody else's."""
    own = jobqueue()
    assert own.deployment_key == ObjectKey("shop", "emails-worker")
    assert own.owns_deployment
    other = jobqueue(worker=None, deploymentRef={"name": "mail"})
    assert other.deployment_key == ObjectKey("shop", "mail")
    assert not other.owns_deployment


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"scaling": {}}, "spec.scaling.maxReplicas"),
        ({"scaling": {"maxReplicas": 0}}, "spec.scaling.maxReplicas"),
        ({"scaling": {"minReplicas": 3, "maxReplicas": 2}}, "minReplicas (3) is more than"),
        ({"queueName": "No"}, "spec.queueName"),
        ({"queuename": "emails"}, "spec.queuename"),
        ({"retry": {"attempts": 3}}, "spec.retry.attempts"),
        ({"worker": None}, "spec: give exactly one"),
        ({"deploymentRef": {"name": "a"}}, "spec: give exactly one"),
        ({"queueName": "emails_dlq"}, "spec.queueName: names that end in _dlq"),
        ({"retry": {"backoffBaseMs": 9, "backoffMaxMs": 5}}, "spec.retry: backoffBaseMs (9)"),
        ({"scaling": {"maxReplicas": 2, "fallback": {"replicas": 3}}}, "fallback.replicas (3)"),
        ({"scaling": {"maxReplicas": 2, "tickSeconds": 99}}, "spec.scaling: tickSeconds (99)"),
        ({"scaling": {"maxReplicas": 2, "scaleDown": {"periodSeconds": 9}}}, "spec.scaling.scaleD"),
        (
            {"worker": {"image": "i", "handler": "a:b", "env": [{"name": "MESHHOOK_POOLED"}]}},
            "spec.worker.env: the operator sets MESHHOOK_POOLED itself",
        ),
        ({"worker": {"image": "i"}}, "spec.worker: give exactly one of handler and app"),
        (
            {"worker": {"image": "i", "handler": "a:b", "app": "a:app"}},
            "spec.worker: give exactly one of handler and app",
        ),
        ({"worker": {"image": "i", "app": "no_module"}}, "spec.worker.app: String should match"),
        ({"keys": {"maxRuning": 4}}, "spec.keys.maxRuning: Extra inputs"),
        ({"keys": {"maxRunning": -1}}, "spec.keys.maxRunning: Input should be greater"),
        ({"keys": {"path": "a..b"}}, "spec.keys.path: String should match"),
        (
            {"keys": {"enabled": False, "maxRunning": 4}},
            "spec.keys: enabled is false, and maxRunning is given: set enabled to true, or leave",
        ),
        (
            {"keys": {"breaker": {"pauseSeconds": 60, "maxPauseSeconds": 30.5}}},
            "spec.keys.breaker: pauseSeconds (60) is more than maxPauseSeconds (30.5)",
        ),
        (
            {"keys": {"overrides": [{"key": "a", "weight": 2}, {"key": "a", "weight": 3}]}},
            "spec.keys.overrides: key 'a' is given twice: keep one of them",
        ),
        (
            {"keys": {"overrides": [{"key": "a"}]}},
            "spec.keys.overrides: key 'a': give weight, maxRunning or maxStarts",
        ),
        (
            {"keys": {"overrides": [{"key": "a", "weight": 0}]}},
            "spec.keys.overrides.0.weight: Input should be greater",
        ),
        (
            {"priorities": {"urgentSlots": -1}},
            "spec.priorities.urgentSlots: Input should be greater",
        ),
        (
            {"priorities": {"targetSeconds": {"urgent": 0}}},
            "spec.priorities.targetSeconds.urgent: Input should be greater",
        ),
        (
            {"priorities": {"targetSeconds": {"urgent": 20}}},
            "spec.priorities.targetSeconds: urgent (20) is more than high (15)",
        ),
        (
            {"priorities": {"targetSeconds": {"low": 59.5}}},
            "spec.priorities.targetSeconds: normal (60) is more than low (59.5)",
        ),
        ({"priorities": {"targetSeconds": {"lowest": 9}}}, "spec.priorities.targetSeconds.lowest"),
        (
            {"priorities": {"enabled": False, "urgentSlots": 4}},
            "spec.priorities: enabled is false, and urgentSlots is given: set enabled to true, or",
        ),
        (
            {"priorities": {}, "keys": {"maxRunning": 4}},
            "spec: a queue has either keys or priorities: leave one of them out, or use a queue",
        ),
        ({"x" * 1_000_000: 1}, "more characters): Extra inputs are not permitted"),
        ({"a\n\x1b[2J": 1}, r"spec.a\n\x1b[2J: Extra inputs are not permitted"),
    ],
)
def test_an_invalid_spec_is_named(spec, field):
    """An invalid spec does not raise; the problem names the field."""
    found = jobqueue(**spec)
    assert found.spec is None
    assert field in found.problem
    assert found.deployment_key is None


@pytest.mark.parametrize("spec", [None, "text", 5, [1], True])
def test_a_spec_that_is_no_object_is_named(spec):
    """A spec or status that is not an object does not raise either."""
    found = JobQueue.from_body(jobqueue_body() | {"spec": spec, "status": spec})
    assert found.spec is None
    assert found.problem.startswith("spec: Input should be an object, not ")


def test_a_status_of_another_version_is_no_obstacle():
    """A status that cannot be parsed is replaced."""
    body = jobqueue_body() | {"status": {"conditions": "none", "replicas": "many"}}
    assert JobQueue.from_body(body).status.replicas is None


def test_every_setting_of_a_queue_is_decided():
    """All settings of a queue are in the resource with their defaults, except some.

    `paused` is for people, keys and priorities have fields of their own, the indexes of
    `lookup_by` are an administrator's, and `encryption` must not change with a resource.
    """
    priorities = {"targetSeconds": {}, "urgentSlots": 1}
    spec = jobqueue(priorities=priorities).spec
    assert spec is not None
    assert spec.priorities is not None
    declared = spec.queue_settings | spec.priorities.settings
    elsewhere = {"paused", "lookup_by", "encryption", *KEY_SETTING_NAMES}
    assert declared.keys() == set(SETTING_NAMES) - elsewhere
    assert spec.priorities.settings.keys() == set(PRIORITY_SETTING_NAMES)
    assert QueueSettings(**declared) == QueueSettings(prioritized=True)


def test_priorities_that_are_not_declared_are_left() -> None:
    """Without the field nothing is set, and with it only what it names."""
    plain, on, off = (
        jobqueue().spec,
        jobqueue(priorities={}).spec,
        jobqueue(priorities={"enabled": False}).spec,
    )
    assert plain is not None
    assert plain.priorities is None
    assert not plain.queue_settings.keys() & set(PRIORITY_SETTING_NAMES)
    for spec, is_on in ((on, True), (off, False)):
        assert spec is not None
        assert spec.priorities is not None
        assert spec.priorities.settings == {"prioritized": is_on}


def test_a_timeout_of_zero_means_none():
    """0 means no limit, since null is not a value in a resource."""
    spec = jobqueue(jobTimeoutSeconds=0).spec
    assert spec is not None
    assert spec.queue_settings["job_timeout_seconds"] is None
