"""What may connect to what: each way that is needed is open, and no other."""

from __future__ import annotations

from typing import Any

import pytest

from meshhook_operator.workers.manifests import METRICS_PORT, worker_labels
from support.helm import NAMESPACE, RELEASE, HelmError, Object, one, render, select
from support.network import Peer, allowed

NAME = f"{RELEASE}-meshhook"
OUTSIDE = Peer()
CLOUD_METADATA = Peer(address="169.254.169.254")
OWN_DATABASE = {"database": {"existingSecret": "pg"}}


def pod_of(objects: list[Object], kind: str, name: str) -> Peer:
    """Return a pod of the chart as others on the network see it."""
    found = one(objects, kind, name)
    template = found if kind == "Pod" else found["spec"]["template"]
    ports = {
        port["name"]: port["containerPort"]
        for container in template["spec"]["containers"]
        for port in container.get("ports", ())
    }
    return Peer(NAMESPACE, template["metadata"]["labels"], ports)


def worker(namespace: str = NAMESPACE) -> Peer:
    """Return a pod that the operator makes."""
    return Peer(namespace, worker_labels("orders"), {"metrics": METRICS_PORT})


def pods(values: dict[str, Any]) -> tuple[list[Object], dict[str, Peer]]:
    """Return the policies, and every pod there is by what it is."""
    objects = render(values)
    found = {
        "operator": pod_of(objects, "Deployment", f"{NAME}-operator"),
        "test": pod_of(objects, "Pod", f"{NAME}-test"),
        "worker": worker(),
        "client": Peer(NAMESPACE, {"meshhook.io/client": "true"}),
        "stranger": Peer(NAMESPACE, {"app": "shop"}),
        "prometheus": Peer("monitoring", {"app": "prometheus"}),
        "dns": Peer("kube-system", {"k8s-app": "kube-dns"}, {"dns": 53}),
        "outside": OUTSIDE,
        "cloud metadata": CLOUD_METADATA,
    }
    if select(objects, "StatefulSet"):
        found["database"] = pod_of(objects, "StatefulSet", f"{NAME}-database")
    if select(objects, "Job"):
        found["migrations"] = pod_of(objects, "Job", f"{NAME}-migrations")
    return select(objects, "NetworkPolicy"), found


PORTS = {53: "UDP", 80: "TCP", 443: "TCP", 5432: "TCP", 6443: "TCP", METRICS_PORT: "TCP"}
KEPT_APART = ("operator", "test", "worker", "database", "migrations")


def open_ways(values: dict[str, Any]) -> set[tuple[str, str, int]]:
    """Return every connection that may be made from or to a pod of the chart or a worker."""
    policies, found = pods(values)
    return {
        (source, target, port)
        for source, from_ in found.items()
        for target, to in found.items()
        for port, protocol in PORTS.items()
        if source != target
        and (source in KEPT_APART or target in KEPT_APART)
        and allowed(policies, from_, to, port, protocol)
    }


def ways_out(source: str, ports: tuple[int, ...], targets: tuple[str, ...]) -> set[Any]:
    """Return the ways from one pod to several others."""
    return {(source, target, port) for port in ports for target in targets}


OPEN = ("client", "stranger", "prometheus", "dns", "outside", "cloud metadata")
READERS = (*OPEN, "worker")
"""Whose way out no policy of the chart limits."""


def test_with_the_database_of_the_chart_these_ways_are_open_and_no_other():
    """Its port is for the operator, workers, the test and clients; metrics are for everyone."""
    assert open_ways({}) == {
        *ways_out("operator", (53, 443, 5432, 6443), OPEN),
        *ways_out("test", (53, 5432), OPEN),
        *ways_out("worker", tuple(PORTS), OPEN),
        *((source, "database", 5432) for source in ("operator", "test", "worker", "client")),
        *((source, "operator", METRICS_PORT) for source in READERS),
        *((source, "worker", METRICS_PORT) for source in OPEN),
    }


