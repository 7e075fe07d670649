"""Reads PromQL with a real parser: which metrics a query names, with which labels and ranges."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import promql_parser

from meshhook.observability.metrics import METRICS, Kind

RATE_INTERVAL = timedelta(minutes=7)
"""What stands for `$__rate_interval`: a range that no query would name by itself."""
RANGE = timedelta(hours=7)
"""The same for `$__range`."""

SCRAPE_LABELS = frozenset({"job", "instance", "namespace", "pod"})
"""Labels that the scrape adds to every series."""

_ALERTS_LABELS = {
    *("alertname", "alertstate", "severity"),
    *("queue", "jobqueue", "loop", "operation"),
}
FOREIGN_METRICS: dict[str, set[str]] = {
    "ALERTS": _ALERTS_LABELS,  # made by Prometheus for each alert that is pending or fires
    "process_resident_memory_bytes": set(),  # of prometheus-client
    "process_cpu_seconds_total": set(),  # the same
}
"""Metrics that are not ours, with their labels."""

_RATES = frozenset({"rate", "irate", "increase", "delta", "deriv"})
_PARTS = ("_bucket", "_sum", "_count")


@dataclass(frozen=True, slots=True)
class Selector:
    """A metric that a query names, and the labels that it is matched by."""

    metric: str
    labels: frozenset[str]


def parse(expr: str) -> promql_parser.Expr:
    """Return the syntax tree; Grafana's variables for ranges become ranges."""
    for variable, value in (("$__rate_interval", RATE_INTERVAL), ("$__range", RANGE)):
        expr = expr.replace(variable, promql_parser.display_duration(value))
    tree: promql_parser.Expr = promql_parser.parse(expr)
    return tree


def selectors(tree: promql_parser.Expr) -> list[Selector]:
    """Return the selectors of a query, in the order in which they stand."""
    return [_selector(each) for each in _nodes(tree, promql_parser.VectorSelector)]


def grouped_labels(tree: promql_parser.Expr) -> list[tuple[set[str], list[Selector]]]:
    """Return the labels that a query groups or joins by, each with the selectors below."""
    found = [
        (set(node.modifier.labels), selectors(node.expr))
        for node in _nodes(tree, promql_parser.AggregateExpr)
        if node.modifier
    ]
    for node in _nodes(tree, promql_parser.BinaryExpr):
        matching = node.modifier and node.modifier.matching
        if matching:
            found += [(set(matching.labels), selectors(side)) for side in (node.lhs, node.rhs)]
    return found


def made_labels(tree: promql_parser.Expr) -> set[str]:
    """Return the labels that a query makes itself."""
    return {
        node.args[1].val
        for node in _nodes(tree, promql_parser.Call)
        if node.func.name in {"label_replace", "label_join"}
    }


def compared(tree: promql_parser.Expr) -> list[str]:
    """Return what a query compares with something, where that compares nothing itself."""
    comparisons = [
        node
        for node in _nodes(tree, promql_parser.BinaryExpr)
        if str(node.op) in {"==", "!=", ">", ">=", "<", "<="}
    ]
    return [
        node.lhs.prettify()
        for node in comparisons
        if not any(other is not node and _within(other, node.lhs) for other in comparisons)
    ]


def rate_ranges(tree: promql_parser.Expr) -> list[timedelta]:
    """Return the ranges over which a query takes rates."""
    return [
        argument.range
        for node in _nodes(tree, promql_parser.Call)
        if node.func.name in _RATES
        for argument in node.args
        if isinstance(argument, promql_parser.MatrixSelector)
    ]


def labels_of(metric: str, recorded: dict[str, set[str]] | None = None) -> set[str] | None:
    """Return the labels of a series, those of the scrape too; None for an unknown metric.

    Args:
        metric: as in a query, so that of a histogram `_bucket` and the like come with it.
        recorded: the labels of series that recording rules make.
    """
    if recorded and metric in recorded:
        return recorded[metric] | SCRAPE_LABELS
    if metric in FOREIGN_METRICS:
        return FOREIGN_METRICS[metric] | SCRAPE_LABELS
    base = family(metric)
    if base is None:
        return None
    return {*METRICS[base].labels, *SCRAPE_LABELS} | ({"le"} if metric != base else set())


def family(metric: str) -> str | None:
    """Return the name in the table of metrics that a series belongs to; None if it is not ours."""
    if metric in METRICS:
        # The bare name of a histogram is not a series.
        return None if METRICS[metric].kind is Kind.HISTOGRAM else metric
    for part in _PARTS:
        base = metric.removesuffix(part)
        if base != metric and base in METRICS and METRICS[base].kind is Kind.HISTOGRAM:
            return base
    return None


def problems(expr: str, recorded: dict[str, set[str]] | None = None) -> Iterator[str]:
    """Yield what a query names that does not exist: metrics, and labels of metrics."""
    tree = parse(expr)
    for each in selectors(tree):
        labels = labels_of(each.metric, recorded)
        if labels is None:
            yield f"no such metric: {each.metric}"
        elif each.labels - labels:
            yield f"{each.metric} has no label {', '.join(sorted(each.labels - labels))}"
    for names, below in grouped_labels(tree):
        known = [labels_of(each.metric, recorded) or set() for each in below]
        if known and names - set().union(*known):
            yield f"nothing below has the labels {', '.join(sorted(names - set().union(*known)))}"


def _selector(node: promql_parser.VectorSelector) -> Selector:
    matchers = node.matchers.matchers
    name = node.name or next(each.value for each in matchers if each.name == "__name__")
    return Selector(name, frozenset(each.name for each in matchers) - {"__name__"})


def _within(node: promql_parser.Expr, tree: promql_parser.Expr) -> bool:
    return node.prettify() in [each.prettify() for each in _nodes(tree, promql_parser.BinaryExpr)]


def _nodes(tree: promql_parser.Expr, kind: type[Any]) -> list[Any]:
    found: list[Any] = []

    def visit(node: promql_parser.Expr) -> None:
        if isinstance(node, kind):
            found.append(node)

    visitor: Callable[[promql_parser.Expr], bool | None] = visit
    promql_parser.walk(tree, visitor)
    return found
