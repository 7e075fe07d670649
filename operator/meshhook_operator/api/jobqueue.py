"""A `JobQueue` as received from the API server, with what is wrong with its spec."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic.alias_generators import to_camel

from meshhook.escaping import quoted, shown
from meshhook.priorities import PRIORITY_NAMES
from meshhook_operator.api.keys_spec import KeysSpec
from meshhook_operator.api.priorities_spec import PrioritiesSpec
from meshhook_operator.api.scaling_spec import ScalingSpec, StepLimit
from meshhook_operator.api.spec import KEYS_OR_PRIORITIES, JobQueueSpec
from meshhook_operator.api.status import JobQueueStatus
from meshhook_operator.api.worker_spec import WORKER_ENVIRONMENT, WorkerSpec

_NAME_LIMIT = 100
"""How many characters of a field's name are shown."""


class ObjectKey(NamedTuple):
    """Namespace and name."""

    namespace: str
    name: str

    def __str__(self) -> str:
        """Return `namespace/name`."""
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
    """None if it is not valid; `problem` says why."""
    deployment_key: ObjectKey | None = None
    """The Deployment that is scaled; None if the spec is not valid."""
    problem: str = ""
    """What is wrong with the spec, naming the field; empty if nothing is."""
    status: JobQueueStatus = field(default_factory=JobQueueStatus)
    """What an operator last wrote."""
    finalizers: tuple[str, ...] = ()
    is_deleting: bool = False

    @property
    def owns_deployment(self) -> bool:
        """Whether the operator creates the Deployment rather than only scale it."""
        return self.spec is not None and self.spec.worker is not None

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> JobQueue:
        """Parse an object of the API server."""
        metadata = body["metadata"]
        spec, problem = _parsed_spec(body.get("spec"))
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


def _parsed_spec(found: object) -> tuple[JobQueueSpec | None, str]:
    if not isinstance(found, Mapping):
        return None, f"spec: Input should be an object, not {type(found).__name__}"
    try:
        spec = JobQueueSpec.model_validate(dict(found))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        # The name of an unknown field may hold anything.
        names = (shown(str(part), limit=_NAME_LIMIT) for part in ("spec", *first["loc"]))
        return None, f"{'.'.join(names)}: {first['msg']}"
    problem = next(_broken_rules(spec), "")
    return (None, problem) if problem else (spec, "")


def _broken_rules(spec: JobQueueSpec) -> Iterator[str]:
    """Yield what is wrong with combinations of fields.

    The API server checks the same rules, except for a JobQueue that is older than a rule.
    """
    retry = spec.retry
    if (spec.worker is None) == (spec.deployment_ref is None):
        yield "spec: give exactly one of worker and deploymentRef"
    if spec.queue_name.endswith("_dlq"):
        yield "spec.queueName: names that end in _dlq belong to dead letter queues"
    if retry.backoff_base_ms > retry.backoff_max_ms:
        yield (
            f"spec.retry: backoffBaseMs ({retry.backoff_base_ms}) is more than "
            f"backoffMaxMs ({retry.backoff_max_ms})"
        )
    if spec.keys is not None:
        yield from _broken_keys_rules(spec.keys)
    if spec.priorities is not None:
        yield from _broken_priorities_rules(spec.priorities)
        if spec.priorities.enabled and spec.keys is not None and spec.keys.enabled:
            yield f"spec: {KEYS_OR_PRIORITIES}"
    yield from _broken_scaling_rules(spec.scaling)
    if spec.worker is not None:
        yield from _broken_worker_rules(spec.worker)


def _broken_keys_rules(keys: KeysSpec) -> Iterator[str]:
    others = sorted(keys.model_fields_set - {"enabled"})
    if not keys.enabled and others:
        yield (
            f"spec.keys: enabled is false, and {to_camel(others[0])} is given: set enabled to "
            "true, or leave out the other fields"
        )
    pause_seconds, max_pause_seconds = (
        (keys.breaker.pause_seconds, keys.breaker.max_pause_seconds)
        if keys.breaker
        else (None, None)
    )
    if pause_seconds and max_pause_seconds and pause_seconds > max_pause_seconds:
        yield (
            f"spec.keys.breaker: pauseSeconds ({pause_seconds:g}) is more than "
            f"maxPauseSeconds ({max_pause_seconds:g})"
        )
    seen: set[str] = set()
    for override in keys.overrides:
        name = f"spec.keys.overrides: key {quoted(override.key)}"
        if override.key in seen:
            yield f"{name} is given twice: keep one of them"
        seen.add(override.key)
        if override.weight is None and override.max_running is None and override.max_starts is None:
            yield f"{name}: give weight, maxRunning or maxStarts"


def _broken_priorities_rules(priorities: PrioritiesSpec) -> Iterator[str]:
    others = sorted(priorities.model_fields_set - {"enabled"})
    if not priorities.enabled and others:
        yield (
            f"spec.priorities: enabled is false, and {to_camel(others[0])} is given: set enabled "
            "to true, or leave out the other fields"
        )
    targets = priorities.target_seconds.in_order if priorities.target_seconds else []
    named = zip(PRIORITY_NAMES, targets, strict=False)
    for (name, seconds), (following, more) in pairwise(named):
        if seconds > more:
            yield (
                f"spec.priorities.targetSeconds: {name} ({seconds:g}) is more than {following} "
                f"({more:g})"
            )


def _broken_worker_rules(worker: WorkerSpec) -> Iterator[str]:
    if (worker.handler is None) == (worker.app is None):
        yield "spec.worker: give exactly one of handler and app"
    for variable in worker.env:
        if variable.name in WORKER_ENVIRONMENT:
            yield f"spec.worker.env: the operator sets {variable.name} itself"


def _broken_scaling_rules(scaling: ScalingSpec) -> Iterator[str]:
    low, high = scaling.min_replicas, scaling.max_replicas
    if low > high:
        yield f"spec.scaling: minReplicas ({low}) is more than maxReplicas ({high})"
    if scaling.fallback is not None and scaling.fallback.replicas > high:
        replicas = scaling.fallback.replicas
        yield f"spec.scaling: fallback.replicas ({replicas}) is more than maxReplicas ({high})"
    if scaling.tick_seconds is not None and scaling.tick_seconds > scaling.target_age_seconds:
        yield (
            f"spec.scaling: tickSeconds ({scaling.tick_seconds}) is more than "
            f"targetAgeSeconds ({scaling.target_age_seconds})"
        )
    for name, limit in (("scaleUp", scaling.scale_up), ("scaleDown", scaling.scale_down)):
        if _has_only_a_period(limit):
            yield f"spec.scaling.{name}: give replicas, percent or both"


def _has_only_a_period(limit: StepLimit) -> bool:
    return limit.period_seconds is not None and limit.replicas is None and limit.percent is None


def _parsed_status(found: object) -> JobQueueStatus:
    try:
        return JobQueueStatus.model_validate(dict(found) if isinstance(found, Mapping) else found)
    except ValidationError:
        return JobQueueStatus()  # written by another version; it will be replaced
