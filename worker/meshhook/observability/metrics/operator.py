"""Metrics of the operator: of each JobQueue that it scales, and of itself."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from meshhook.observability.metrics.buckets import STATEMENT_SECONDS
from meshhook.observability.metrics.label_values import KEPT_BACK_REASONS, POD_PROBLEMS, SIGNALS
from meshhook.observability.metrics.metric import Kind, Metric, Source


def _scaler(
    name: str, kind: Kind, text: str, labels: tuple[str, ...] = (), **values: tuple[str, ...]
) -> Metric:
    return Metric(
        f"meshhook_scaler_{name}",
        kind,
        text,
        (Source.OPERATOR,),
        ("queue", "jobqueue", *labels),
        values=MappingProxyType(values),
    )


OPERATOR_METRICS: Final = (
    _scaler("replicas", Kind.GAUGE, "Replicas that the Deployment has."),
    _scaler("desired_replicas", Kind.GAUGE, "Replicas that the operator requests."),
    _scaler("ready_replicas", Kind.GAUGE, "Replicas that are ready."),
    _scaler("min_replicas", Kind.GAUGE, "Minimum number of replicas allowed."),
    _scaler("max_replicas", Kind.GAUGE, "Maximum number of replicas allowed."),
    _scaler(
        "recommended_replicas",
        Kind.GAUGE,
        "Replicas that each signal calls for on its own.",
        ("signal",),
        signal=SIGNALS,
    ),
    _scaler(
        "limited",
        Kind.GAUGE,
        "Whether something keeps the operator from its recommendation: 1 or 0.",
        ("reason",),
    ),
    _scaler(
        "kept_back",
        Kind.GAUGE,
        "Messages that are due but may not start, because of limits, order or holds.",
        ("reason",),
        reason=KEPT_BACK_REASONS,
    ),
    _scaler(
        "failing_pods",
        Kind.GAUGE,
        "Pods that cannot run, by the reason; series appear when a reason first occurs.",
        ("reason",),
        reason=POD_PROBLEMS,
    ),
    _scaler(
        "events_total",
        Kind.COUNTER,
        "Changes in the number of replicas.",
        ("direction",),
        direction=("up", "down"),
    ),
    _scaler("paused", Kind.GAUGE, "Whether scaling is paused: 1 or 0."),
    _scaler("ready", Kind.GAUGE, "Whether the Ready condition is true: 1 or 0."),
    _scaler(
        "last_success_age_seconds",
        Kind.GAUGE,
        "Time since the last decision from fresh data, or since the JobQueue was first seen.",
    ),
    Metric(
        "meshhook_operator_leading",
        Kind.GAUGE,
        "Whether this process works (1), or stands by until the one that works ends (0).",
        (Source.OPERATOR,),
        (),
    ),
    Metric(
        "meshhook_operator_unserved_namespaces",
        Kind.GAUGE,
        "Namespaces with JobQueues that this process leaves alone although it leads: "
        "another operator works on them, or their Lease cannot be written.",
        (Source.OPERATOR,),
        (),
    ),
    Metric(
        "meshhook_operator_reconcile_duration_seconds",
        Kind.HISTOGRAM,
        "How long reconciling one resource took.",
        (Source.OPERATOR,),
        (),
        STATEMENT_SECONDS,
    ),
    Metric(
        "meshhook_operator_reconciles_total",
        Kind.COUNTER,
        "Reconciliations by outcome.",
        (Source.OPERATOR,),
        ("outcome",),
        values=MappingProxyType({"outcome": ("ok", "error")}),
    ),
    Metric(
        "meshhook_operator_tick_duration_seconds",
        Kind.HISTOGRAM,
        "How long sampling one database and deciding for all its queues took.",
        (Source.OPERATOR,),
        (),
        STATEMENT_SECONDS,
    ),
)
