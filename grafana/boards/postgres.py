"""What the queues do to PostgreSQL: sizes, dead tuples, statement times; and the exporter."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from grafana import links, variables
from grafana.layout import Section, lay_out
from grafana.panels import PER_SECOND, Levels, Panel, figure, graph
from grafana.queries import Query, counted, gauge, quantile, quantiles, rate

_OPERATIONS = "meshhook_worker_operation_duration_seconds"
_NAMESPACE = 'namespace=~"$namespace"'
_TABLE = "queue, table"
_COLLECTED = f"meshhook_exporter_last_collection_age_seconds{{{_NAMESPACE}}}"
_SLOW = Levels(0.25, 0.5)
_OLD = Levels(30, 120)


def build() -> Dashboard:
    """Return the dashboard."""
    return lay_out(
        uid=links.POSTGRES,
        title="MeshHook / PostgreSQL",
        description="The tables of the queues, the statements of the workers, and the exporter.",
        variables=[
            variables.datasource(),
            variables.namespace("meshhook_queue_table_bytes"),
            variables.queues("meshhook_queue_table_bytes"),
        ],
        sections=[
            Section("What is wrong", _wrong(), height=4),
            Section("Tables", _tables()),
            Section("Statements of the workers", _statements()),
            Section("The exporter", _exporter()),
        ],
    )


def _wrong() -> list[Panel]:
    return [
        figure(
            "Claim p95",
            "95% of claims are faster than this. MeshHookClaimsSlow fires at 0.5 s.",
            quantile(0.95, _OPERATIONS, 'operation="claim"'),
            unit="s",
            levels=_SLOW,
            no_value="idle",
        ),
        figure(
            "Without database",
            "Workers that cannot reach PostgreSQL now.",
            counted('meshhook_worker_db_connected{namespace=~"$namespace", queue=~"$queue"} == 0'),
            levels=Levels(1, 1),
        ),
        figure(
            "Most dead tuples",
            "In the worst table. Autovacuum starts at about 1,000. If there are more for long, an "
            "old transaction is holding it up.",
            f"max({gauge('meshhook_queue_dead_tuples', by=_TABLE)})",
            levels=Levels(100_000, 1_000_000),
        ),
        figure(
            "Queues on disk",
            "All queues, dead letters and archives: heap, indexes and TOAST. "
            "archive_retention_days limits archives.",
            f"sum({gauge('meshhook_queue_table_bytes', by='namespace, queue, table')})",
            unit="bytes",
        ),
        figure(
            "History on disk",
            "All partitions of meshhook.job_attempts. history_retention_days limits it.",
            f"max(meshhook_history_bytes{{{_NAMESPACE}}})",
            unit="bytes",
        ),
        figure(
            "Age of these figures",
            "Seconds since the exporter last read the database. MeshHookExporterStale fires at "
            "120 s.",
            f"min({_COLLECTED})",
            unit="s",
            levels=_OLD,
        ),
    ]


def _tables() -> list[Panel]:
    return [
        graph(
            "Bytes by table",
            "Heap, indexes and TOAST. A queue that stays large when it is empty is bloated.",
            [Query(gauge("meshhook_queue_table_bytes", by=_TABLE), "{{queue}} {{table}}")],
            unit="bytes",
        ),
        graph(
            "Dead tuples by table",
            "Rows that are deleted but not vacuumed. A sawtooth is healthy; a ramp means an old "
            "transaction.",
            [Query(gauge("meshhook_queue_dead_tuples", by=_TABLE), "{{queue}} {{table}}")],
        ),
        graph(
            "History",
            "Bytes of meshhook.job_attempts, and of the bodies that queues with keep_bodies_days "
            "keep. Drops once a day, when a partition is removed.",
            [
                Query(f"max(meshhook_history_bytes{{{_NAMESPACE}}})", "history"),
                Query(f"max(meshhook_finished_jobs_bytes{{{_NAMESPACE}}})", "kept bodies"),
            ],
            unit="bytes",
        ),
    ]


def _statements() -> list[Panel]:
    return [
        graph(
            "Claim",
            "Time to lease a batch of messages. Dots are traces.",
            quantiles(_OPERATIONS, 'operation="claim"'),
            unit="s",
            levels=Levels(0.5),
        ),
        graph(
            "Settle",
            "Time to record outcomes, history rows and dead letters, including the commit to disk. "
            "Dots are traces.",
            quantiles(_OPERATIONS, 'operation="settle"'),
            unit="s",
        ),
        graph(
            "Extend and release, p95",
            "Time to extend leases, and to release them.",
            [
                Query(
                    quantile(0.95, _OPERATIONS, 'operation=~"extend|release"', by="operation"),
                    "{{operation}}",
                )
            ],
            unit="s",
        ),
        graph(
            "Statements that failed",
            "Failed statements per second, by operation.",
            [
                Query(
                    rate(f"{_OPERATIONS}_count", 'outcome="error"', by="operation"),
                    "{{operation}}",
                )
            ],
            unit=PER_SECOND,
        ),
    ]


def _exporter() -> list[Panel]:
    return [
        graph(
            "Collection duration",
            "How long reading all queues takes. It is one statement, whose cost does not depend on "
            "how deep the queues are.",
            [
                Query(
                    quantile(
                        share, "meshhook_exporter_collection_duration_seconds", selected=_NAMESPACE
                    ),
                    f"p{share * 100:.0f}",
                )
                for share in (0.5, 0.95)
            ],
            unit="s",
        ),
        graph(
            "Collections that failed",
            "Errors per second, by type. Queue metrics grow stale in the meantime.",
            [
                Query(
                    rate(
                        "meshhook_exporter_collection_errors_total",
                        by="error_type",
                        selected=_NAMESPACE,
                    ),
                    "{{error_type}}",
                )
            ],
            unit=PER_SECOND,
        ),
        graph(
            "Age of the figures",
            "Seconds since the exporter last read the database.",
            [Query(f"min({_COLLECTED})", "age")],
            unit="s",
            levels=_OLD,
        ),
    ]
