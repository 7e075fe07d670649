"""A job as a claim hands it out, for tests that need no database."""

from __future__ import annotations

from typing import Any

from meshhook import Job


def claimed_job(body: str = "{}", headers: dict[str, Any] | None = None) -> Job[Any]:
    """Return the first attempt of a job with a body that is not decoded yet."""
    return Job(
        queue="jobs",
        msg_id=1,
        attempt=1,
        max_attempts=5,
        enqueued_timestamp=0.0,
        ready_timestamp=0.0,
        claimed_timestamp=0.0,
        headers=headers or {},
        body=body,
    )
