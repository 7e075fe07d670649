"""Rows that say how an operator scales a queue, written as the operator writes them."""

from __future__ import annotations

from dataclasses import astuple, replace
from typing import Any

from meshhook_operator.databases.demand import load
from meshhook_operator.databases.scaling_row import ScalingRow

ROW = ScalingRow(
    queue="jobs",
    jobqueue_uid="0d1cf3ad-8f0c-4f52-9f52-000000000001",
    jobqueue="shop/jobs",
    deployment="jobs-worker",
    target_age_seconds=30.0,
    min_replicas=1,
    max_replicas=20,
    replicas=2,
    ready_replicas=2,
    desired_replicas=4,
    state="Operating",
    reason="1,200 jobs wait, which calls for 4 replicas.",
    scaled_at=None,
)


async def write_scaling(connection: Any, *, uid: str | None = None, **fields: Any) -> None:
    """Write the row of a JobQueue; what is given replaces fields of `ROW`."""
    if uid is not None:
        fields["jobqueue_uid"] = uid
    await connection.execute(load("report_scaling"), *astuple(replace(ROW, **fields)))
