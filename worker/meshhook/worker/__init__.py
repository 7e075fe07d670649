"""The worker: claims jobs, runs their handler, and records how each attempt ended."""

from meshhook.worker.handlers import JobHandler, create_job_handler
from meshhook.worker.worker import Worker, WorkerStats, run_worker_process

__all__ = ["JobHandler", "Worker", "WorkerStats", "create_job_handler", "run_worker_process"]
