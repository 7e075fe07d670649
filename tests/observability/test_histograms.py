"""The histograms for hot paths count what is observed, as those of prometheus-client do."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from meshhook.observability import histograms
from meshhook.observability.metrics import METRICS

WAIT = METRICS["meshhook_worker_message_wait_seconds"]


def samples(registry: CollectorRegistry) -> dict[tuple[str, str], float]:
    """Return the values of all series by name and bucket, without the moments of creation."""
    return {
        (sample.name, sample.labels.get("le", "")): sample.value
        for family in registry.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


@given(st.lists(st.floats(0, 10_000) | st.sampled_from(WAIT.buckets)))
def test_it_counts_as_the_library_does(values: list[float]) -> None:
    """Buckets, count and sum are those of prometheus-client, on the bounds as well."""
    own, theirs = CollectorRegistry(), CollectorRegistry()
    series = histograms.Histogram(WAIT, own).labels("jobs")
    library = Histogram(WAIT.name, WAIT.help, WAIT.labels, buckets=WAIT.buckets, registry=theirs)
    library.labels("jobs")
    for value in values:
        series.observe(value)
        library.labels("jobs").observe(value)
    assert samples(own) == pytest.approx(samples(theirs))


def test_series_are_there_before_the_first_value() -> None:
    """A series that nothing was observed in is exported at zero."""
    registry = CollectorRegistry()
    histograms.Histogram(WAIT, registry).labels("jobs")
    assert set(samples(registry).values()) == {0}


def test_values_of_other_threads_are_not_lost() -> None:
    """What threads observe while another counts is all there in the end."""
    registry = CollectorRegistry()
    series = histograms.Histogram(WAIT, registry).labels("jobs")
    threads = [
        threading.Thread(target=lambda: [series.observe(0.1) for _ in range(20_000)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        series.count()
    assert samples(registry)[f"{WAIT.name}_count", ""] == 80_000


def test_exemplars_are_exported_as_openmetrics() -> None:
    """A bucket shows the newest exemplar that was noted for it; the plain format has none."""
    registry = CollectorRegistry()
    series = histograms.Histogram(WAIT, registry).labels("jobs")
    for trace_id in ("a" * 32, "b" * 32):
        series.observe(0.3)
        series.note_exemplar(0.3, {"trace_id": trace_id})
    text = openmetrics.generate_latest(registry).decode()
    (line,) = [line for line in text.split("\n") if " # " in line]
    assert 'le="0.5"' in line
    assert "b" * 32 in line
    assert " # {" not in generate_latest(registry).decode()


def test_labels_must_be_those_of_the_table() -> None:
    """Too few label values are refused, naming the metric."""
    histogram = histograms.Histogram(WAIT, CollectorRegistry())
    with pytest.raises(ValueError, match=WAIT.name):
        histogram.labels()
