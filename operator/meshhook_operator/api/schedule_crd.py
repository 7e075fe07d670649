"""The CustomResourceDefinition of `JobSchedule`, generated from its models.

`python -m meshhook_operator.api.schedule_crd` prints it; `operator/crds/` holds what it printed.
"""

from __future__ import annotations

import sys
from typing import Any

from meshhook_operator.api.crd import column, definition_of, structural_schema, yaml_of
from meshhook_operator.api.kind import SCHEDULE_KIND, SCHEDULE_PLURAL
from meshhook_operator.api.schedule_spec import (
    SCHEDULE_NAME_LENGTH,
    JobScheduleSpec,
    JobScheduleStatus,
)

PRINTER_COLUMNS = [
    column(
        "Ready",
        '.status.conditions[?(@.type=="Ready")].status',
        "string",
        text="The condition Ready.",
    ),
    column("Queue", ".status.queue", "string", text="The queue in the database."),
    column("Cron", ".spec.cron", "string", text="The cron expression."),
    column("Every(s)", ".spec.everySeconds", text="The interval in seconds, instead of cron."),
    column("Last", ".status.lastScheduleTime", "date", text="When the last job was enqueued."),
    # kubectl shows dates in the future as invalid.
    column("Next", ".status.nextScheduleTime", "string", text="The next due time."),
    column(
        "State",
        ".status.state",
        "string",
        text="The reason of the condition Ready; Scheduled if all is well.",
    ),
    column("Age", ".metadata.creationTimestamp", "date"),
    column("Zone", ".spec.timeZone", "string", wide=True),
    column("JobQueue", ".spec.jobQueueRef.name", "string", wide=True),
]


def custom_resource_definition() -> dict[str, Any]:
    """Return the whole CustomResourceDefinition."""
    root = {
        "type": "object",
        "description": "Jobs that are enqueued into the queue of a JobQueue at due times.",
        "required": ["spec"],
        "x-kubernetes-validations": [
            {
                "rule": (
                    f"has(self.spec.scheduleName) || "
                    f"size(self.metadata.name) <= {SCHEDULE_NAME_LENGTH}"
                ),
                "message": (
                    f"the name may have at most {SCHEDULE_NAME_LENGTH} characters, or "
                    "spec.scheduleName is given"
                ),
            }
        ],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": structural_schema(JobScheduleSpec),
            "status": structural_schema(JobScheduleStatus),
        },
    }
    return definition_of(
        SCHEDULE_KIND, SCHEDULE_PLURAL, short_name="jobsched", columns=PRINTER_COLUMNS, root=root
    )


if __name__ == "__main__":
    sys.stdout.write(yaml_of(custom_resource_definition()))
