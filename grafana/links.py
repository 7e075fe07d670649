"""Where dashboards and runbooks are: the addresses that panels and alerts point to."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import DashboardLink
from grafana_foundation_sdk.models.dashboard import DashboardLinkType

TAG = "meshhook"
"""The tag of every dashboard; the links between them go by it."""

RUNBOOKS_URL = "https://github.com/meshhook/meshhook-queue/blob/main/grafana/runbooks"
"""The folder that every `runbook_url` starts with. README.md says how to point it elsewhere."""

FLEET, QUEUE, WORKER, OPERATOR, POSTGRES = (
    f"meshhook-{name}" for name in ("fleet", "queue", "worker", "operator", "postgres")
)
"""The fixed uids."""


def between_dashboards() -> DashboardLink:
    """Return the links in the head of every dashboard to all the others."""
    return (
        DashboardLink("MeshHook")
        .type(DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .as_dropdown(False)
        .include_vars(True)
        .keep_time(True)
        .tooltip("The other dashboards of MeshHook Queue, for the same time and queues.")
    )


def to_dashboard(title: str, uid: str, **fields: str) -> dict[str, object]:
    """Return a data link to a dashboard.

    Args:
        title: what the link says.
        uid: the dashboard.
        fields: variables of the dashboard, each with the column of the row that it is set from.
    """
    variables = "".join(f"&var-{name}={_field(column)}" for name, column in fields.items())
    return {
        "title": title,
        "url": f"/d/{uid}?${{__url_time_range}}&${{datasource:queryparam}}{variables}",
    }


def to_runbook() -> dict[str, object]:
    """Return a data link from the name of an alert to its runbook."""
    return {
        "title": "What to do: open the runbook",
        "url": f"{RUNBOOKS_URL}/{_field('alertname')}.md",
        "targetBlank": True,
    }


def _field(column: str) -> str:
    return f'${{__data.fields["{column}"]:percentencode}}'
