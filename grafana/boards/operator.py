"""The operator: what it scales, why, and whether it works."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from grafana import links, variables
from grafana.layout import Section, lay_out
from grafana.panels import PER_SECOND, Column, Levels, Panel, figure, graph, rows
from grafana.queries import Query, counted, quantile

_ALL = 'namespace=~"$namespace"'
_ONE = 'namespace=~"$namespace", jobqueue=~"$jobqueue"'
_LATE = Levels(60, 300)


def build() -> Dashboard:
    """Return the dashboard."""
    return lay_out(
        uid=links.OPERATOR,
        title="MeshHook / Operator",
        description="Every JobQueue, one in detail, and the operator itself.",
        variables=[
            variables.datasource(),
            variables.namespace("meshhook_scaler_replicas"),
            variables.one(
                "jobqueue",
                "JobQueue",
                "meshhook_scaler_replicas",
                "The JobQueue of the detailed rows, as namespace/name.",
            ),
        ],
        sections=[
            Section("What is wrong", _wrong(), height=4),
            Section("JobQueues", [_jobqueues()], height=9),
            Section("Replicas of $jobqueue", _replicas()),
            Section("Decisions for $jobqueue", _decisions()),
            Section("The operator itself", _operator()),
            Section("Which operator works", _leadership(), height=5),
        ],
    )


def _wrong() -> list[Panel]:
    missing = f"({_max('desired_replicas', _ALL)} - {_max('ready_replicas', _ALL)}) > 0"
    at_max = f"{_max('desired_replicas', _ALL)} >= {_max('max_replicas', _ALL)}"
    return [
        figure(
            "JobQueues not ready",
            "JobQueues whose Ready condition is false; `kubectl describe jobqueue` says why.",
            counted(f"{_max('ready', _ALL)} == 0"),
            levels=Levels(1, 1),
        ),
        figure(
            "Replicas missing",
            "Replicas that are desired but not ready yet, across all JobQueues.",
            f"sum({missing}) or vector(0)",
            levels=Levels(1),
        ),
        figure(
            "At their maximum",
            "JobQueues that need as many replicas as they may have. If the lag grows, raise "
            "spec.scaling.maxReplicas.",
            counted(at_max),
            levels=Levels(1),
        ),
        figure(
            "Paused",
            "JobQueues that are paused: the operator changes nothing for them.",
            counted(f"{_max('paused', _ALL)} == 1"),
            levels=Levels(1),
        ),
        figure(
            "Oldest success",
            "Seconds since the last successful decision, for the worst JobQueue. "
            "MeshHookReconcileFailing fires at 300 s.",
            f"max({_min('last_success_age_seconds', _ALL)})",
            unit="s",
            levels=_LATE,
        ),
        figure(
            "Failing reconciles",
            "Share of reconciles that ended in an error.",
            f'sum(rate(meshhook_operator_reconciles_total{{{_ALL}, outcome="error"}}'
            f"[$__rate_interval])) / (sum(rate(meshhook_operator_reconciles_total{{{_ALL}}}"
            "[$__rate_interval])) > 0)",
            unit="percentunit",
            levels=Levels(0.01, 0.2),
            no_value="idle",
        ),
    ]


def _jobqueues() -> Panel:
    def column(title: str, name: str) -> Column:
        return Column(title, _max(name, _ALL))

    return rows(
        "JobQueues",
        "One row per JobQueue. Click a name to see it in the rows below.",
        [
            Column(
                "jobqueue",
                link=links.to_dashboard("Show it below", links.OPERATOR, jobqueue="jobqueue"),
            ),
            Column("queue", link=links.to_dashboard("Open the queue", links.QUEUE, queue="queue")),
        ],
        [
            column("desired", "desired_replicas"),
            column("there", "replicas"),
            column("ready", "ready_replicas"),
            column("min", "min_replicas"),
            column("max", "max_replicas"),
            Column(
                "condition",
                _max("ready", _ALL),
                texts={"0": "not ready", "1": "ready"},
                levels=Levels(1, falling=True),
            ),
            Column("scaling", _max("paused", _ALL), texts={"0": "on", "1": "paused"}),
            Column(
                "last success",
                f"{_min('last_success_age_seconds', _ALL)}",
                "s",
                _LATE,
            ),
        ],
        sort_by="desired",
    )


def _replicas() -> list[Panel]:
    return [
        graph(
            "Desired against actual",
            "desired: what the operator requested. there: pods of the target, including pending "
            "ones. ready: pods that are working. The dashed lines are minReplicas and maxReplicas.",
            [
                Query(_max("desired_replicas", _ONE), "desired"),
                Query(_max("replicas", _ONE), "there"),
                Query(_max("ready_replicas", _ONE), "ready"),
                Query(_max("min_replicas", _ONE), "min"),
                Query(_max("max_replicas", _ONE), "max"),
            ],
            colors={
                "desired": "blue",
                "there": "orange",
                "ready": "green",
                "min": "gray",
                "max": "red",
            },
        ),
        graph(
            "Failing pods",
            "Pods that cannot run, by the reason; the condition Ready quotes what Kubernetes says. "
            "MeshHookPodsFailing fires after five minutes.",
            [Query(f"max by (reason) (meshhook_scaler_failing_pods{{{_ONE}}})", "{{reason}}")],
        ),
        graph(
            "Scale events",
            "Changes in the number of replicas, by direction. If ups and downs alternate, the load "
            "changes faster than the scale-down window.",
            [
                Query(
                    "sum by (direction) (increase(meshhook_scaler_events_total"
                    f"{{{_ONE}}}[$__rate_interval]))",
                    "{{direction}}",
                )
            ],
            colors={"up": "blue", "down": "purple"},
        ),
    ]


def _decisions() -> list[Panel]:
    return [
        graph(
            "Recommendation by signal",
            "Replicas that each signal calls for. The operator follows the largest, within the "
            "limits.",
            [
                Query(
                    f"max by (signal) (meshhook_scaler_recommended_replicas{{{_ONE}}})",
                    "{{signal}}",
                )
            ],
        ),
        graph(
            "Limited",
            "1 while a rule keeps the operator from doing what the signals call for.",
            [Query(f"max by (reason) (meshhook_scaler_limited{{{_ONE}}})", "{{reason}}")],
            maximum=1,
        ),
        graph(
            "Kept back",
            "Messages that are due but may not start, because of limits of their keys or of the "
            "queue, or because their key is held. `meshhook keys list` says which keys.",
            [Query(f"max by (reason) (meshhook_scaler_kept_back{{{_ONE}}})", "{{reason}}")],
        ),
        graph(
            "Ready and paused",
            "The Ready condition, and whether scaling is paused; 1 means yes.",
            [
                Query(_max("ready", _ONE), "ready"),
                Query(_max("paused", _ONE), "paused"),
            ],
            maximum=1,
            colors={"ready": "green", "paused": "orange"},
        ),
    ]


def _operator() -> list[Panel]:
    return [
        graph(
            "Reconciles",
            "Reconciles per second, by outcome.",
            [
                Query(
                    "sum by (outcome) (rate(meshhook_operator_reconciles_total"
                    f"{{{_ALL}}}[$__rate_interval]))",
                    "{{outcome}}",
                )
            ],
            unit=PER_SECOND,
            colors={"ok": "green", "error": "red"},
        ),
        graph(
            "Reconcile duration",
            "How long it takes to reconcile one JobQueue; most of it is the API server.",
            _quantiles("meshhook_operator_reconcile_duration_seconds"),
            unit="s",
        ),
        graph(
            "Tick duration",
            "How long reading all queues of a database takes. Near the tick length (5 s), the "
            "operator falls behind.",
            _quantiles("meshhook_operator_tick_duration_seconds"),
            unit="s",
            levels=Levels(5),
        ),
        graph(
            "Last success",
            "Seconds since each JobQueue was last reconciled.",
            [Query(f"{_min('last_success_age_seconds', _ALL)}", "{{jobqueue}}")],
            unit="s",
            levels=_LATE,
        ),
    ]


def _leadership() -> list[Panel]:
    return [
        graph(
            "Pods that lead",
            "Of the pods of an operator, one works (1) and the others stand by (0). If none works, "
            "MeshHookOperatorNotLeading fires.",
            [Query(f"max by (pod) (meshhook_operator_leading{{{_ALL}}})", "{{pod}}")],
            maximum=1,
        ),
        graph(
            "Namespaces left to another operator",
            "Namespaces with JobQueues that an operator watches and leaves alone. Its log says "
            "whose they are.",
            [Query(f"max by (pod) (meshhook_operator_unserved_namespaces{{{_ALL}}})", "{{pod}}")],
        ),
    ]


def _max(name: str, selected: str) -> str:
    return f"max by (jobqueue, queue) (meshhook_scaler_{name}{{{selected}}})"


def _min(name: str, selected: str) -> str:
    return f"min by (jobqueue, queue) (meshhook_scaler_{name}{{{selected}}})"


def _quantiles(name: str) -> list[Query]:
    return [
        Query(quantile(share, name, selected=_ALL), f"p{share * 100:.0f}") for share in (0.5, 0.95)
    ]
