"""What the operator needs to know about a Deployment."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from meshhook_operator.api.jobqueue import ObjectKey

if TYPE_CHECKING:
    from collections.abc import Mapping

FIELD_MANAGER = "meshhook-operator"
_POD_NAME = re.compile(r'^pods? "[^"]*" is (?:forbidden|invalid): ', re.IGNORECASE)


class LabelTerm(NamedTuple):
    """One term of a label selector, as in `matchExpressions`."""

    key: str
    operator: str
    """In, NotIn, Exists or DoesNotExist."""
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentView:
    """One version of a Deployment."""

    key: ObjectKey
    uid: str
    resource_version: int
    """Grows with every change."""
    generation: int
    """Grows with every change of its spec."""
    replicas: int
    """The number in its spec."""
    ready_replicas: int
    existing_replicas: int
    """Existing pods, including surge pods of a rollout."""
    rolling_out: bool
    """Whether pods of an older template are left."""
    owner_uid: str | None
    """The uid of the controller that owns it."""
    selector: tuple[LabelTerm, ...]
    """The label selector of its pods."""
    replicas_managers: tuple[str, ...]
    """The field managers of `spec.replicas` other than this operator."""
    labels: frozenset[tuple[str, str]]
    refusal: str | None = None
    """Why the API server refuses to create pods, in its words; None if it does not."""

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> DeploymentView:
        """Parse an object of the API server."""
        metadata = body["metadata"]
        spec = body["spec"]
        status = body.get("status") or {}
        updated = status.get("updatedReplicas", 0)
        existing = status.get("replicas", 0)
        owners = metadata.get("ownerReferences") or ()
        return cls(
            key=ObjectKey(metadata["namespace"], metadata["name"]),
            uid=metadata["uid"],
            resource_version=int(metadata["resourceVersion"]),
            generation=metadata.get("generation", 0),
            replicas=spec.get("replicas", 1),
            ready_replicas=status.get("readyReplicas", 0),
            existing_replicas=existing,
            # Pods that do not exist yet are not a rollout; pods of an older template are.
            rolling_out=existing > updated,
            owner_uid=next((each["uid"] for each in owners if each.get("controller")), None),
            selector=_selector(spec.get("selector") or {}),
            replicas_managers=_replicas_managers(metadata.get("managedFields") or ()),
            labels=frozenset((metadata.get("labels") or {}).items()),
            refusal=_refusal(status.get("conditions") or ()),
        )


def _selector(selector: Mapping[str, Any]) -> tuple[LabelTerm, ...]:
    labels = selector.get("matchLabels") or {}
    expressions = selector.get("matchExpressions") or ()
    return tuple(LabelTerm(key, "In", (value,)) for key, value in labels.items()) + tuple(
        LabelTerm(each["key"], each["operator"], tuple(each.get("values") or ()))
        for each in expressions
    )


def _refusal(conditions: Any) -> str | None:
    for condition in conditions:
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            # The name of the pod is another one at each try.
            return _POD_NAME.sub("", condition.get("message") or "the API server gives no reason")
    return None


def _replicas_managers(managed_fields: Any) -> tuple[str, ...]:
    return tuple(
        sorted(
            {
                entry.get("manager", "unknown")
                for entry in managed_fields
                if entry.get("manager") != FIELD_MANAGER
                and "f:replicas" in (entry.get("fieldsV1") or {}).get("f:spec", {})
            }
        )
    )
