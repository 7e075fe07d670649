"""All queues at a glance: what is wrong, and which queue to open."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from grafana import links, variables
from grafana.layout import Section, lay_out
from grafana.panels import PER_SECOND, Column, Levels, Panel, figure, graph, rows
from grafana.queries import (
    FINAL,
    PROCESS,
    SELECTED,
    Query,
    counted,
    enqueued,
    error_share,
    firing,
    gauge,
    lag,
    quantile,
    rate,
    total,
)

_LAG = Levels(60, 300)
_ERRORS = Levels(0.05, 0.2)
_NAMESPACE = 'namespace=~"$namespace"'
_ALERT = "alertname, severity, queue, jobqueue"


def build() -> Dashboard:
    """Return the dashboard."""
    return lay_out(
        uid=links.FLEET,
        title="MeshHook / Fleet",
        description=(
            "Start here. The top row shows what is wrong, the table shows which queue is affected."
        ),
        variables=[
            variables.datasource(),
            variables.namespace("meshhook_queue_messages"),
            variables.queues("meshhook_queue_messages"),
        ],
        sections=[
            Section("What is wrong", _wrong(), height=4),
            Section("Alerts", [_alerts()], height=6),
            Section("Queues", [_queues()], height=9),
            Section("Load", _load()),
            Section("Waiting and failing", _waiting()),
            Section("Workers", _workers()),
        ],
    )


def _wrong() -> list[Panel]:
    waiting = gauge("meshhook_queue_messages", 'state=~"ready|lost"')
    no_worker = (
        f"({gauge('meshhook_queue_workers')} == 0) and on (queue) ({waiting} > 0) "
        f"unless on (queue) {gauge('meshhook_queue_paused')} == 1"
    )
    return [
        figure(
            "Alerts firing",
            "MeshHook Queue alerts that are firing. The table below lists them with links to their "
            "runbooks.",
            counted(firing()),
            levels=Levels(1, 1),
        ),
        figure(
            "Worst lag",
            "How long the oldest ready message has been waiting, across all queues that are not "
            "paused. Above 60 s jobs start late; MeshHookQueueLagHigh fires at 300 s.",
            f"max({lag()})",
            unit="s",
            levels=_LAG,
        ),
        figure(
            "Failing attempts",
            "Share of ended attempts that failed (retried, dead-lettered or lost). "
            "MeshHookErrorRateHigh fires when a queue reaches 20%.",
            error_share(),
            unit="percentunit",
            levels=_ERRORS,
            no_value="idle",
        ),
        figure(
            "Dead letters",
            "Dead letters of all queues: jobs that failed for good and are waiting for someone to "
            "replay or delete them.",
            total("meshhook_queue_dlq_messages"),
            levels=Levels(1),
        ),
        figure(
            "Queues without worker",
            "Queues that have ready messages, or messages lost by a dead worker, but no worker "
            "seen in the last 30 s. Paused queues do not count.",
            counted(no_worker),
            levels=Levels(1, 1),
        ),
        figure(
            "Age of these figures",
            "Seconds since the exporter last read the database. If this is high, all queue metrics "
            "are stale: see MeshHookExporterStale first.",
            f"min(meshhook_exporter_last_collection_age_seconds{{{_NAMESPACE}}})",
            unit="s",
            levels=Levels(30, 120),
        ),
    ]


def _alerts() -> Panel:
    return rows(
        "Alerts firing now",
        "Empty when all is well. Click a name to open its runbook: meaning, impact, diagnosis, "
        "mitigation.",
        [
            Column("alertname", link=links.to_runbook()),
            Column("severity"),
            Column("queue", link=links.to_dashboard("Open the queue", links.QUEUE, queue="queue")),
            Column("jobqueue"),
        ],
        [Column("firing", f"max by ({_ALERT}) ({firing()})")],
    )


def _queues() -> Panel:
    attempts = "meshhook_worker_messages_total"

    def count(state: str) -> str:
        return gauge("meshhook_queue_messages", f'state="{state}"')

    return rows(
        "Queues",
        "One row per queue, the one with the longest lag first. Click a name to open the queue. "
        "Counts stop at 10,000.",
        [Column("queue", link=links.to_dashboard("Open the queue", links.QUEUE, queue="queue"))],
        [
            Column("lag", gauge("meshhook_queue_oldest_ready_seconds"), "s", _LAG),
            Column("ready", count("ready")),
            Column("running", count("running")),
            Column("retrying", count("retrying")),
            Column("lost", count("lost"), levels=Levels(1, 100)),
            Column("dead letters", gauge("meshhook_queue_dlq_messages"), levels=Levels(1)),
            Column("enqueued/s", enqueued("queue"), PER_SECOND),
            Column("finished/s", rate(attempts, FINAL, by="queue"), PER_SECOND),
            Column("failing", error_share("queue"), "percentunit", _ERRORS),
            Column("workers", gauge("meshhook_queue_workers"), levels=Levels(1, falling=True)),
            Column(
                "claims",
                gauge("meshhook_queue_paused"),
                texts={"0": "yes", "1": "paused"},
                levels=Levels(1),
            ),
        ],
        sort_by="lag",
    )


def _load() -> list[Panel]:
    attempts = "meshhook_worker_messages_total"
    return [
        graph(
            "Enqueued and finished",
            "Messages enqueued per second compared with jobs finished. While the first stays above "
            "the second, the backlog grows.",
            [
                Query(f"sum({enqueued()})", "enqueued"),
                Query(rate(attempts, FINAL), "finished"),
            ],
            unit=PER_SECOND,
        ),
        graph(
            "Finished by queue",
            "Jobs finished per second: succeeded, dead-lettered, cancelled, archived, expired.",
            [Query(rate(attempts, FINAL, by="queue"), "{{queue}}")],
            unit=PER_SECOND,
            stacked=True,
        ),
        graph(
            "Failing attempts by queue",
            "Share of attempts that failed. MeshHookErrorRateHigh fires at the line.",
            [Query(error_share("queue"), "{{queue}}")],
            unit="percentunit",
            levels=Levels(0.2),
            maximum=1,
        ),
    ]


def _waiting() -> list[Panel]:
    return [
        graph(
            "Lag by queue",
            "How long the oldest ready message has been waiting: how late the queue is. Paused "
            "queues are left out.",
            [Query(lag(), "{{queue}}")],
            unit="s",
            levels=_LAG,
        ),
        graph(
            "Wait p95 by queue",
            "95% of attempts started within this time of being ready. Dots are traces.",
            [
                Query(
                    quantile(0.95, "meshhook_worker_message_wait_seconds", by="queue"),
                    "{{queue}}",
                    exemplars=True,
                )
            ],
            unit="s",
            levels=Levels(60),
        ),
        graph(
            "Dead letters by queue",
            "Dead letters. A step is an incident; a slope is a bug that affects some of the jobs.",
            [Query(gauge("meshhook_queue_dlq_messages"), "{{queue}}")],
        ),
    ]


def _workers() -> list[Panel]:
    limit = f"meshhook_worker_concurrency_limit{{{SELECTED}}}"
    # Of all queues: a slot that another queue of the process has taken is in use, too.
    running = f"sum by ({PROCESS}) (meshhook_worker_running_messages{{{_NAMESPACE}}})"
    taken = f"({limit} > bool 0) * on ({PROCESS}) group_left () {running}"
    return [
        graph(
            "Workers by queue",
            "Worker processes that reported in the last 30 s.",
            [Query(gauge("meshhook_queue_workers"), "{{queue}}")],
        ),
        graph(
            "Slots in use by queue",
            "Share of the workers' slots in use by any of their queues. Near 100% with a growing "
            "lag, the queue needs more workers or a higher --concurrency.",
            [Query(f"sum by (queue) ({taken}) / sum by (queue) ({limit})", "{{queue}}")],
            unit="percentunit",
            levels=Levels(0.95),
            maximum=1,
        ),
        graph(
            "Replicas of scaled queues",
            "Sum over all JobQueues of replicas desired, existing and ready. Empty without the "
            "operator.",
            [
                Query(f"sum(max by (jobqueue) (meshhook_scaler_{name}{{{SELECTED}}}))", legend)
                for name, legend in (
                    ("desired_replicas", "desired"),
                    ("replicas", "there"),
                    ("ready_replicas", "ready"),
                )
            ],
        ),
        graph(
            "Versions",
            "Processes by version of MeshHook Queue. More than one line means that a rollout is in "
            "progress, or stuck.",
            [
                Query(
                    'count by (version) (meshhook_build_info{namespace=~"$namespace"})',
                    "{{version}}",
                )
            ],
        ),
    ]
