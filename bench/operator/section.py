"""The figures as a section in Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.marked import MarkedPart
from bench.operator.measurements import percentile, quantile_bound

if TYPE_CHECKING:
    from collections.abc import Iterator

PART = MarkedPart("bench/operator/run.py")
MEGABYTE = 1_000_000


def section(report: dict[str, Any]) -> str:
    """Return the section."""
    return "\n".join(_lines(report)) + "\n"


def _conditions(report: dict[str, Any]) -> str:
    if note := report.get("note"):
        return str(note)
    return f"Other programs used {report['others_percent']:.0f}% of the processors meanwhile."


def _lines(report: dict[str, Any]) -> Iterator[str]:
    start, steady = report["start"], report["steady"]
    memory = steady["memory_bytes"]
    demand = next(each for each in steady["statements"] if "queue_demand" in each["query"])
    yield (
        f"{report['queues']} JobQueues on one database with {report['pods']} worker pods, on a real"
        " control plane with kwok for the pods, all on this machine"
        f" ({report['machine']['cores']} processors, Kubernetes {report['kubernetes']})."
        f" {_conditions(report)}"
    )
    yield ""
    yield "| what | measured |"
    yield "|---|---:|"
    yield f"| all JobQueues Ready after | {start['ready_seconds']:.0f} s |"
    yield f"| all pods Ready after | {start['pods_ready_seconds']:.0f} s |"
    yield f"| a tick over all queues, mean | {steady['tick_mean_seconds'] * 1000:.0f} ms |"
    bound = quantile_bound(steady["tick_buckets"], 0.99)
    yield f"| 99% of the ticks take at most | {bound} s |"
    yield f"| statements that read demand, a tick | {demand['calls'] / steady['ticks']:.2f} |"
    yield f"| that statement, mean | {demand['mean_ms']:.0f} ms |"
    yield f"| connections to the database | {steady['connections_max']} |"
    yield (
        f"| writes to JobQueues in {steady['seconds']:.0f} s in which nothing changes |"
        f" {steady['jobqueue_writes']} |"
    )
    first, last = (round(memory[place] / MEGABYTE) for place in (0, -1))
    yield f"| memory meanwhile, first to last | {first} to {last} MB |"
    yield f"| share of one processor | {steady['cpu_share'] * 100:.0f}% |"
    if restart := report.get("restart"):
        yield f"| restarted: all looked at after | {restart['all_looked_at_seconds']:.1f} s |"
    if surge := report.get("surge"):
        yield f"| a backlog everywhere: all scaled after | {surge['all_scaled_seconds']:.0f} s |"
    for key, when in (("wake", "asleep"), ("wake_just_asleep", "that has just come to zero")):
        if wake := report.get(key):
            seconds = wake["pod_object_seconds"]
            yield (
                f"| from enqueue to a pod object, queue at zero, {when}: p50 / p99 |"
                f" {percentile(seconds, 50):.2f} / {percentile(seconds, 99):.2f} s |"
            )
