"""MeshHook Queue: a job queue for workflow jobs on PostgreSQL and PGMQ.

A name is imported when it is first asked for, so that a command that needs one of them does not
wait for all.
"""

from __future__ import annotations

# As typing has it: importing that takes longer than all else here, and until the command line has
# begun, Ctrl-C prints a trace.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any

    from meshhook.actors import acting_as
    from meshhook.administration import (
        QueueSnapshot,
        create_queue,
        drop_queue,
        get_queue_config,
        get_queue_snapshot,
        list_queues,
        set_queue_config,
    )
    from meshhook.application import App, QueueHandler
    from meshhook.audit import AuditEntry, list_audit_entries
    from meshhook.cancellation import Cancellation
    from meshhook.dead_letters import DLQService
    from meshhook.errors import (
        DatabaseConflictError,
        DatabaseError,
        DatabaseLockedError,
        DatabaseReadOnlyError,
        DatabaseUnavailableError,
        DeadLetterNotFoundError,
        DuplicateJobError,
        GroupExistsError,
        GroupNotFoundError,
        HiddenRowsError,
        InvalidHandlerError,
        InvalidJobError,
        InvalidPayloadError,
        InvalidQueueNameError,
        InvalidSettingError,
        JobNotFoundError,
        JobTooLargeError,
        LeaseLostError,
        MeshHookError,
        MigrationError,
        NotAJobError,
        PortUnavailableError,
        QueueBusyError,
        QueueNotFoundError,
        ScheduleNotFoundError,
        SchemaMissingError,
        UncertainCommitError,
        UnstorableTextError,
        UnsuitableQueueError,
        UnsupportedPgmqError,
        WaitTimeoutError,
        WorkerFailedError,
        WrongSchemeError,
    )
    from meshhook.exporter import QueueExporter
    from meshhook.follow_ups import FollowUp
    from meshhook.groups import JobGroup, get_group, list_groups, repair_group
    from meshhook.job_changes import ChangeResult, JobChange, JobChanges
    from meshhook.job_ends import JobEnd
    from meshhook.jobs import DueTime, FinishedGroup, Job, WorkflowJob
    from meshhook.keys import (
        BreakerState,
        HoldMaker,
        KeyState,
        get_key,
        hold_key,
        list_keys,
        resume_key,
        set_key,
    )
    from meshhook.live_workers import LiveWorker, list_workers
    from meshhook.observability.health import Check
    from meshhook.observability.job_context import get_current_job
    from meshhook.observability.logs import JobFilter, add_job_fields
    from meshhook.observability.monitoring_server import MonitoringServer
    from meshhook.outcomes import Cancel, DeadLetter, Done, RetryAfter, Snooze
    from meshhook.postgres.database import Database
    from meshhook.priorities import Priority
    from meshhook.queue_config import QueueConfig
    from meshhook.queues import QueueService
    from meshhook.retry import FailedAttempt, RetryInfo, RetryPolicy, RetryStrategy
    from meshhook.schedules import (
        Schedule,
        ScheduleFiring,
        add_schedule,
        delete_schedule,
        get_schedule,
        list_schedule_firings,
        list_schedules,
        pause_schedule,
        resume_schedule,
        run_schedule,
    )
    from meshhook.schema import migrate
    from meshhook.store.dead_letter_rows import DeadLetterJob, DlqMetrics, ErrorGroup
    from meshhook.sync.queue_service import SyncQueueService
    from meshhook.topics import TopicBinding, bind_topic, list_topic_bindings, unbind_topic
    from meshhook.unique import EnqueuedId
    from meshhook.worker import JobHandler, Worker, WorkerStats, create_job_handler
    from meshhook.worker.results import UnusableResultError

