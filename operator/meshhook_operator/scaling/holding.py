"""Which pods must not be stopped yet, since they run long jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

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


def by_pod(workers: Iterable[WorkerReport], pod_prefix: str) -> list[list[WorkerReport]]:
    """Return the reports of each pod of a Deployment; one may have several processes.

    Args:
        workers: all reports of the queue, whose workers may run elsewhere too.
        pod_prefix: what the names of its pods begin with. If no report is from such a host, the
            pods have other host names, and each host counts as a pod.
    """
    found: dict[str, list[WorkerReport]] = {}
    for worker in workers:
        found.setdefault(worker.host or worker.worker, []).append(worker)
    ours = [reports for host, reports in found.items() if host.startswith(pod_prefix)]
    return ours or list(found.values())


def held_pods(
    pods: Sequence[Sequence[WorkerReport]],
    ready_replicas: int,
    run_seconds: float | None,
    drain_seconds: float,
) -> int:
    """Return how many pods may be running a job that would be cut off if they were stopped.

    Where jobs are long, that is every pod that may have taken a job since its report: all but
    those that have stopped taking jobs and run none. Where they are short, it is a pod with a job
    that has run for 10 seconds already.

    Args:
        pods: the reports of each.
        ready_replicas: of the Deployment. One that has not reported yet may run a job as well.
        run_seconds: the mean running time of a job; None if unknown.
        drain_seconds: how long a worker that stops has for its jobs.
    """
    if runs_are_long(run_seconds, drain_seconds):
        unknown = max(0, ready_replicas - len(pods))
        return unknown + sum(
            any(each.running > 0 or not each.cordoned for each in pod if not each.draining)
            for pod in pods
        )
    return sum(
        any(each.oldest_running_seconds >= LONG_SECONDS for each in pod if not each.draining)
        for pod in pods
    )
