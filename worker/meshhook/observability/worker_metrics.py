"""A worker's metrics for one queue: counters, histograms, and gauges that are read at a scrape."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from meshhook.escaping import shown
from meshhook.observability.families import families_of
from meshhook.observability.loops import WatchedLoop
from meshhook.observability.metrics import METRICS
from meshhook.observability.metrics.label_values import BREAKER_STATES, OPERATIONS, OTHER, OUTCOMES
from meshhook.observability.priority_series import PriorityWaits

if TYPE_CHECKING:
    from prometheus_client import Counter
    from prometheus_client.core import Metric as Family

MAX_ERROR_TYPES = 20
_MAX_LABEL_CHARACTERS = 200

_PREFIX = "meshhook_worker_"


@dataclass(frozen=True, slots=True, eq=False)
class WorkerGauges:
    """The functions that give the gauges of one worker and queue, called at each scrape.

    They are called in the thread that answers the scrape, and must only read.
    """

    inflight: Callable[[], int]
    running: Callable[[], int]
    limit: Callable[[], int]
    unsettled: Callable[[], int]
    oldest_unsettled_seconds: Callable[[], float]
    is_connected: Callable[[], bool]
    is_draining: Callable[[], bool]
    is_cordoned: Callable[[], bool]
    loops: Sequence[WatchedLoop]


class WorkerMetrics:
    """A worker's metrics for one queue; every series exists from the start."""

    def __init__(self, queue_name: str, registry: CollectorRegistry | None = None) -> None:
        """Take the queue's name and a registry; None means the process's own."""
        registry = REGISTRY if registry is None else registry
        found = families_of(registry)
        found.show_build()
        messages = found.counter(f"{_PREFIX}messages_total")
        extensions = found.counter(f"{_PREFIX}lease_extensions_total")
        operations = found.histogram(f"{_PREFIX}operation_duration_seconds")
        self._queue_name = queue_name
        self._outcomes = {outcome: messages.labels(queue_name, outcome) for outcome in OUTCOMES}
        self._extensions = {
            outcome: extensions.labels(queue_name, outcome)
            for outcome in ("extended", "lost", "error")
        }
        self._operations = {
            (operation, outcome): operations.labels(queue_name, operation, outcome)
            for operation in OPERATIONS
            for outcome in ("ok", "error")
        }
        self._errors = found.counter(f"{_PREFIX}errors_total")
        self._error_types = _error_types_of(registry, queue_name)
        self._error(OTHER)
        self.duration = found.histogram(f"{_PREFIX}message_duration_seconds").labels(queue_name)
        self.wait = found.histogram(f"{_PREFIX}message_wait_seconds").labels(queue_name)
        self.age = found.histogram(f"{_PREFIX}message_age_seconds").labels(queue_name)
        self._priorities = PriorityWaits(queue_name, found)
        self._claim_batch = found.histogram(f"{_PREFIX}claim_batch_messages").labels(queue_name)
        self._handler_batch = found.histogram(f"{_PREFIX}handler_batch_messages").labels(queue_name)
        self._empty_claims = found.counter(f"{_PREFIX}empty_claims_total").labels(queue_name)
        self._limited_claims = found.counter(f"{_PREFIX}limited_claims_total").labels(queue_name)
        self._key_holds = found.counter(f"{_PREFIX}key_holds_total").labels(queue_name)
        self._slots_replaced = found.counter(f"{_PREFIX}slots_replaced_total").labels(queue_name)
        self._retries_delayed = found.counter(f"{_PREFIX}retries_delayed_total").labels(queue_name)
        breakers = found.counter(f"{_PREFIX}breaker_transitions_total")
        self._breakers = {state: breakers.labels(queue_name, state) for state in BREAKER_STATES}
        self._live = _live_gauges_of(registry)
        self._live.know(queue_name)

    def attempts(self, outcome: str, count: int = 1) -> None:
        """Count attempts that ended in `outcome`."""
        self._outcomes[outcome].inc(count)

    def errors(self, error_type: str, count: int = 1) -> None:
        """Count failed attempts by error type; after 20 types, every new one is `_OTHER`."""
        self._error(error_type).inc(count)

    def lease_extensions(self, outcome: str, count: int) -> None:
        """Count leases by the outcome of their extension: extended, lost or error."""
        self._extensions[outcome].inc(count)

    def slot_replaced(self) -> None:
        """Count a slot that has ended and was replaced."""
        self._slots_replaced.inc()

    def retries_delayed(self, count: int) -> None:
        """Count retries that the queue's budget has put off."""
        self._retries_delayed.inc(count)

    def breaker_changed(self, *, is_open: bool) -> None:
        """Count a breaker of a key that opened or closed."""
        self._breakers["open" if is_open else "closed"].inc()

    def claimed(self, messages: int) -> None:
        """Note a claim and how many messages it leased."""
        if messages:
            self._claim_batch.observe_now(messages)
        else:
            self._empty_claims.inc()

    def batch_started(self, messages: int) -> None:
        """Note that a handler of batches was called with so many messages."""
        self._handler_batch.observe_now(messages)

    def claim_was_limited(self) -> None:
        """Count a claim that found messages due, and none that may start."""
        self._limited_claims.inc()

    def keys_held(self, jobs: int) -> None:
        """Count jobs by whose outcome their keys were held."""
        self._key_holds.inc(jobs)

    @contextmanager
    def operation(self, operation: str) -> Iterator[None]:
        """Time a statement: claim, settle, extend or release. A cancelled one is not counted."""
        began_at = time.perf_counter()
        try:
            yield
        except Exception:
            outcome = self._operations[operation, "error"]
            outcome.observe_now(time.perf_counter() - began_at)
            raise
        self._operations[operation, "ok"].observe_now(time.perf_counter() - began_at)

    def waited_by_priority(
        self, band: int, wait_seconds: float, target_seconds: Sequence[float]
    ) -> None:
        """Note how long a job of a queue with priorities waited, beside `wait`.

        Args:
            band: its priority, from 0, urgent, to 3, low.
            wait_seconds: how long it waited.
            target_seconds: within how long jobs of each priority are to start.
        """
        self._priorities.waited(band, wait_seconds, target_seconds)

    def count_observations(self) -> None:
        """Count what attempts have observed; call it after each batch of attempts."""
        self.duration.count()
        self.wait.count()
        self.age.count()
        self._priorities.count()

    def attach(self, gauges: WorkerGauges) -> None:
        """Also read gauges from these functions.

        If a queue has several workers, counts are added up, and of times the worst is exported.
        """
        self._live.attach(self._queue_name, gauges)

    def detach(self, gauges: WorkerGauges) -> None:
        """No longer read gauges from these functions."""
        self._live.detach(self._queue_name, gauges)

    def _error(self, error_type: str) -> Counter:
        return self._errors.labels(self._queue_name, self._error_types.admit(error_type))


