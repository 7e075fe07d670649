"""The worker: claims jobs, runs their handler, and records how each attempt ended."""

from meshhook.worker.handlers import JobHandler, create_job_handler
from meshhook.worker.process import run_worker_process
from meshhook.worker.stats import WorkerStats
from meshhook.worker.worker import Worker

__all__ = ["JobHandler", "Worker", "WorkerStats", "create_job_handler", "run_worker_process"]
