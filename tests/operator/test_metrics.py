"""The operator's series of one JobQueue."""

from __future__ import annotations

import time

import pytest
from prometheus_client import CollectorRegistry

from meshhook_operator.metrics import OperatorMetrics


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic clock, settable by the test; the wall clock is wrong."""
    now = [1_000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "time", lambda: 0.0)
    return now


def test_the_age_of_the_last_decision_needs_no_clock_that_is_right(clock: list[float]) -> None:
    """It grows from when the JobQueue is first seen, and restarts with each decision."""
    registry = CollectorRegistry()
    metrics = OperatorMetrics(registry).of_jobqueue("orders", "shop/orders")

    def age() -> float | None:
        return registry.get_sample_value(
            "meshhook_scaler_last_success_age_seconds",
            {"queue": "orders", "jobqueue": "shop/orders"},
        )

    assert age() == 0
    clock[0] += 301
    assert age() == 301
    metrics.succeeded()
    clock[0] += 2
    assert age() == 2
    metrics.remove()
    assert age() is None
