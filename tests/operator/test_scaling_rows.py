"""The row of one JobQueue: written when it changes and every minute, and never in the way."""

from __future__ import annotations

from typing import Any, cast

import pytest

from meshhook.errors import DatabaseError, DatabaseUnavailableError
from meshhook_operator.api.status import JobQueueStatus
from meshhook_operator.databases.scaling_row import ScalingRow
from meshhook_operator.errors import NotLeadingError
from meshhook_operator.reconciliation.scaling_rows import ScalingRows, row_of
from support.jobqueues import UID, jobqueue

STATUS = JobQueueStatus.model_validate(
    {
        "state": "Operating",
        "replicas": 2,
        "ready_replicas": 1,
        "desired_replicas": 4,
        "last_scale_time": "2026-12-01T02:03:04Z",
        "scaling": {"message": "1,200 jobs wait."},
    }
)


class Setting:
    """Rows of one JobQueue with a clock and a database that obeys."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.generation = "first"
        self.written: list[ScalingRow] = []
        self.error: DatabaseError | None = None
        self.may_write = True
        self.rows = ScalingRows(clock=lambda: self.now, check_may_write=self._check)

    def _check(self, namespace: str) -> None:
        assert namespace == "shop"
        if not self.may_write:
            raise NotLeadingError("another process leads")

    async def report_scaling(self, row: ScalingRow) -> None:
        """Write, as the database does."""
        if self.error is not None:
            raise self.error
        self.written.append(row)

    async def after(self, seconds: float, status: JobQueueStatus = STATUS) -> int:
        """Let time pass, and return how many rows are written then."""
        self.now += seconds
        self.written.clear()
        found = jobqueue()
        assert found.spec is not None
        await self.rows.ensure(found, found.spec, status, cast("Any", self))
        return len(self.written)


@pytest.fixture
def setting() -> Setting:
    """A JobQueue that was never reported."""
    return Setting()


def test_a_row_says_what_the_status_says():
    """Its target and its limits are those of the spec."""
    found = jobqueue(scaling={"maxReplicas": 20, "targetAgeSeconds": 45})
    assert found.spec is not None
    row = row_of(found, found.spec, STATUS)
    assert (row.queue, row.jobqueue, row.jobqueue_uid) == ("emails", "shop/emails", UID)
    assert (row.target_age_seconds, row.min_replicas, row.max_replicas) == (45.0, 1, 20)
    assert (row.replicas, row.ready_replicas, row.desired_replicas) == (2, 1, 4)
    assert (row.state, row.reason) == ("Operating", "1,200 jobs wait.")
    assert row.scaled_at is not None
    assert row.scaled_at.isoformat() == "2026-12-01T02:03:04+00:00"


@pytest.mark.parametrize("text", ["yesterday", "", None])
def test_a_status_that_somebody_else_wrote_is_no_obstacle(text: str | None):
    """A time that is none is left out, and a reason is cut."""
    found = jobqueue()
    assert found.spec is not None
    odd = JobQueueStatus.model_validate(
        {"last_scale_time": text, "scaling": {"message": "x" * 9999}}
    )
    row = row_of(found, found.spec, odd)
    assert row.scaled_at is None
    assert row.reason is not None
    assert len(row.reason) == 4_000


async def test_it_is_written_when_it_changes_and_every_minute(setting: Setting):
    """Not with each tick; a change within ten seconds waits for these to pass."""
    assert await setting.after(0) == 1
    assert [await setting.after(10) for _ in range(12)] == [0, 0, 0, 0, 0, 1] * 2
    changed = STATUS.model_copy(update={"replicas": 4})
    assert await setting.after(5, changed) == 0
    assert await setting.after(5, changed) == 1
    assert await setting.after(10, changed) == 0


async def test_another_database_gets_it_at_once(setting: Setting):
    """After a failover, or a change of the URL, the row may not be there."""
    await setting.after(0)
    assert await setting.after(10) == 0
    setting.generation = "second"
    assert await setting.after(1) == 1


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (DatabaseError("permission denied for table queue_scaling"), 300),
        (DatabaseUnavailableError("the database did not answer within 2 seconds"), 60),
    ],
    ids=["refused", "too slow"],
)
async def test_a_refusal_raises_nothing_and_is_tried_again_later(
    setting: Setting, error: DatabaseError, seconds: float
):
    """Nor is the database asked with each tick."""
    setting.error = error
    assert await setting.after(0) == 0
    setting.error = None
    assert not setting.rows.has_written
    assert await setting.after(seconds - 1) == 0
    assert await setting.after(1) == 1
    assert setting.rows.has_written


async def test_only_the_leader_writes(setting: Setting):
    """A process that no longer leads writes nothing, and that is no error."""
    setting.may_write = False
    assert await setting.after(0) == 0


async def test_after_the_jobqueue_is_gone_nothing_is_written(setting: Setting):
    """Its row is deleted, and must not come back."""
    await setting.after(0)
    setting.rows.end()
    assert await setting.after(120, replace_state(STATUS)) == 0


def replace_state(status: JobQueueStatus) -> JobQueueStatus:
    """Return another status."""
    return status.model_copy(update={"state": "Paused"})
