"""MeshHook Queue: a job queue for workflow jobs on PostgreSQL and PGMQ."""

from meshhook.administration import (
    QueueSnapshot,
    create_queue,
    drop_queue,
    get_queue_config,
    get_queue_snapshot,
    list_queues,
    set_queue_config,
)
from meshhook.database import Database
from meshhook.dead_letter_jobs import DeadLetterJob, DlqMetrics, ErrorGroup
from meshhook.dead_letters import DLQService
from meshhook.errors import MeshHookError
from meshhook.exporter import QueueExporter
from meshhook.jobs import Job, WorkflowJob
from meshhook.live_workers import LiveWorker, list_workers
from meshhook.observability.monitoring_server import MonitoringServer
from meshhook.outcomes import Cancel, DeadLetter, Done, RetryAfter, Snooze
from meshhook.queue_config import QueueConfig
from meshhook.queues import QueueMetrics, QueueService
from meshhook.retry import RetryInfo, RetryStrategy
from meshhook.schema import migrate
from meshhook.worker import JobHandler, Worker, WorkerStats, create_job_handler

__all__ = [
    "Cancel",
    "DLQService",
    "Database",
    "DeadLetter",
    "DeadLetterJob",
    "DlqMetrics",
    "Done",
    "ErrorGroup",
    "Job",
    "JobHandler",
    "LiveWorker",
    "MeshHookError",
    "MonitoringServer",
    "QueueConfig",
    "QueueExporter",
    "QueueMetrics",
    "QueueService",
    "QueueSnapshot",
    "RetryAfter",
    "RetryInfo",
    "RetryStrategy",
    "Snooze",
    "Worker",
    "WorkerStats",
    "WorkflowJob",
    "create_job_handler",
    "create_queue",
    "drop_queue",
    "get_queue_config",
    "get_queue_snapshot",
    "list_queues",
    "list_workers",
    "migrate",
    "set_queue_config",
]
