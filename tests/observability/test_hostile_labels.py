"""Labels of metrics whose values come from handlers."""

from __future__ import annotations

import pytest
from hypothesis import given
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from meshhook.observability.worker_metrics import MAX_ERROR_TYPES, WorkerMetrics
from support.hostile import TEXTS, is_safe_line


def _labels(registry: CollectorRegistry) -> list[str]:
    page = generate_latest(registry).decode()
    return [
        sample.labels["error_type"]
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == "meshhook_worker_errors_total"
    ]


@given(TEXTS)
def test_the_name_of_an_error_is_one_safe_label(error_type):
    """A handler gives its exceptions any name."""
    registry = CollectorRegistry()
    metrics = WorkerMetrics("jobs", registry)
    metrics.errors(error_type)
    metrics.errors(error_type)
    labels = _labels(registry)
    assert len(labels) == len({*labels})
    assert all(is_safe_line(label) and len(label) <= 200 for label in labels)


@pytest.mark.parametrize("form", ["E{}", "\x1b{}"])
def test_names_without_end_are_one_series(form):
    """And what has one keeps it."""
    registry = CollectorRegistry()
    metrics = WorkerMetrics("jobs", registry)
    for n in range(1_000):
        metrics.errors(form.format(n))
    assert len(_labels(registry)) == MAX_ERROR_TYPES + 1
    assert "_OTHER" in _labels(registry)
