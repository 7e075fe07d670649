"""A worker as what a process is there for."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, NoReturn

from meshhook.worker.garbage import leave_program_alone

if TYPE_CHECKING:
    from meshhook.worker.worker import Worker


async def run_worker_process(worker: Worker) -> None:
    """Run a worker as what a process is there for: until a signal.

    Leaves the process at once, with 0, where a job that was given up would keep it from ending.

    Raises:
        QueueNotFoundError, SchemaMissingError, DatabaseError: it did not start.
    """
    leave_program_alone()
    await worker.run()
    if worker.has_stuck_jobs:
        end_process(0)


def end_process(code: int) -> NoReturn:
    """End this process at once with an exit code, whatever runs; what was printed is written."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
