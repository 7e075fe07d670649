"""JobSchedules for tests, as the API server would give them."""

from __future__ import annotations

from typing import Any

from meshhook_operator.api.jobschedule import JobSchedule


def jobschedule_body(
    name: str = "nightly", *, generation: int = 1, second: int = 5, **spec: Any
) -> dict[str, Any]:
    """Return a JobSchedule; what is given replaces fields of its spec, None takes one away.

    Args:
        name: its name.
        generation: of the spec.
        second: of its creation, which its uid is made of, too.
        spec: fields of the spec.
    """
    found: dict[str, Any] = {"jobQueueRef": {"name": "jobs"}, "cron": "0 3 * * *"} | spec
    return {
        "apiVersion": "meshhook.io/v1alpha1",
        "kind": "JobSchedule",
        "metadata": {
            "name": name,
            "namespace": "shop",
            "uid": f"{name}-{second}",
            "generation": generation,
            "creationTimestamp": f"2026-01-02T03:04:{second:02d}Z",
        },
        "spec": {key: value for key, value in found.items() if value is not None},
    }


def jobschedule(name: str = "nightly", **changes: Any) -> JobSchedule:
    """Return the same, taken in."""
    return JobSchedule.from_body(jobschedule_body(name, **changes))


def jobschedule_with(status: dict[str, Any], **changes: Any) -> JobSchedule:
    """Return a JobSchedule that has this status."""
    return JobSchedule.from_body(jobschedule_body(**changes) | {"status": status})
