"""The reference of all metrics, docs/metrics.md, made from the tables.

`python -m meshhook.observability.metrics_page > docs/metrics.md` writes it anew.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from meshhook.observability.metrics import METRICS, Kind, Metric

if TYPE_CHECKING:
    from collections.abc import Iterable

_PREFACE = """\
# Metrics

Made from the tables in `worker/meshhook/observability/metrics/`; do not edit.
[Monitor queues and workers](how-to/monitor.md) says how to scrape them.

Series whose labels are known in advance exist from the start, at zero. Counters start with the
process, except `meshhook_queue_enqueued_total`. The Prometheus client's own `process_*` and
`python_*` metrics are exported too.
"""

_SECTIONS = (
    (
        "Worker",
        "`meshhook worker`, or a `Worker` in your own program: one process with its queues.",
        "meshhook_worker_",
    ),
    (
        "Producer",
        "Every process that enqueues, in the process's own registry.",
        "meshhook_producer_",
    ),
    (
        "Queues",
        (
            "The operator, or `meshhook exporter` where there is none, once per database. They "
            "exist without any worker, and disappear when a queue is dropped. `workers` and "
            "`worker_slots` come from the workers' reports in the database."
        ),
        ("meshhook_queue_", "meshhook_history_", "meshhook_finished_"),
    ),
    (
        "Schedules",
        "Of the first 1,000 [schedules](schedules.md) of a database, exported once, like queues.",
        "meshhook_schedule_",
    ),
    ("Exporter", "How well the queues can be read.", "meshhook_exporter_"),
    (
        "Scaler",
        "The operator, for each `JobQueue`: `jobqueue` is its namespace, `/` and its name.",
        "meshhook_scaler_",
    ),
    ("Operator", "The operator as a whole.", "meshhook_operator_"),
    ("Everywhere", "Worker, exporter and operator.", "meshhook_build_"),
)


def metrics_page() -> str:
    """Return the text of the page."""
    parts = [_PREFACE]
    for title, text, prefixes in _SECTIONS:
        found = [metric for name, metric in METRICS.items() if name.startswith(prefixes)]
        parts.append(f"\n## {title}\n\n{text}\n\n{_table(found)}")
    parts.append(f"\n## Buckets\n\n{_buckets()}")
    return "".join(parts)


def _table(metrics: Iterable[Metric]) -> str:
    rows = [
        f"| `{metric.name}` | {metric.kind} | {_labels(metric)} | {metric.help} |\n"
        for metric in metrics
    ]
    return "| metric | kind | labels | meaning |\n|---|---|---|---|\n" + "".join(rows)


def _labels(metric: Metric) -> str:
    described = []
    for label in metric.labels:
        values = metric.values.get(label)
        described.append(f"`{label}`" + (f": {', '.join(values)}" if values else ""))
    return "; ".join(described) or "none"


def _buckets() -> str:
    rows = [
        f"| `{metric.name}` | {', '.join(f'{bound:g}' for bound in metric.buckets)} |\n"
        for metric in METRICS.values()
        if metric.kind is Kind.HISTOGRAM
    ]
    return "| histogram | upper bounds |\n|---|---|\n" + "".join(rows)


if __name__ == "__main__":
    sys.stdout.write(metrics_page())
