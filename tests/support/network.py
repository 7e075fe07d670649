"""What NetworkPolicies allow, worked out from the objects, as Kubernetes describes it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Object = dict[str, Any]


@dataclass(frozen=True)
class Peer:
    """A pod, or an address outside of the cluster.

    Attributes:
        namespace: that of the pod; empty for an address outside.
        labels: of the pod.
        ports: the named ports of the pod.
        address: of who is outside.
    """

    namespace: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    ports: Mapping[str, int] = field(default_factory=dict)
    address: str = "203.0.113.7"


def allowed(
    policies: Iterable[Object], source: Peer, target: Peer, port: int, protocol: str = "TCP"
) -> bool:
    """Return whether a connection may be made: both ends must let it pass."""
    policies = list(policies)
    place = _Place(target, port, protocol)
    return _lets_pass(policies, "Egress", (source, target), place) and _lets_pass(
        policies, "Ingress", (target, source), place
    )


class _Place(NamedTuple):
    """Where a connection leads."""

    target: Peer
    port: int
    protocol: str


def _lets_pass(
    policies: list[Object], direction: str, ends: tuple[Peer, Peer], place: _Place
) -> bool:
    own, other = ends
    mine = [
        each["spec"]
        for each in policies
        if own.namespace
        and each["metadata"]["namespace"] == own.namespace
        and direction in each["spec"]["policyTypes"]
        and _selects(each["spec"]["podSelector"], own.labels)
    ]
    if not mine:
        return True  # who is selected by no policy is open
    key, peers = ("egress", "to") if direction == "Egress" else ("ingress", "from")
    return any(
        _has_port(rule.get("ports"), place)
        and _has_peer(rule.get(peers), other, spec_namespace=own.namespace)
        for spec in mine
        for rule in spec.get(key, ())
    )


def _has_port(ports: list[Object] | None, place: _Place) -> bool:
    if not ports:
        return True
    named = place.target.ports
    return any(
        each.get("protocol", "TCP") == place.protocol
        and (named.get(each["port"]) if isinstance(each["port"], str) else each["port"])
        == place.port
        for each in ports
    )


def _has_peer(peers: list[Object] | None, other: Peer, *, spec_namespace: str) -> bool:
    if not peers:
        return True
    return any(_is_peer(each, other, spec_namespace) for each in peers)


def _is_peer(peer: Object, other: Peer, spec_namespace: str) -> bool:
    if "ipBlock" in peer:
        block = peer["ipBlock"]
        address = ipaddress.ip_address(other.address)
        return (
            not other.namespace
            and address in ipaddress.ip_network(block["cidr"])
            and not any(address in ipaddress.ip_network(each) for each in block.get("except", ()))
        )
    if not other.namespace:
        return False
    if "namespaceSelector" in peer:
        labels = {"kubernetes.io/metadata.name": other.namespace}
        if not _selects(peer["namespaceSelector"], labels):
            return False
    elif other.namespace != spec_namespace:
        return False
    return _selects(peer.get("podSelector", {}), other.labels)


def _selects(selector: Object, labels: Mapping[str, str]) -> bool:
    if not selector.get("matchLabels", {}).items() <= labels.items():
        return False
    return all(_holds(each, labels) for each in selector.get("matchExpressions", ()))


def _holds(expression: Object, labels: Mapping[str, str]) -> bool:
    found = labels.get(expression["key"])
    match expression["operator"]:
        case "In":
            return found in expression["values"]
        case "NotIn":
            return found not in expression["values"]
        case "Exists":
            return found is not None
        case "DoesNotExist":
            return found is None
        case other:
            raise ValueError(f"operator {other!r} is none of a label selector")