def test_with_a_database_of_your_own_these_ways_are_open_and_no_other():
    """Migrations and the test reach databases and name servers, and nobody reaches them."""
    assert open_ways(OWN_DATABASE) == {
        *ways_out("operator", (53, 443, 5432, 6443), OPEN),
        *ways_out("test", (53, 5432), OPEN),
        *ways_out("migrations", (53, 5432), OPEN),
        *ways_out("worker", tuple(PORTS), OPEN),
        *((source, "operator", METRICS_PORT) for source in READERS),
        *((source, "worker", METRICS_PORT) for source in OPEN),
    }


def test_everything_can_be_kept_to_where_it_has_to_go():
    """With all places named, a worker reaches its database and what its handlers call."""
    to_pods = [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "shop"}}}]
    narrow = {
        "metricsFrom": [{"namespaceSelector": {"matchLabels": metadata_name("monitoring")}}],
        "databaseTo": [{"ipBlock": {"cidr": "203.0.113.0/24"}}],
        "apiServerTo": [{"ipBlock": {"cidr": "203.0.113.0/24"}}],
        "nameServerTo": [{"namespaceSelector": {"matchLabels": metadata_name("kube-system")}}],
        "operatorEgress": [{"ports": [{"port": 80}], "to": to_pods}],
        "workers": {"limitEgress": True, "egress": [{"ports": [{"port": 443}], "to": to_pods}]},
    }
    assert open_ways(OWN_DATABASE | {"networkPolicy": narrow}) == {
        *((source, "dns", 53) for source in ("operator", "test", "migrations", "worker")),
        *((source, "outside", 5432) for source in ("operator", "test", "migrations", "worker")),
        ("operator", "outside", 443),
        ("operator", "outside", 6443),
        ("operator", "stranger", 80),
        ("worker", "stranger", 443),
        ("prometheus", "operator", METRICS_PORT),
        ("prometheus", "worker", METRICS_PORT),
    }


def metadata_name(namespace: str) -> dict[str, str]:
    """Return the label by which a namespace is known."""
    return {"kubernetes.io/metadata.name": namespace}


def test_ports_are_those_that_you_name():
    """Those of databases and of the API server replace the defaults."""
    policies, found = pods({"networkPolicy": {"databasePorts": [25060], "apiServerPorts": [1443]}})
    reached = {
        port
        for port in (443, 1443, 5432, 25060)
        if allowed(policies, found["operator"], OUTSIDE, port)
    }
    assert reached == {1443, 25060}


@pytest.mark.parametrize("port", ["databasePorts", "apiServerPorts"])
def test_no_ports_would_be_all_ports(port):
    """A rule without ports is for all of them: refused."""
    with pytest.raises(HelmError, match=port):
        render({"networkPolicy": {port: []}})


def test_workers_of_watched_namespaces_reach_the_embedded_database():
    """They are known by label and namespace; other pods of that namespace are not let in."""
    objects = render({"operator": {"watchNamespaces": ["shop", "mail"]}})
    policies = select(objects, "NetworkPolicy")
    database = pod_of(objects, "StatefulSet", f"{NAME}-database")
    assert allowed(policies, worker("mail"), database, 5432)
    assert not allowed(policies, worker("other"), database, 5432)
    assert not allowed(policies, Peer("mail", {"app": "shop"}), database, 5432)


def test_others_can_be_let_into_the_embedded_database():
    """networkPolicy.databaseFrom adds to those that always may."""
    others = [{"namespaceSelector": {"matchLabels": metadata_name("shop")}}]
    policies, found = pods({"networkPolicy": {"databaseFrom": others}})
    assert allowed(policies, Peer("shop", {}), found["database"], 5432)
    assert allowed(policies, found["client"], found["database"], 5432)
    assert not allowed(policies, found["stranger"], found["database"], 5432)
