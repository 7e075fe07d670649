"""Fixtures of the operator's tests."""

from __future__ import annotations

import pytest

from meshhook_operator.databases import database


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for a database longer than a tick of the operator does, as on a busy machine."""
    for name in ("TICK_TIMEOUT_SECONDS", "FIRST_TICK_TIMEOUT_SECONDS", "REPORT_TIMEOUT_SECONDS"):
        monkeypatch.setattr(database, name, 30.0)
