"""The table of metrics obeys the rules for names, and its page is made from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshhook.observability.metrics import METRICS, Kind, Metric
from meshhook.observability.metrics_page import metrics_page

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
SET_BY_A_SCRAPE = {"job", "namespace", "pod", "instance", "service", "endpoint", "container"}


def test_the_page_is_what_the_table_says() -> None:
    """docs/metrics.md is made from the table; the module's docstring says how to write it anew."""
    assert PAGE.read_text() == metrics_page()


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_names_labels_and_helps(metric: Metric) -> None:
    """Counters end in _total, histograms have buckets, labels leave a scrape's own alone."""
    assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER)
    assert bool(metric.buckets) == (metric.kind is Kind.HISTOGRAM)
    assert list(metric.buckets) == sorted(set(metric.buckets))
    assert not SET_BY_A_SCRAPE & set(metric.labels)
    assert set(metric.values) <= set(metric.labels)
    assert metric.help.endswith(".")


def test_every_metric_is_on_the_page() -> None:
    """A new metric whose prefix no section knows does not stay out of the page."""
    missing = [name for name in METRICS if f"| `{name}` |" not in metrics_page()]
    assert missing == []
