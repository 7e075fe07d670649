"""Fixtures of the operator's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from meshhook_operator.databases import database
from meshhook_operator.reconciliation import queue_schedules
from support.declared_jobschedules import Declared, make


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for a database longer than a tick of the operator does, as on a busy machine."""
    for name in ("TICK", "FIRST_TICK", "REPORT", "SCHEDULE"):
        monkeypatch.setattr(database, f"{name}_TIMEOUT_SECONDS", 30.0)


@pytest.fixture
async def declared(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Declared]:
    """The JobSchedules of queue `jobs`; the operator looks each time."""
    monkeypatch.setattr(queue_schedules, "LOOK_SECONDS", 0.0)
    found = make(database_url)
    await found.declared_schedules("jobs")  # as a tick, which finds out which database it is
    yield Declared(found)
    await found.close()
