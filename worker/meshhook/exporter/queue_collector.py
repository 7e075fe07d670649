"""The series of all exporters of a registry, collected at each scrape."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakKeyDictionary

from prometheus_client import CollectorRegistry
from prometheus_client.registry import Collector

from meshhook.observability.loggers import get_logger
from meshhook.observability.metrics import METRICS
from meshhook.observability.priority_series import add_priority
from meshhook.observability.queue_series import add_keys, add_queue
from meshhook.observability.schedule_series import add_schedule_series

if TYPE_CHECKING:
    import asyncpg
    from prometheus_client.core import Metric as Family

_log = get_logger("meshhook.exporter")

MAX_TOLD = 1_000
_SHARED_BYTES = {
    "meshhook_history_bytes": "history_bytes",
    "meshhook_finished_jobs_bytes": "finished_bytes",
}
"""Sizes of tables that queues share: the family, and the column."""


class LatestFigures(Protocol):
    """What an exporter last read from its database; nothing if that was too long ago."""

    @property
    def age_seconds(self) -> float:
        """Time since it was read."""

    @property
    def rows(self) -> Sequence[asyncpg.Record]:
        """A row per queue."""

    @property
    def key_rows(self) -> Sequence[asyncpg.Record]:
        """A row per queue with keys."""

    @property
    def priority_rows(self) -> Sequence[asyncpg.Record]:
        """A row per priority of each queue with priorities."""

    @property
    def schedule_rows(self) -> Sequence[asyncpg.Record]:
        """A row per schedule."""


class QueueCollector(Collector):
    """The series with the latest figures of all exporters of a registry."""

    def __init__(self) -> None:
        self._exporters: tuple[LatestFigures, ...] = ()
        self._told: set[str] = set()
        self._lock = threading.Lock()

    def add(self, exporter: LatestFigures) -> None:
        """Collect from one more exporter."""
        with self._lock:
            self._exporters = (*self._exporters, exporter)

    def remove(self, exporter: LatestFigures) -> None:
        """Collect from an exporter no longer."""
        with self._lock:
            self._exporters = tuple(each for each in self._exporters if each is not exporter)

    def describe(self) -> Iterable[Family]:
        """Return all families without series."""
        return self._families().values()

    def collect(self) -> Iterable[Family]:
        """Return all families with the latest figures."""
        exporters = self._exporters
        families = self._families()
        if exporters:
            families["meshhook_exporter_last_collection_age_seconds"].add_metric(
                [], max(exporter.age_seconds for exporter in exporters)
            )
        shared_bytes = dict.fromkeys(_SHARED_BYTES, 0)
        shown: set[str] = set()
        for rows in (exporter.rows for exporter in exporters):
            for family, column in _SHARED_BYTES.items():
                shared_bytes[family] += (rows[0][column] or 0) if rows else 0
            for row in rows:
                if row["queue"] in shown:
                    self._tell_once(row["queue"])
                elif row["queue"] is not None and row["problem"] is None:
                    shown.add(row["queue"])
                    add_queue(families, row)
        self._add_keys(families, exporters)
        self._add_priorities(families, exporters)
        self._add_schedules(families, exporters)
        if any(exporter.rows for exporter in exporters):
            for family, size in shared_bytes.items():
                families[family].add_metric([], size)
        return families.values()

    @staticmethod
    def _add_keys(families: dict[str, Any], exporters: Sequence[LatestFigures]) -> None:
        shown: set[str] = set()
        for row in (row for exporter in exporters for row in exporter.key_rows):
            if row["queue"] not in shown and row["problem"] is None:
                shown.add(row["queue"])
                add_keys(families, row)

    @staticmethod
    def _add_priorities(families: dict[str, Any], exporters: Sequence[LatestFigures]) -> None:
        shown: set[tuple[str, str]] = set()
        for row in (row for exporter in exporters for row in exporter.priority_rows):
            if row["problem"] is None and (row["queue"], row["priority"]) not in shown:
                shown.add((row["queue"], row["priority"]))
                add_priority(families, row)

    @staticmethod
    def _add_schedules(families: dict[str, Any], exporters: Sequence[LatestFigures]) -> None:
        shown: set[tuple[str, str]] = set()
        left_out = 0
        for rows in (exporter.schedule_rows for exporter in exporters):
            left_out += max((row["known"] for row in rows), default=0) - len(rows)
            for row in rows:
                if (row["queue"], row["name"]) not in shown:
                    shown.add((row["queue"], row["name"]))
                    add_schedule_series(families, row)
        if shown:
            families["meshhook_schedule_left_out"].add_metric([], left_out)

    def _tell_once(self, queue: str) -> None:
        if queue not in self._told and len(self._told) < MAX_TOLD:
            self._told.add(queue)
            _log.error(
                "two databases have a queue of this name; only one of them is exported",
                queue=queue,
            )

    @staticmethod
    def _families() -> dict[str, Any]:
        own = (
            "meshhook_queue_",
            "meshhook_schedule_",
            *_SHARED_BYTES,
            "meshhook_exporter_last_collection_age_seconds",
        )
        return {name: metric.family() for name, metric in METRICS.items() if name.startswith(own)}


_collectors: WeakKeyDictionary[CollectorRegistry, QueueCollector] = WeakKeyDictionary()
_collectors_lock = threading.Lock()


def collector_of(registry: CollectorRegistry) -> QueueCollector:
    """Return the collector of a registry, which gets one when it is first asked for."""
    with _collectors_lock:
        if registry not in _collectors:
            _collectors[registry] = QueueCollector()
            registry.register(_collectors[registry])
        return _collectors[registry]
