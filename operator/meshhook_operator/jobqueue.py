"""A `JobQueue` as it was received: who it is, what it asks for, and what is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import ValidationError

from meshhook_operator.observed import JobQueueStatus
from meshhook_operator.resources import JobQueueSpec

if TYPE_CHECKING:
    from collections.abc import Mapping


class ObjectKey(NamedTuple):
    """Namespace and name."""

    namespace: str
    name: str

    def __str__(self) -> str:
        """As people write it: `namespace/name`."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobQueue:
    """One version of a JobQueue."""

    key: ObjectKey
    uid: str
    generation: int
    created_at: float
    """Seconds since 1970."""
    spec: JobQueueSpec | None
    """None if it is not valid: `problem` says why."""
    deployment_key: ObjectKey | None = None
    """The Deployment that is scaled; None if the spec is not valid."""
    problem: str = ""
    """What is wrong with the spec, naming the field; empty if nothing is."""
    status: JobQueueStatus = field(default_factory=JobQueueStatus)
    """What an operator wrote last."""
    finalizers: tuple[str, ...] = ()
    is_deleting: bool = False

    @property
    def owns_deployment(self) -> bool:
        """Whether the operator makes the Deployment, and does not only scale it."""
        return self.spec is not None and self.spec.worker is not None

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> JobQueue:
        """Take an object as the API server gives it."""
        metadata = body["metadata"]
        spec, problem = _parsed_spec(body.get("spec", {}))
        key = ObjectKey(metadata["namespace"], metadata["name"])
        return cls(
            key=key,
            uid=metadata["uid"],
            generation=metadata.get("generation", 0),
            created_at=datetime.fromisoformat(metadata["creationTimestamp"]).timestamp(),
            spec=spec,
            deployment_key=None if spec is None else _deployment_key(key, spec),
            problem=problem,
            status=_parsed_status(body.get("status") or {}),
            finalizers=tuple(metadata.get("finalizers") or ()),
            is_deleting=metadata.get("deletionTimestamp") is not None,
        )


def _deployment_key(key: ObjectKey, spec: JobQueueSpec) -> ObjectKey:
    if spec.deployment_ref is not None:
        return ObjectKey(key.namespace, spec.deployment_ref.name)
    return ObjectKey(key.namespace, f"{key.name}-worker")


def _parsed_spec(found: Mapping[str, Any]) -> tuple[JobQueueSpec | None, str]:
    try:
        spec = JobQueueSpec.model_validate(dict(found))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in ("spec", *first["loc"]))
        return None, f"{field}: {first['msg']}"
    if (spec.worker is None) == (spec.deployment_ref is None):
        return None, "spec: give exactly one of worker and deploymentRef"
    low, high = spec.scaling.min_replicas, spec.scaling.max_replicas
    if low > high:  # older than the rule of the API server that rules it out
        return None, f"spec.scaling: minReplicas ({low}) is more than maxReplicas ({high})"
    return spec, ""


def _parsed_status(found: Mapping[str, Any]) -> JobQueueStatus:
    try:
        return JobQueueStatus.model_validate(dict(found))
    except ValidationError:
        return JobQueueStatus()  # of another version: it is written anew
