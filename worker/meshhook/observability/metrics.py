"""The metrics of a worker: the only place where one is defined."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

if TYPE_CHECKING:
    from collections.abc import Callable

_SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 3600)
_BATCH = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)

OUTCOMES = (
    "succeeded",
    "retried",
    "snoozed",
    "dead_lettered",
    "cancelled",
    "archived",
    "lost",
    "released",
)


@dataclass(frozen=True, slots=True)
class _Family:
    kind: Callable[..., Any]
    help: str
    labels: tuple[str, ...] = ("queue",)
    buckets: tuple[float, ...] = ()


FAMILIES: dict[str, _Family] = {
    "messages_total": _Family(Counter, "Attempts by outcome.", ("queue", "outcome")),
    "message_duration_seconds": _Family(Histogram, "How long attempts ran.", buckets=_SECONDS),
    "message_wait_seconds": _Family(
        Histogram, "From ready to the start of the attempt.", buckets=_SECONDS
    ),
    "message_age_seconds": _Family(
        Histogram, "From enqueue to the final outcome.", buckets=_SECONDS
    ),
    "claim_batch_messages": _Family(
        Histogram, "Messages leased by one claim that found any.", buckets=_BATCH
    ),
    "lease_extensions_total": _Family(
        Counter, "Leases by what their extension came to.", ("queue", "outcome")
    ),
    "inflight_messages": _Family(Gauge, "Messages leased by this worker."),
}
"""Every metric of a worker, by its name without the prefix `meshhook_worker_`."""


class WorkerMetrics:
    """A worker's metrics for one queue, with every series there from the start."""

    def __init__(self, queue_name: str, registry: CollectorRegistry | None = None) -> None:
        """Take the queue's name and a registry; None means the process's own."""
        found = _families(REGISTRY if registry is None else registry)
        self._outcomes = {
            outcome: found["messages_total"].labels(queue_name, outcome) for outcome in OUTCOMES
        }
        self._extensions = {
            outcome: found["lease_extensions_total"].labels(queue_name, outcome)
            for outcome in ("extended", "lost", "error")
        }
        self.duration: Histogram = found["message_duration_seconds"].labels(queue_name)
        self.wait: Histogram = found["message_wait_seconds"].labels(queue_name)
        self.age: Histogram = found["message_age_seconds"].labels(queue_name)
        self.claim_batch: Histogram = found["claim_batch_messages"].labels(queue_name)
        self.inflight: Gauge = found["inflight_messages"].labels(queue_name)

    def attempts(self, outcome: str, count: int = 1) -> None:
        """Count attempts that ended in `outcome`."""
        self._outcomes[outcome].inc(count)

    def lease_extensions(self, outcome: str, count: int) -> None:
        """Count leases whose extension came to `outcome`: extended, lost or error."""
        self._extensions[outcome].inc(count)


_made: dict[int, tuple[CollectorRegistry, dict[str, Any]]] = {}


def _families(registry: CollectorRegistry) -> dict[str, Any]:
    # A registry refuses a second metric of the same name; two workers in a process share them.
    if id(registry) not in _made:
        families = {
            name: family.kind(
                f"meshhook_worker_{name}",
                family.help,
                family.labels,
                registry=registry,
                **({"buckets": family.buckets} if family.buckets else {}),
            )
            for name, family in FAMILIES.items()
        }
        _made[id(registry)] = (registry, families)
    return _made[id(registry)][1]
