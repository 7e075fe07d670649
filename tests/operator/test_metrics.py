"""The operator's series of one JobQueue."""

from __future__ import annotations

import time

import pytest
from prometheus_client import CollectorRegistry

from meshhook.observability.metrics import METRICS
from meshhook_operator.cluster.pod_troubles import PodProblem
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


def test_failing_pods_have_series_only_after_they_failed():
    """A queue whose pods never fail costs no series; after a failure it stays, at zero."""
    registry = CollectorRegistry()
    metrics = OperatorMetrics(registry).of_jobqueue("orders", "shop/orders")

    def failing(reason: str) -> float | None:
        labels = {"queue": "orders", "jobqueue": "shop/orders", "reason": reason}
        return registry.get_sample_value("meshhook_scaler_failing_pods", labels)

    metrics.pods_failed({})
    assert failing("CrashLoop") is None
    metrics.pods_failed({"CrashLoop": 2})
    metrics.pods_failed({"ImagePullFailed": 1})
    assert (failing("CrashLoop"), failing("ImagePullFailed")) == (0, 1)
    metrics.remove()
    assert failing("CrashLoop") is None


def test_every_problem_of_pods_is_in_the_table():
    """The table of metrics names the problems that the operator tells apart."""
    known = METRICS["meshhook_scaler_failing_pods"].values["reason"]
    assert known == tuple(problem.value for problem in PodProblem)
