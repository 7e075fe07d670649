"""The policy for JobQueues as the chart renders it; what it refuses is tested in tests/cluster."""

from __future__ import annotations

import json
from typing import Any

import pytest

from support.helm import NAMESPACE, RELEASE, HelmError, one, render, select

NAME = f"{NAMESPACE}-{RELEASE}-meshhook"


def rendered(kind: str, **policy: Any) -> Any:
    """Return the spec of the policy or its binding."""
    return one(render({"policy": policy}), f"ValidatingAdmissionPolicy{kind}", NAME)["spec"]


def variable(spec: Any, name: str) -> Any:
    """Return what a variable of the policy holds."""
    (found,) = (each["expression"] for each in spec["variables"] if each["name"] == name)
    return json.loads(found) if found.startswith('["') else found


def test_the_policy_refuses_from_the_first_install():
    """It is there without values, denies, and an error in it denies too."""
    spec, binding = rendered(""), rendered("Binding")
    assert spec["failurePolicy"] == "Fail"
    (rule,) = spec["matchConstraints"]["resourceRules"]
    assert rule["operations"] == ["CREATE", "UPDATE"]
    assert binding["policyName"] == NAME
    assert binding["validationActions"] == ["Deny"]
    assert "matchResources" not in binding


@pytest.mark.parametrize(
    ("values", "kubernetes", "is_there"),
    [
        ({}, "1.29.9", False),
        ({}, "1.30.0", True),
        ({}, "v1.33.1-eks-1", True),
        ({"policy": {"enabled": False}}, "1.36.3", False),
    ],
)
def test_where_the_policy_is_installed(values, kubernetes, is_there):
    """Where the API server knows such policies, unless it is turned off."""
    objects = render(values, kubernetes=kubernetes)
    for kind in ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"):
        assert bool(select(objects, kind)) is is_there


def test_the_policy_is_for_the_namespaces_that_are_watched():
    """So two releases in one cluster do not judge each other's JobQueues."""
    watched = render({"operator": {"watchNamespaces": ["a", "b"]}})
    binding = one(watched, "ValidatingAdmissionPolicyBinding", NAME)["spec"]
    assert binding["matchResources"]["namespaceSelector"]["matchExpressions"] == [
        {"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["a", "b"]}
    ]
    selector = {"matchLabels": {"tenant": "yes"}}
    own = rendered("Binding", namespaceSelector=selector, validationActions=["Warn", "Audit"])
    assert own["matchResources"]["namespaceSelector"] == selector
    assert own["validationActions"] == ["Warn", "Audit"]


def test_what_the_release_uses_itself_is_on_the_lists():
    """With lists set, `helm test` and `queues` still find their Secrets and the image."""
    objects = render(
        {
            "database": {"existingSecret": "pg", "caSecret": "ca"},
            "imagePullSecrets": [{"name": "pull"}],
            "policy": {"allowedSecrets": ["smtp"], "allowedImages": ["registry.example/shop/"]},
        }
    )
    spec = one(objects, "ValidatingAdmissionPolicy", NAME)["spec"]
    assert variable(spec, "secrets") == ["smtp", f"{NAMESPACE}/pg", "ca", "pull"]
    assert variable(spec, "images") == ["registry.example/shop/", "localhost/meshhook-queue"]


NONE = "[''].filter(each, false)"


def test_they_are_kept_in_every_namespace_that_is_watched():
    """The operator's Secret is in each of these, since JobQueues name it there."""
    objects = render(
        {
            "database": {"existingSecret": "pg", "operatorExistingSecret": "operator"},
            "migrations": {"existingSecret": "pg"},
            "operator": {"watchNamespaces": ["shop", "mail"]},
        }
    )
    spec = one(objects, "ValidatingAdmissionPolicy", NAME)["spec"]
    namespaces = (NAMESPACE, "shop", "mail")
    assert variable(spec, "reservedSecrets") == [f"{each}/operator" for each in namespaces]


@pytest.mark.parametrize(
    ("database", "owner", "owners", "reserved"),
    [
        ({}, "owner", [f"{NAMESPACE}/owner"], [f"{NAMESPACE}/owner"]),
        ({}, "pg", NONE, NONE),
        (
            {"operatorExistingSecret": "operator"},
            "owner",
            [f"{NAMESPACE}/owner"],
            [f"{NAMESPACE}/owner", f"{NAMESPACE}/operator"],
        ),
    ],
)
def test_the_secrets_of_owner_and_operator_are_not_for_workers(database, owner, owners, reserved):
    """Unless one Secret serves all."""
    objects = render(
        {
            "database": {"existingSecret": "pg"} | database,
            "migrations": {"existingSecret": owner},
        }
    )
    spec = one(objects, "ValidatingAdmissionPolicy", NAME)["spec"]
    assert variable(spec, "ownersSecrets") == owners
    assert variable(spec, "reservedSecrets") == reserved


def test_the_operators_account_is_held_to_deployments_of_jobqueues():
    """A policy of its own knows it by the name of its account."""
    account = {"name": "mine", "create": False}
    objects = render({"operator": {"serviceAccount": account}})
    spec = one(objects, "ValidatingAdmissionPolicy", f"{NAME}-operator")["spec"]
    conditions = [each["expression"] for each in spec["matchConditions"]]
    user = f"system:serviceaccount:{NAMESPACE}:mine"
    assert f'request.userInfo.username == "{user}"' in conditions
    (rule,) = spec["matchConstraints"]["resourceRules"]
    assert rule["resources"] == ["deployments"]
    binding = one(objects, "ValidatingAdmissionPolicyBinding", f"{NAME}-operator")["spec"]
    assert binding == {"policyName": f"{NAME}-operator", "validationActions": ["Deny"]}


@pytest.mark.parametrize(
    "policy",
    [
        {"validationActions": []},
        {"validationActions": ["Refuse"]},
        {"allowedVolumes": []},
        {"allowedSecrets": ["a/b/c"]},
        {"allowedServiceAccounts": ["Not A Name"]},
        {"allowedImages": ["with space"]},
        {"allowedPodLabels": ["-"]},
    ],
)
def test_lists_that_mean_nothing_are_refused(policy):
    """A name that can't be one, or an empty list where that would refuse or allow all."""
    with pytest.raises(HelmError, match=next(iter(policy))):
        render({"policy": policy})


def test_what_is_listed_stays_text():
    """No value of a list becomes an expression."""
    hostile = 'x\'"+request.name+"\\'
    spec = rendered("", allowedImages=[hostile])
    assert variable(spec, "images")[0] == hostile
