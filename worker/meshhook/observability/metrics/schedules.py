"""Metrics of the schedules of a database."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from meshhook.observability.metrics.label_values import FIRING_OUTCOMES
from meshhook.observability.metrics.metric import Kind, Metric, Source


def _schedule(
    name: str, kind: Kind, text: str, labels: tuple[str, ...] = (), **values: tuple[str, ...]
) -> Metric:
    return Metric(
        f"meshhook_schedule_{name}",
        kind,
        text,
        (Source.EXPORTER, Source.OPERATOR),
        ("queue", "schedule", *labels),
        values=MappingProxyType(values),
    )


SCHEDULE_METRICS: Final = (
    _schedule(
        "next_due_timestamp_seconds",
        Kind.GAUGE,
        "When the schedule is due next, in seconds since 1970; no series if it is not.",
    ),
    _schedule(
        "late_seconds",
        Kind.GAUGE,
        "How long the next due time has passed without its job; 0 if it has not, or the "
        "schedule is paused.",
    ),
    _schedule(
        "interval_seconds",
        Kind.GAUGE,
        "The time between the last due time and the next one.",
    ),
    _schedule(
        "last_enqueued_timestamp_seconds",
        Kind.GAUGE,
        "When the last job was enqueued, in seconds since 1970; no series without a job.",
    ),
    _schedule(
        "last_success_timestamp_seconds",
        Kind.GAUGE,
        "When a job last succeeded, of the newest 40, in seconds since 1970; no series if "
        "none did, or the role may not read the history. With more than 100 schedules, "
        "the newest 5 are looked at.",
    ),
    _schedule(
        "unsucceeded_seconds",
        Kind.GAUGE,
        "How long ago the first job was enqueued since which none has succeeded, of the "
        "newest 40; 0 if the last one succeeded.",
    ),
    _schedule("paused", Kind.GAUGE, "Whether the schedule is paused: 1 or 0."),
    _schedule(
        "firings_total",
        Kind.COUNTER,
        "Due times by what became of them: a job; none since an earlier job was in the "
        "queue; missed while no worker ran; or attempts to fire that failed.",
        ("outcome",),
        outcome=FIRING_OUTCOMES,
    ),
    Metric(
        "meshhook_schedule_left_out",
        Kind.GAUGE,
        "Schedules without series: the first 1,000 of a database have them.",
        (Source.EXPORTER, Source.OPERATOR),
        (),
    ),
)