__all__ = [
    "App",
    "AuditEntry",
    "BreakerState",
    "Cancel",
    "Cancellation",
    "ChangeResult",
    "Check",
    "DLQService",
    "Database",
    "DatabaseConflictError",
    "DatabaseError",
    "DatabaseLockedError",
    "DatabaseReadOnlyError",
    "DatabaseUnavailableError",
    "DeadLetter",
    "DeadLetterJob",
    "DeadLetterNotFoundError",
    "DlqMetrics",
    "Done",
    "DueTime",
    "DuplicateJobError",
    "EnqueuedId",
    "ErrorGroup",
    "FailedAttempt",
    "FinishedGroup",
    "FollowUp",
    "GroupExistsError",
    "GroupNotFoundError",
    "HiddenRowsError",
    "HoldMaker",
    "InvalidHandlerError",
    "InvalidJobError",
    "InvalidPayloadError",
    "InvalidQueueNameError",
    "InvalidSettingError",
    "Job",
    "JobChange",
    "JobChanges",
    "JobEnd",
    "JobFilter",
    "JobGroup",
    "JobHandler",
    "JobNotFoundError",
    "JobTooLargeError",
    "KeyState",
    "LeaseLostError",
    "LiveWorker",
    "MeshHookError",
    "MigrationError",
    "MonitoringServer",
    "NotAJobError",
    "PortUnavailableError",
    "Priority",
    "QueueBusyError",
    "QueueConfig",
    "QueueExporter",
    "QueueHandler",
    "QueueNotFoundError",
    "QueueService",
    "QueueSnapshot",
    "RetryAfter",
    "RetryInfo",
    "RetryPolicy",
    "RetryStrategy",
    "Schedule",
    "ScheduleFiring",
    "ScheduleNotFoundError",
    "SchemaMissingError",
    "Snooze",
    "SyncQueueService",
    "TopicBinding",
    "UncertainCommitError",
    "UnstorableTextError",
    "UnsuitableQueueError",
    "UnsupportedPgmqError",
    "UnusableResultError",
    "WaitTimeoutError",
    "Worker",
    "WorkerFailedError",
    "WorkerStats",
    "WorkflowJob",
    "WrongSchemeError",
    "acting_as",
    "add_job_fields",
    "add_schedule",
    "bind_topic",
    "create_job_handler",
    "create_queue",
    "delete_schedule",
    "drop_queue",
    "get_current_job",
    "get_group",
    "get_key",
    "get_queue_config",
    "get_queue_snapshot",
    "get_schedule",
    "hold_key",
    "list_audit_entries",
    "list_groups",
    "list_keys",
    "list_queues",
    "list_schedule_firings",
    "list_schedules",
    "list_topic_bindings",
    "list_workers",
    "migrate",
    "pause_schedule",
    "repair_group",
    "resume_key",
    "resume_schedule",
    "run_schedule",
    "set_key",
    "set_queue_config",
    "unbind_topic",
]

