"""The variables in the head of the dashboards."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import DatasourceVariable, QueryVariable
from grafana_foundation_sdk.models.common import DataSourceRef
from grafana_foundation_sdk.models.dashboard import (
    VariableOption,
    VariableRefresh,
    VariableSort,
)

DATASOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
"""The Prometheus that the variable selects."""


def datasource() -> DatasourceVariable:
    """Return the variable that selects the Prometheus to ask."""
    return (
        DatasourceVariable("datasource")
        .type("prometheus")
        .label("Data source")
        .description("The Prometheus that scrapes the workers, the exporter and the operator.")
    )


def namespace(metric: str) -> QueryVariable:
    """Return the variable for namespaces, those of workers and of the exporter.

    Where there are no namespaces, outside Kubernetes, "All" matches series without the label.
    """
    return (
        _many(_label_values("namespace", metric, "namespace", ""))
        .label("Namespace")
        .description(
            "Namespaces of the workers, the exporter and the operator. If they differ, choose all "
            "that belong together, or All."
        )
    )


def queues(metric: str) -> QueryVariable:
    """Return the variable for any number of queues."""
    return (
        _many(_label_values("queue", metric, "queue", 'namespace=~"$namespace"'))
        .label("Queue")
        .description("The queues to show.")
    )


def one(name: str, label: str, metric: str, description: str) -> QueryVariable:
    """Return a variable for exactly one value of the label `name`."""
    return (
        _label_values(name, metric, name, 'namespace=~"$namespace"')
        .label(label)
        .description(description)
    )


def instances(metric: str) -> QueryVariable:
    """Return the variable for worker processes."""
    return (
        _many(
            _label_values(
                "instance", metric, "instance", 'namespace=~"$namespace", queue=~"$queue"'
            )
        )
        .label("Worker")
        .description("Worker processes, by the address that Prometheus scrapes.")
    )


def _many(variable: QueryVariable) -> QueryVariable:
    return (
        variable.multi(True)
        .include_all(True)
        .all_value(".*")
        .current(VariableOption(selected=True, text=["All"], value=["$__all"]))
    )


def _label_values(name: str, metric: str, label: str, matchers: str) -> QueryVariable:
    query = (
        f"label_values({metric}{{{matchers}}}, {label})"
        if matchers
        else f"label_values({metric}, {label})"
    )
    return (
        QueryVariable(name)
        .datasource(DATASOURCE)
        .query({"qryType": 1, "query": query, "refId": f"Variable-{name}"})
        .definition(query)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
    )
