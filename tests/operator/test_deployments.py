"""Deployments as received from the API server."""

from __future__ import annotations

from meshhook_operator.cluster.deployments import DeploymentView, LabelTerm
from support.jobqueues import UID, deployment_body


def test_what_is_taken_in():
    """Replicas, owner and selector."""
    found = DeploymentView.from_body(deployment_body(replicas=3))
    assert (found.replicas, found.ready_replicas, found.existing_replicas) == (3, 3, 3)
    assert found.owner_uid == UID
    assert found.selector == (LabelTerm("meshhook.io/jobqueue", "In", ("emails",)),)
    assert not found.rolling_out


def test_a_new_deployment():
    """A Deployment that was just created has no pods, and is not rolling out."""
    body = deployment_body()
    del body["status"], body["metadata"]["ownerReferences"], body["metadata"]["labels"]
    found = DeploymentView.from_body(body)
    assert (found.ready_replicas, found.owner_uid, found.rolling_out) == (0, None, False)


def test_a_rollout():
    """Pods of an older template mean a rollout; pods that do not exist yet do not."""
    body = deployment_body(replicas=4)
    body["status"] |= {"replicas": 5, "updatedReplicas": 2}
    assert DeploymentView.from_body(body).rolling_out
    body["status"] |= {"replicas": 2, "updatedReplicas": 2}
    assert not DeploymentView.from_body(body).rolling_out


def test_who_set_the_replicas():
    """Other managers of the field are listed, and the operator itself is not."""
    body = deployment_body()
    body["metadata"]["managedFields"] = [
        {"manager": "argocd", "fieldsV1": {"f:spec": {"f:replicas": {}}}},
        {"manager": "meshhook-operator", "fieldsV1": {"f:spec": {"f:replicas": {}}}},
        {"manager": "kube-controller-manager", "fieldsV1": {"f:status": {"f:replicas": {}}}},
    ]
    assert DeploymentView.from_body(body).replicas_managers == ("argocd",)


def test_every_kind_of_selector():
    """A user's Deployment may select pods by expressions."""
    body = deployment_body()
    body["spec"]["selector"] = {
        "matchExpressions": [
            {"key": "app", "operator": "In", "values": ["a", "b"]},
            {"key": "old", "operator": "DoesNotExist"},
        ]
    }
    assert DeploymentView.from_body(body).selector == (
        LabelTerm("app", "In", ("a", "b")),
        LabelTerm("old", "DoesNotExist"),
    )
