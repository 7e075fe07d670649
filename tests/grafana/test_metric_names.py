"""The names of our metrics obey the rules of Prometheus."""

from __future__ import annotations

import subprocess

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.registry import Collector

from meshhook.observability.metrics import METRICS, Kind
from support.prometheus_tools import tool

SCRAPE_LABELS = {"job", "namespace", "pod", "instance", "service", "endpoint", "container"}


class _Everything(Collector):
    """Gives one series of every metric in the table."""

    def collect(self):
        for metric in METRICS.values():
            family = metric.family()
            values = ["x"] * len(metric.labels)
            if metric.kind is Kind.HISTOGRAM:
                bounds = [*map(float, metric.buckets), float("inf")]
                family.add_metric(values, [(str(bound), 1) for bound in bounds], sum_value=1)
            else:
                family.add_metric(values, 1)
            yield family


def test_promtool_accepts_the_metrics():
    """Promtool finds no fault with names, units, types and help texts."""
    registry = CollectorRegistry()
    registry.register(_Everything())
    done = subprocess.run(
        [tool("promtool"), "check", "metrics"],
        check=False,
        input=generate_latest(registry),
        capture_output=True,
    )

    assert done.returncode == 0, done.stderr.decode()
    assert not done.stderr


@pytest.mark.parametrize("metric", METRICS.values(), ids=lambda metric: metric.name)
def test_labels_leave_the_scrape_alone(metric):
    """No label has a name that Prometheus or Kubernetes sets on every series."""
    assert not SCRAPE_LABELS & set(metric.labels)
