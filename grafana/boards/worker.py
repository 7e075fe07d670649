"""The worker processes: slots, claims, database operations, leases, loops, memory."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from grafana import links, variables
from grafana.layout import Section, lay_out
from grafana.panels import PER_SECOND, Levels, Panel, figure, graph
from grafana.queries import Query, counted, of_processes, quantile, rate

_SELECTED = 'namespace=~"$namespace", queue=~"$queue", instance=~"$instance"'
_NAME = "{{worker}}"
_BY = "pod, instance"
_STUCK = Levels(30, 60)
_UNSETTLED = Levels(5, 30)
_OLDEST_UNSETTLED = f"meshhook_worker_oldest_unsettled_seconds{{{_SELECTED}}}"
_LOOP_AGE = f"meshhook_worker_last_loop_age_seconds{{{_SELECTED}}}"


def build() -> Dashboard:
    """Return the dashboard."""
    return lay_out(
        uid=links.WORKER,
        title="MeshHook / Worker",
        description="The worker processes of one or more queues, one line per process.",
        variables=[
            variables.datasource(),
            variables.namespace("meshhook_worker_db_connected"),
            variables.queues("meshhook_worker_db_connected"),
            variables.instances("meshhook_worker_db_connected"),
        ],
        sections=[
            Section("What is wrong", _wrong(), height=4),
            Section("Work", _work()),
            Section("Claims", _claims()),
            Section("Database operations", _database()),
            Section("Leases and slots", _leases()),
            Section("Outcomes", _outcomes()),
            Section("Process", _process()),
        ],
    )


def _wrong() -> list[Panel]:
    return [
        figure(
            "Workers",
            "Worker processes that Prometheus can scrape, including draining ones.",
            f"count(count by ({_BY}) (meshhook_worker_db_connected{{{_SELECTED}}}))",
            levels=Levels(1, falling=True),
            no_value="none",
        ),
        figure(
            "Without database",
            "Workers that cannot reach PostgreSQL now. They keep their outcomes and retry; "
            "MeshHookDatabaseUnreachable fires after two minutes.",
            counted(f"{_of_processes('db_connected')} == 0"),
            levels=Levels(1, 1),
        ),
        figure(
            "Oldest loop turn",
            "How long ago the slowest loop of any worker last made progress. Loops turn at least "
            "every few seconds; MeshHookWorkerStuck fires at 60 s.",
            f"max({_LOOP_AGE})",
            unit="s",
            levels=_STUCK,
        ),
        figure(
            "Slots in use",
            "Share of slots with a running handler. A high value is good as long as the lag is "
            "low.",
            f"{_sum('running_messages')} / sum({_of_processes('concurrency_limit')})",
            unit="percentunit",
            levels=Levels(0.95),
        ),
        figure(
            "Oldest unsettled",
            "How long the oldest outcome has been waiting to be recorded. If its worker dies, its "
            "job runs again. MeshHookOutcomesNotRecorded fires after two minutes above 30 s.",
            f"max({_OLDEST_UNSETTLED})",
            unit="s",
            levels=_UNSETTLED,
        ),
        figure(
            "Draining or cordoned",
            "Workers that claim no more and finish running jobs: those that are stopping, and "
            "those that the operator has cordoned, because fewer are needed.",
            counted(f"({_of_processes('draining')} == 1) or ({_of_processes('cordoned')} == 1)"),
        ),
    ]


def _work() -> list[Panel]:
    return [
        graph(
            "Running, and the limit",
            "Running handlers of each worker. The limit is its --concurrency.",
            [
                Query(_each("running_messages"), _NAME),
                Query(f"max(meshhook_worker_concurrency_limit{{{_SELECTED}}})", "limit"),
            ],
        ),
        graph(
            "Leased",
            "Messages that each worker holds: running ones, and those claimed ahead, about 100 ms "
            "of work.",
            [Query(_each("inflight_messages"), _NAME)],
        ),
        graph(
            "Attempts by worker",
            "Attempts per second. A worker far below the others is stuck, or on a slow node.",
            [Query(_named(_rate("messages_total", by=_BY)), _NAME)],
            unit=PER_SECOND,
            stacked=True,
        ),
    ]


def _claims() -> list[Panel]:
    batch = "meshhook_worker_claim_batch_messages"
    calls = "meshhook_worker_handler_batch_messages"
    return [
        graph(
            "Messages a claim",
            "Messages per claim. Few with a long backlog means slow jobs; few without a backlog "
            "means that the workers keep up. Of a handler of batches, also messages per call.",
            [
                *(
                    Query(quantile(share, batch, selected=_SELECTED), f"p{share * 100:.0f}")
                    for share in (0.5, 0.95)
                ),
                Query(quantile(0.5, calls, selected=_SELECTED), "p50 of calls"),
            ],
        ),
        graph(
            "Claims that found nothing",
            "Empty polls per second, the cost of being idle: about one per idle worker.",
            [Query(_named(_rate("empty_claims_total", by=_BY)), _NAME)],
            unit=PER_SECOND,
        ),
        graph(
            "Claim duration",
            "How long the database takes to lease a batch. MeshHookClaimsSlow fires if the p95 is "
            "above 0.5 s. Dots are traces.",
            [
                Query(
                    quantile(
                        share,
                        "meshhook_worker_operation_duration_seconds",
                        'operation="claim"',
                        selected=_SELECTED,
                    ),
                    f"p{share * 100:.0f}",
                    exemplars=share == 0.95,  # noqa: PLR2004 - once a panel
                )
                for share in (0.5, 0.95)
            ],
            unit="s",
            levels=Levels(0.5),
        ),
    ]


def _database() -> list[Panel]:
    operations = "meshhook_worker_operation_duration_seconds"
    return [
        graph(
            "Duration p95 by operation",
            "claim leases a batch, settle records outcomes, extend lengthens leases, release gives "
            "them back.",
            [
                Query(
                    quantile(0.95, operations, by="operation", selected=_SELECTED), "{{operation}}"
                )
            ],
            unit="s",
        ),
        graph(
            "Operations",
            "Statements per second, by operation.",
            [
                Query(
                    rate(f"{operations}_count", by="operation", selected=_SELECTED), "{{operation}}"
                )
            ],
            unit=PER_SECOND,
        ),
        graph(
            "Operations that failed",
            "Failed statements per second. If not zero, look at the workers' logs and at "
            "PostgreSQL.",
            [
                Query(
                    rate(
                        f"{operations}_count", 'outcome="error"', by="operation", selected=_SELECTED
                    ),
                    "{{operation}}",
                )
            ],
            unit=PER_SECOND,
        ),
        graph(
            "Connected",
            "1 while a worker can reach the database.",
            [Query(_named(f"min by ({_BY}) (meshhook_worker_db_connected{{{_SELECTED}}})"), _NAME)],
            maximum=1,
        ),
    ]


def _leases() -> list[Panel]:
    return [
        graph(
            "Lease extensions",
            "Lease extensions by result. lost: another worker has the message now, and this "
            "worker's outcome will not count.",
            [Query(_rate("lease_extensions_total", by="outcome"), "{{outcome}}")],
            unit=PER_SECOND,
            colors={"extended": "green", "lost": "red", "error": "orange"},
        ),
        graph(
            "Lost attempts",
            "Attempts per second that ended without an outcome, as found when the message was "
            "claimed again. Shown for the worker that found them, not for the one that died.",
            [Query(_named(_rate("messages_total", 'outcome="lost"', by=_BY)), _NAME)],
            unit=PER_SECOND,
        ),
        graph(
            "Slots replaced",
            "Slots per second that ended and were replaced. If not zero, a handler cancels the "
            "task that it runs in; the worker's log names the queue.",
            [Query(_named(_rate("slots_replaced_total", by=_BY)), _NAME)],
            unit=PER_SECOND,
        ),
    ]


def _outcomes() -> list[Panel]:
    return [
        graph(
            "Retries put off",
            "Attempts per second that are retried, and those of them that start later because the "
            "queue's max_retries_per_second is spent. While it lasts, more jobs fail than the "
            "queue is to repeat. MeshHookRetryStorm fires if more are retried than succeed.",
            [
                Query(_rate("messages_total", 'outcome="retried"', by="queue"), "{{queue}}: all"),
                Query(_rate("retries_delayed_total", by="queue"), "{{queue}}: put off"),
            ],
            unit=PER_SECOND,
        ),
        graph(
            "Breakers",
            "Circuit breakers of keys per second that opened, a failed probe included, or closed. "
            "The log names the key; so does meshhook keys list.",
            [Query(_rate("breaker_transitions_total", by="state"), "{{state}}")],
            unit=PER_SECOND,
            colors={"open": "red", "closed": "green"},
        ),
        graph(
            "Unsettled outcomes",
            "Outcomes that are not recorded yet. They are kept and retried while the database is "
            "away. If the process dies, they are lost and the jobs run again.",
            [Query(_each("unsettled_messages"), _NAME)],
        ),
        graph(
            "Oldest unsettled outcome",
            "How long the oldest outcome of each worker has been waiting to be recorded, normally "
            "milliseconds. Above 30 s the worker is not ready.",
            [Query(_named(f"max by ({_BY}) ({_OLDEST_UNSETTLED})"), _NAME)],
            unit="s",
            levels=_UNSETTLED,
        ),
    ]


def _process() -> list[Panel]:
    # The process's own metrics have no queue; the worker's metrics of the same target say which.
    mine = f"and on (job, instance) meshhook_worker_draining{{{_SELECTED}}}"
    here = 'namespace=~"$namespace", instance=~"$instance"'
    return [
        graph(
            "Age of the loops",
            "Seconds since each loop last made progress, for the worst worker. claimer takes "
            "messages, settler records outcomes, slots starts jobs, leases extends leases.",
            [Query(f"max by (loop) ({_LOOP_AGE})", "{{loop}}")],
            unit="s",
            levels=_STUCK,
        ),
        graph(
            "Memory",
            "Resident memory of each process. A steady rise ends at the pod's limit, with a killed "
            "process and lost leases.",
            [Query(_named(f"process_resident_memory_bytes{{{here}}} {mine}"), _NAME)],
            unit="bytes",
        ),
        graph(
            "Processor",
            "Processor seconds per second. At 1 the event loop is saturated: more workers help, "
            "more concurrency does not.",
            [
                Query(
                    _named(f"rate(process_cpu_seconds_total{{{here}}}[$__rate_interval]) {mine}"),
                    _NAME,
                )
            ],
            levels=Levels(0.95),
        ),
    ]


def _named(expr: str) -> str:
    """Add the label `worker`: the pod, or where there is none the address of the process."""
    for label in ("instance", "pod"):
        expr = f'label_replace({expr}, "worker", "$1", "{label}", "(.+)")'
    return expr


def _each(name: str) -> str:
    return _named(f"sum by ({_BY}) (meshhook_worker_{name}{{{_SELECTED}}})")


def _sum(name: str) -> str:
    return f"sum(meshhook_worker_{name}{{{_SELECTED}}})"


def _of_processes(name: str) -> str:
    return of_processes(f"meshhook_worker_{name}", selected=_SELECTED)


def _rate(name: str, *extra: str, by: str) -> str:
    return rate(f"meshhook_worker_{name}", *extra, by=by, selected=_SELECTED)
