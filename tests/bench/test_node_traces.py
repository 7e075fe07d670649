"""The traces of the real node: they are the same always, and fit a small machine."""

from __future__ import annotations

import dataclasses

import pytest

from bench.scaling.node_traces import node_traces

TRACES = node_traces()


@pytest.mark.parametrize("trace", TRACES, ids=lambda trace: trace.name)
def test_a_trace_can_be_kept_with_its_replicas(trace):
    """What it needs on average leaves replicas to spare, and every job arrives within it."""
    slot_seconds = sum(job.run_seconds * (job.failures + 1) for job in trace.jobs)
    assert slot_seconds / trace.seconds <= 0.75 * trace.max_replicas * trace.concurrency
    assert trace.max_replicas <= 14
    arrivals = [job.at for job in trace.jobs]
    assert arrivals == sorted(arrivals)
    assert arrivals[-1] < trace.seconds
    assert all(job.at >= job.ahead_seconds for job in trace.jobs)


def test_traces_are_the_same_each_time():
    """A trace of the node and one of the simulator hold the same jobs."""
    assert node_traces() == TRACES
    assert len({trace.name for trace in TRACES}) == len(TRACES)


def test_a_trace_can_be_cut():
    """What begins before a second is left, and nothing else changes."""
    trace = TRACES[0]
    cut = trace.until(60)
    assert cut.seconds == 60
    assert cut.jobs == tuple(job for job in trace.jobs if job.at < 60)
    assert dataclasses.replace(cut, jobs=trace.jobs, seconds=trace.seconds) == trace
    assert trace.until(10_000) == trace
