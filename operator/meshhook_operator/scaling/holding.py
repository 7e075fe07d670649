"""Which workers must not be stopped yet, since they run long jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshhook_operator.scaling.observations import WorkerReport

LONG_RUNS = 4.0
"""Few jobs run longer than this many times the mean."""
LONG_SECONDS = 10.0
"""Where jobs are short, one that has run that long at least is an exception."""


def runs_are_long(run_seconds: float | None, drain_seconds: float) -> bool:
    """Return whether jobs may run longer than a worker that stops would let them.

    Args:
        run_seconds: the mean running time; None if unknown, as before the first report.
        drain_seconds: how long a worker that stops has for its jobs.
    """
    return run_seconds is None or run_seconds * LONG_RUNS > drain_seconds


def held_workers(
    workers: Sequence[WorkerReport],
    ready_replicas: int,
    run_seconds: float | None,
    drain_seconds: float,
) -> int:
    """Return how many workers may be running a job that would be cut off if they were stopped.

    Where jobs are long, that is every worker that may have taken a job since its report: all but
    those that have stopped taking jobs and run none. Where they are short, it is a worker with a
    job that has run for 10 seconds already.

    Args:
        workers: their reports.
        ready_replicas: of the Deployment. One that has not reported yet may run a job as well.
        run_seconds: the mean running time of a job; None if unknown.
        drain_seconds: how long a worker that stops has for its jobs.
    """
    stay = [worker for worker in workers if not worker.draining]
    if run_seconds is None or runs_are_long(run_seconds, drain_seconds):
        unknown = max(0, ready_replicas - len(workers))
        return unknown + sum(worker.running > 0 or not worker.cordoned for worker in stay)
    return sum(worker.oldest_running_seconds >= LONG_SECONDS for worker in stay)
