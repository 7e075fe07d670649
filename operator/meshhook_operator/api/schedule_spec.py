"""What a `JobSchedule` asks for and reports: the models from which its CRD is generated."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, WithJsonSchema

from meshhook.due_times import MAX_CRON_LENGTH, MAX_EVERY_SECONDS, MAX_TIME_ZONE_LENGTH
from meshhook_operator.api.fields import ObjectName, Part, rules
from meshhook_operator.api.status import Condition, StatusPart

SCHEDULE_NAME_LENGTH = 100

NOT_FOUND = "JobQueueNotFound"
"""The reason of Ready of a JobSchedule whose JobQueue does not exist."""
NOT_READY = "JobQueueNotReady"
"""The reason of Ready of a JobSchedule that nobody could look at in the database."""

_Body = Annotated[
    dict[str, Any],
    WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True}),
]
_Time = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]


class JobQueueReference(Part):
    """A JobQueue in the namespace of the JobSchedule."""

    name: ObjectName
    """The name of the JobQueue."""


class JobScheduleSpec(Part):
    """Jobs that are enqueued at due times."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "has(self.cron) != has(self.everySeconds)",
                "give exactly one of cron and everySeconds",
            ),
            ("has(self.cron) || !has(self.timeZone)", "timeZone belongs to cron"),
        )
    )

    job_queue_ref: JobQueueReference
    """The JobQueue whose queue the jobs go to; its database has the schedule."""
    schedule_name: (
        Annotated[
            str,
            Field(max_length=SCHEDULE_NAME_LENGTH, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$"),
        ]
        | None
    ) = None
    """The name of the schedule, unique in the queue. Default: the name of the JobSchedule."""
    cron: Annotated[str, Field(min_length=1, max_length=MAX_CRON_LENGTH)] | None = None
    """Minute, hour, day of the month, month and day of the week, as 0 9 * * 1-5; or @hourly,
    @daily, @weekly, @monthly, @yearly."""
    every_seconds: Annotated[int, Field(ge=1, le=MAX_EVERY_SECONDS)] | None = None
    """Instead of cron: the interval in seconds. Due times are its multiples since 1970 in UTC."""
    time_zone: Annotated[str, Field(min_length=1, max_length=MAX_TIME_ZONE_LENGTH)] | None = None
    """The time zone of cron, by its name in the IANA database. Default UTC."""
    payload: _Body = Field(default_factory=dict)
    """What the handler receives, a JSON object. Default: an empty one."""
    headers: _Body = Field(default_factory=dict)
    """Headers of each message. Default: none."""
    key: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]*$")] | None = None
    """Whose jobs they are, for a queue with keys. Default: nobody's."""
    priority: Literal["urgent", "high", "normal", "low"] | None = None
    """How urgent the jobs are, for a queue with priorities. Default: normal."""
    missed: Literal["skip", "once", "all"] = "once"
    """What becomes of due times that passed while no worker ran. once: one job, for the last of
    them; all: a job for each; skip: none. Default once."""
    overlap: Literal["allow", "skip"] = "allow"
    """With skip, a due time gets no job while an earlier job of the schedule is in the queue.
    Default allow."""
    paused: bool | None = None
    """Whether due times get no jobs. Absent: left as it is, so that meshhook schedule pause
    holds."""


class JobScheduleStatus(StatusPart):
    """What the operator has found and done."""

    observed_generation: int | None = None
    """The generation of the spec that was last looked at."""
    state: str | None = None
    """The reason of the condition Ready; Scheduled if all is well."""
    queue: str | None = None
    """The queue in the database. Absent while the schedule is not there."""
    last_schedule_time: _Time | None = None
    """When the last job was enqueued."""
    next_schedule_time: _Time | None = None
    """The next due time."""
    conditions: Annotated[
        list[Condition],
        Field(
            default_factory=list,
            json_schema_extra={
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
            },
        ),
    ]
    """Ready."""