_HOMES = {
    "App": "meshhook.application",
    "AuditEntry": "meshhook.audit",
    "BreakerState": "meshhook.keys",
    "Cancel": "meshhook.outcomes",
    "Cancellation": "meshhook.cancellation",
    "ChangeResult": "meshhook.job_changes",
    "Check": "meshhook.observability.health",
    "DLQService": "meshhook.dead_letters",
    "Database": "meshhook.postgres.database",
    "DatabaseConflictError": "meshhook.errors",
    "DatabaseError": "meshhook.errors",
    "DatabaseLockedError": "meshhook.errors",
    "DatabaseReadOnlyError": "meshhook.errors",
    "DatabaseUnavailableError": "meshhook.errors",
    "DeadLetter": "meshhook.outcomes",
    "DeadLetterJob": "meshhook.store.dead_letter_rows",
    "DeadLetterNotFoundError": "meshhook.errors",
    "DlqMetrics": "meshhook.store.dead_letter_rows",
    "Done": "meshhook.outcomes",
    "DueTime": "meshhook.jobs",
    "DuplicateJobError": "meshhook.errors",
    "EnqueuedId": "meshhook.unique",
    "ErrorGroup": "meshhook.store.dead_letter_rows",
    "FailedAttempt": "meshhook.retry",
    "FinishedGroup": "meshhook.jobs",
    "FollowUp": "meshhook.follow_ups",
    "GroupExistsError": "meshhook.errors",
    "GroupNotFoundError": "meshhook.errors",
    "HiddenRowsError": "meshhook.errors",
    "HoldMaker": "meshhook.keys",
    "InvalidHandlerError": "meshhook.errors",
    "InvalidJobError": "meshhook.errors",
    "InvalidPayloadError": "meshhook.errors",
    "InvalidQueueNameError": "meshhook.errors",
    "InvalidSettingError": "meshhook.errors",
    "Job": "meshhook.jobs",
    "JobChange": "meshhook.job_changes",
    "JobChanges": "meshhook.job_changes",
    "JobEnd": "meshhook.job_ends",
    "JobFilter": "meshhook.observability.logs",
    "JobGroup": "meshhook.groups",
    "JobHandler": "meshhook.worker",
    "JobNotFoundError": "meshhook.errors",
    "JobTooLargeError": "meshhook.errors",
    "KeyState": "meshhook.keys",
    "LeaseLostError": "meshhook.errors",
    "LiveWorker": "meshhook.live_workers",
    "MeshHookError": "meshhook.errors",
    "MigrationError": "meshhook.errors",
    "MonitoringServer": "meshhook.observability.monitoring_server",
    "NotAJobError": "meshhook.errors",
    "PortUnavailableError": "meshhook.errors",
    "Priority": "meshhook.priorities",
    "QueueBusyError": "meshhook.errors",
    "QueueConfig": "meshhook.queue_config",
    "QueueExporter": "meshhook.exporter",
    "QueueHandler": "meshhook.application",
    "QueueNotFoundError": "meshhook.errors",
    "QueueService": "meshhook.queues",
    "QueueSnapshot": "meshhook.administration",
    "RetryAfter": "meshhook.outcomes",
    "RetryInfo": "meshhook.retry",
    "RetryPolicy": "meshhook.retry",
    "RetryStrategy": "meshhook.retry",
    "Schedule": "meshhook.schedules",
    "ScheduleFiring": "meshhook.schedules",
    "ScheduleNotFoundError": "meshhook.errors",
    "SchemaMissingError": "meshhook.errors",
    "Snooze": "meshhook.outcomes",
    "SyncQueueService": "meshhook.sync.queue_service",
    "TopicBinding": "meshhook.topics",
    "UncertainCommitError": "meshhook.errors",
    "UnstorableTextError": "meshhook.errors",
    "UnsuitableQueueError": "meshhook.errors",
    "UnsupportedPgmqError": "meshhook.errors",
    "UnusableResultError": "meshhook.worker.results",
    "WaitTimeoutError": "meshhook.errors",
    "Worker": "meshhook.worker",
    "WorkerFailedError": "meshhook.errors",
    "WorkerStats": "meshhook.worker",
    "WorkflowJob": "meshhook.jobs",
    "WrongSchemeError": "meshhook.errors",
    "acting_as": "meshhook.actors",
    "add_job_fields": "meshhook.observability.logs",
    "add_schedule": "meshhook.schedules",
    "bind_topic": "meshhook.topics",
    "create_job_handler": "meshhook.worker",
    "create_queue": "meshhook.administration",
    "delete_schedule": "meshhook.schedules",
    "drop_queue": "meshhook.administration",
    "get_current_job": "meshhook.observability.job_context",
    "get_group": "meshhook.groups",
    "get_key": "meshhook.keys",
    "get_queue_config": "meshhook.administration",
    "get_queue_snapshot": "meshhook.administration",
    "get_schedule": "meshhook.schedules",
    "hold_key": "meshhook.keys",
    "list_audit_entries": "meshhook.audit",
    "list_groups": "meshhook.groups",
    "list_keys": "meshhook.keys",
    "list_queues": "meshhook.administration",
    "list_schedule_firings": "meshhook.schedules",
    "list_schedules": "meshhook.schedules",
    "list_topic_bindings": "meshhook.topics",
    "list_workers": "meshhook.live_workers",
    "migrate": "meshhook.schema",
    "pause_schedule": "meshhook.schedules",
    "repair_group": "meshhook.groups",
    "resume_key": "meshhook.keys",
    "resume_schedule": "meshhook.schedules",
    "run_schedule": "meshhook.schedules",
    "set_key": "meshhook.keys",
    "set_queue_config": "meshhook.administration",
    "unbind_topic": "meshhook.topics",
}
"""The module of each name; the imports above say the same to type checkers."""


def __getattr__(name: str) -> Any:
    """Import a public name. Raises AttributeError for any other."""
    if name not in _HOMES:
        raise AttributeError(f"module 'meshhook' has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - for the same reason

    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    """Return the public names, and what a module always has."""
    return sorted({*globals(), *__all__})
