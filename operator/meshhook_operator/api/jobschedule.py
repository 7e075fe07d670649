"""A `JobSchedule` as received from the API server, with what is wrong with its spec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from meshhook.errors import MeshHookError
from meshhook.escaping import shown
from meshhook.new_schedule import NewSchedule
from meshhook_operator.api.jobqueue import ObjectKey
from meshhook_operator.api.schedule_spec import JobScheduleSpec, JobScheduleStatus

_NAME_LIMIT = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSchedule:
    """One version of a JobSchedule."""

    key: ObjectKey
    uid: str
    generation: int
    created_at: float
    """Seconds since 1970."""
    spec: JobScheduleSpec | None
    """None if it is not valid; `problem` says why."""
    problem: str = ""
    """What is wrong with the spec, naming the field; empty if nothing is."""
    jobqueue_key: ObjectKey | None = None
    """The JobQueue that it refers to; None if that cannot be read."""
    status: JobScheduleStatus = field(default_factory=JobScheduleStatus)
    """What an operator last wrote."""
    is_deleting: bool = False

    @property
    def schedule_name(self) -> str:
        """The name of the schedule in its queue."""
        return (self.spec.schedule_name if self.spec else None) or self.key.name

    def schedule_of(self, queue_name: str) -> NewSchedule:
        """Return the schedule that it declares for its queue.

        Raises:
            MeshHookError: naming what is wrong, such as the cron expression.
        """
        spec = self.spec
        assert spec is not None, "asked of a JobSchedule whose spec is not valid"  # noqa: S101
        return NewSchedule.of(
            queue_name,
            self.schedule_name,
            spec.cron,
            every=spec.every_seconds,
            tz=spec.time_zone or "UTC",
            payload=spec.payload,
            key=spec.key,
            priority=spec.priority,
            headers=spec.headers or None,
            missed=spec.missed,
            overlap=spec.overlap,
        )

    def with_status(self, status: JobScheduleStatus) -> JobSchedule:
        """Return this version with what was written to its status since."""
        return replace(self, status=status)

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> JobSchedule:
        """Parse an object of the API server."""
        metadata = body["metadata"]
        key = ObjectKey(metadata["namespace"], metadata["name"])
        found = body.get("spec")
        spec, problem = _parsed_spec(found)
        jobschedule = cls(
            key=key,
            uid=metadata["uid"],
            generation=metadata.get("generation", 0),
            created_at=datetime.fromisoformat(metadata["creationTimestamp"]).timestamp(),
            spec=spec,
            problem=problem,
            jobqueue_key=_jobqueue_key(key.namespace, found),
            status=_parsed_status(body.get("status") or {}),
            is_deleting=metadata.get("deletionTimestamp") is not None,
        )
        return _checked(jobschedule)


def _checked(jobschedule: JobSchedule) -> JobSchedule:
    """Return it as it is, or without its spec if that declares no schedule."""
    if jobschedule.spec is None:
        return jobschedule
    try:
        jobschedule.schedule_of("queue")
    except MeshHookError as error:
        return replace(jobschedule, spec=None, problem=f"spec: {error}")
    except Exception as error:  # noqa: BLE001 - anybody may have written it, as deeply as they like
        problem = f"spec: it declares no schedule: {type(error).__name__}"
        return replace(jobschedule, spec=None, problem=problem)
    return jobschedule


def _jobqueue_key(namespace: str, spec: object) -> ObjectKey | None:
    reference = spec.get("jobQueueRef") if isinstance(spec, Mapping) else None
    name = reference.get("name") if isinstance(reference, Mapping) else None
    return ObjectKey(namespace, name) if isinstance(name, str) else None


def _parsed_spec(found: object) -> tuple[JobScheduleSpec | None, str]:
    if not isinstance(found, Mapping):
        return None, f"spec: Input should be an object, not {type(found).__name__}"
    try:
        return JobScheduleSpec.model_validate(dict(found)), ""
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        names = (shown(str(part), limit=_NAME_LIMIT) for part in ("spec", *first["loc"]))
        return None, f"{'.'.join(names)}: {first['msg']}"


def _parsed_status(found: object) -> JobScheduleStatus:
    try:
        return JobScheduleStatus.model_validate(
            dict(found) if isinstance(found, Mapping) else found
        )
    except ValidationError:
        return JobScheduleStatus()  # written by another version; it will be replaced
