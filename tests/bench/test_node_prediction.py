"""The traces of the real node in the simulator."""

from __future__ import annotations

from dataclasses import replace

from bench.node.prediction import predict
from bench.scaling.jobs import Job
from bench.scaling.node_traces import node_traces
from bench.scaling.slots import SlotWorld

TRACES = {trace.name: trace for trace in node_traces()}


def played(job: Job, seconds: int) -> tuple[SlotWorld, list[tuple[float, float]]]:
    """Play one job for so long with one replica, and return the world and what has started."""
    world = SlotWorld(replace(TRACES["steady"], jobs=(job,)), seed=1)
    waits: list[tuple[float, float]] = []
    for _ in range(seconds):
        world.play(waits)
        world.now += 1
    return world, waits


def test_a_job_sent_ahead_is_scheduled_until_it_is_due():
    """It has been enqueued, and falls due; it does not wait before."""
    job = Job(50, 1, ahead_seconds=40)
    world, waits = played(job, 5)
    assert (world.enqueued, world.due_within(100)) == (0, 0)
    world, waits = played(job, 20)
    assert (world.enqueued, world.due_within(100), world.ready_jobs) == (1, 1, 0)
    world, waits = played(job, 60)
    assert (world.enqueued, world.due_within(100), waits) == (1, 0, [(50, 0.0)])
    assert world.is_done


def test_a_failed_job_falls_due_again_when_it_says():
    """So do all others of the same outage."""
    world, waits = played(Job(5, 2, failures=1, retry_at=30), 20)
    assert (world.due_within(15), world.is_done) == (1, False)
    world, waits = played(Job(5, 2, failures=1, retry_at=30), 40)
    assert (waits, world.is_done) == ([(5, 0.0), (30, 0.0)], True)


def test_a_steady_trace_is_predicted():
    """No job of it is late, and it needs at least the replicas that its jobs fill."""
    said = predict(TRACES["steady"])
    assert said is not None
    assert said.late_share == 0.0
    assert said.most_replicas >= 4
    assert predict(TRACES["steady"].until(0)) is None
