"""PromQL that several panels need, so that a figure is the same on every dashboard."""

from __future__ import annotations

from dataclasses import dataclass

SELECTED = 'namespace=~"$namespace", queue=~"$queue"'
"""Matchers for what the variables in the head select."""

PROCESS = "namespace, pod, instance"
"""The labels of the scrape that tell processes apart."""

FAILED = 'outcome=~"retried|dead_lettered|lost"'
"""The outcomes of attempts that failed."""

ENDED = 'outcome!~"snoozed|released"'
"""All outcomes of attempts that ran to an end, good or bad."""

FINAL = 'outcome=~"succeeded|dead_lettered|cancelled|archived|expired"'
"""The outcomes after which a job is over."""

_FIRING = 'alertname=~"MeshHook.+", alertstate="firing", namespace=~"$namespace|"'


@dataclass(frozen=True, slots=True)
class Query:
    """One PromQL query of a panel.

    Args:
        expr: the expression.
        legend: the name of each series; `{{label}}` stands for a label.
        exemplars: whether to show the traces that belong to it (only of histograms).
    """

    expr: str
    legend: str = ""
    exemplars: bool = False


def gauge(name: str, *extra: str, by: str = "queue", selected: str = SELECTED) -> str:
    """Return a gauge of the exporter or the operator.

    The maximum, so that two exporters of one database (a rollout, say) do not count twice.
    """
    return f"max by ({by}) ({name}{{{', '.join((selected, *extra))}}})"


def total(name: str, *extra: str) -> str:
    """Return the sum of a gauge of the exporter over all queues."""
    return f"sum({gauge(name, *extra, by='namespace, queue')})"


def lag() -> str:
    """Return how long the oldest ready message of each queue has waited; not of paused queues."""
    oldest = gauge("meshhook_queue_oldest_ready_seconds")
    return f"({oldest} unless on (queue) {gauge('meshhook_queue_paused')} == 1)"


def rate(name: str, *extra: str, by: str = "", selected: str = SELECTED) -> str:
    """Return how much a counter rises a second, summed over the workers."""
    grouping = f" by ({by})" if by else ""
    matchers = ", ".join((selected, *extra))
    return f"sum{grouping} (rate({name}{{{matchers}}}[$__rate_interval]))"


def quantile(share: float, name: str, *extra: str, by: str = "", selected: str = SELECTED) -> str:
    """Return a quantile of a histogram over all workers."""
    grouping = f"le, {by}" if by else "le"
    buckets = rate(f"{name}_bucket", *extra, by=grouping, selected=selected)
    return f"histogram_quantile({share}, {buckets})"


def quantiles(name: str, *extra: str, selected: str = SELECTED) -> list[Query]:
    """Return p50, p95 and p99 of a histogram, with exemplars."""
    return [
        Query(
            quantile(share, name, *extra, selected=selected),
            f"p{share * 100:.0f}",
            exemplars=share == 0.99,  # noqa: PLR2004 - once a panel: the dots would be the same
        )
        for share in (0.5, 0.95, 0.99)
    ]


def of_processes(name: str, *, selected: str = SELECTED) -> str:
    """Return a gauge of the worker that each of its queues shows alike, once for each process."""
    return f"max by ({PROCESS}) ({name}{{{selected}}})"


def enqueued(by: str = "namespace, queue") -> str:
    """Return how many messages came in a second, from any client.

    The counter is the queue's own, so each exporter has the whole of it.
    """
    return f"max by ({by}) (rate(meshhook_queue_enqueued_total{{{SELECTED}}}[$__rate_interval]))"


def error_share(by: str = "") -> str:
    """Return the share of attempts that failed, 0 to 1."""
    name = "meshhook_worker_messages_total"
    return f"{rate(name, FAILED, by=by)} / ({rate(name, ENDED, by=by)} > 0)"


def firing(*extra: str) -> str:
    """Return the alerts of MeshHook Queue that fire now."""
    return f"ALERTS{{{', '.join((_FIRING, *extra))}}}"


def counted(expr: str) -> str:
    """Return how many series an expression gives; 0 instead of nothing."""
    return f"count({expr}) or vector(0)"