class _ErrorTypes:
    """The error types of one queue that have a series of their own."""

    def __init__(self) -> None:
        self._admitted: dict[str, str] = {OTHER: OTHER}
        self._lock = threading.Lock()

    def admit(self, error_type: str) -> str:
        """Return the label of an error type. A handler may give its exceptions any name."""
        label = self._admitted.get(error_type)
        if label is not None:
            return label
        with self._lock:
            if len(self._admitted) > MAX_ERROR_TYPES:
                return OTHER
            label = shown(error_type, limit=_MAX_LABEL_CHARACTERS)
            return self._admitted.setdefault(error_type, label)


class _LiveGauges(Collector):
    """The gauges of all workers that report to a registry."""

    def __init__(self) -> None:
        self._queues: dict[str, tuple[WorkerGauges, ...]] = {}
        self._lock = threading.Lock()

    def know(self, queue_name: str) -> None:
        with self._lock:
            self._queues.setdefault(queue_name, ())

    def attach(self, queue_name: str, gauges: WorkerGauges) -> None:
        with self._lock:
            self._queues[queue_name] = (*self._queues.get(queue_name, ()), gauges)

    def detach(self, queue_name: str, gauges: WorkerGauges) -> None:
        with self._lock:
            kept = tuple(each for each in self._queues.get(queue_name, ()) if each is not gauges)
            self._queues[queue_name] = kept

    def describe(self) -> Iterable[Family]:
        return self._empty_families().values()

    def collect(self) -> Iterable[Family]:
        with self._lock:
            queues = list(self._queues.items())
        families = self._empty_families()
        for queue_name, workers in queues:
            values = {
                "inflight_messages": sum(each.inflight() for each in workers),
                "running_messages": sum(each.running() for each in workers),
                "concurrency_limit": sum(each.limit() for each in workers),
                "unsettled_messages": sum(each.unsettled() for each in workers),
                "oldest_unsettled_seconds": max(
                    (each.oldest_unsettled_seconds() for each in workers), default=0.0
                ),
                "db_connected": bool(workers) and all(each.is_connected() for each in workers),
                "draining": any(each.is_draining() for each in workers),
                "cordoned": any(each.is_cordoned() for each in workers),
            }
            for name, value in values.items():
                families[name].add_metric([queue_name], float(value))
            ages: dict[str, float] = {}
            for loop in (loop for each in workers for loop in each.loops):
                ages[loop.name] = max(loop.age_seconds, ages.get(loop.name, 0.0))
            for name, age in ages.items():
                families["last_loop_age_seconds"].add_metric([queue_name, name], age)
        return families.values()

    @staticmethod
    def _empty_families() -> dict[str, GaugeMetricFamily]:
        return {name: METRICS[f"{_PREFIX}{name}"].family() for name in _LIVE}


_LIVE = (
    "inflight_messages",
    "running_messages",
    "concurrency_limit",
    "unsettled_messages",
    "oldest_unsettled_seconds",
    "db_connected",
    "draining",
    "cordoned",
    "last_loop_age_seconds",
)

_lock = threading.Lock()
_live: WeakKeyDictionary[CollectorRegistry, _LiveGauges] = WeakKeyDictionary()
_error_types: WeakKeyDictionary[CollectorRegistry, dict[str, _ErrorTypes]] = WeakKeyDictionary()


def _live_gauges_of(registry: CollectorRegistry) -> _LiveGauges:
    with _lock:
        if registry not in _live:
            _live[registry] = _LiveGauges()
            registry.register(_live[registry])
        return _live[registry]


def _error_types_of(registry: CollectorRegistry, queue_name: str) -> _ErrorTypes:
    with _lock:
        return _error_types.setdefault(registry, {}).setdefault(queue_name, _ErrorTypes())
