"""`SyncQueueChanges`: jobs are changed, found and awaited without an event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from meshhook.jobs import PayloadT
from meshhook.sync.access import SyncQueueAccess
from meshhook.tracking import find_jobs

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime, timedelta

    from meshhook.job_changes import JobChanges
    from meshhook.job_choice import JobChoiceOptions
    from meshhook.job_ends import JobEnd
    from meshhook.job_replays import ReplayOptions
    from meshhook.priorities import AnyPriority
    from meshhook.tracking import FoundJobs, JobFilters


class SyncQueueChanges(SyncQueueAccess[PayloadT]):
    """The part of a service that is about jobs that are stored."""

    def cancel(
        self,
        msg_ids: int | Iterable[int] | None = None,
        *,
        reason: str = "",
        requested_by: str | None = None,
        **choice: Unpack[JobChoiceOptions],
    ) -> JobChanges:
        """Cancel jobs, as `QueueService.cancel` does.

        To do it in a transaction of the caller, run `select * from meshhook.cancel(...)` there.

        Raises:
            InvalidSettingError: if the service was made without a URL, or an argument is wrong.
            QueueNotFoundError, DatabaseError: as there.
        """
        return self._opened_for("cancel()").run(
            lambda opened: opened.service.cancel(
                msg_ids, reason=reason, requested_by=requested_by, **choice
            )
        )

    def reschedule(
        self,
        msg_ids: int | Iterable[int] | None = None,
        *,
        at: datetime | None = None,
        delay_seconds: float | timedelta | None = None,
        **choice: Unpack[JobChoiceOptions],
    ) -> JobChanges:
        """Let jobs that wait run at another time, as `QueueService.reschedule` does.

        In a transaction of the caller: `select * from meshhook.reschedule(...)`. Errors are those
        of `cancel`.
        """
        return self._opened_for("reschedule()").run(
            lambda opened: opened.service.reschedule(
                msg_ids, at=at, delay_seconds=delay_seconds, **choice
            )
        )

    def run_now(
        self,
        msg_ids: int | Iterable[int] | None = None,
        **choice: Unpack[JobChoiceOptions],
    ) -> JobChanges:
        """Let jobs run now that are scheduled or wait for a retry, as `QueueService.run_now` does.

        In a transaction of the caller: `select * from meshhook.run_now(...)`. Errors are those of
        `cancel`.
        """
        return self._opened_for("run_now()").run(
            lambda opened: opened.service.run_now(msg_ids, **choice)
        )

    def delete_jobs(
        self,
        msg_ids: int | Iterable[int] | None = None,
        **choice: Unpack[JobChoiceOptions],
    ) -> JobChanges:
        """Delete jobs with everything about them, as `QueueService.delete_jobs` does.

        In a transaction of the caller: `select * from meshhook.delete_jobs(...)`. Errors are those
        of `cancel`.
        """
        return self._opened_for("delete_jobs()").run(
            lambda opened: opened.service.delete_jobs(msg_ids, **choice)
        )

    def replay_jobs(
        self,
        msg_ids: int | Iterable[int] | None = None,
        **choice: Unpack[ReplayOptions],
    ) -> JobChanges:
        """Enqueue jobs again that have ended, as `QueueService.replay_jobs` does.

        In a transaction of the caller: `select * from meshhook.replay_jobs(...)`. Errors are those
        of `cancel`.
        """
        return self._opened_for("replay_jobs()").run(
            lambda opened: opened.service.replay_jobs(msg_ids, **choice)
        )

    def set_priority(
        self,
        msg_ids: int | Iterable[int] | None = None,
        *,
        priority: AnyPriority,
        **choice: Unpack[JobChoiceOptions],
    ) -> JobChanges:
        """Change the priority of jobs that wait, as `QueueService.set_priority` does.

        In a transaction of the caller: `select * from meshhook.set_priority(...)`. Errors are those
        of `cancel`, and `InvalidJobError` if that is no priority.
        """
        return self._opened_for("set_priority()").run(
            lambda opened: opened.service.set_priority(msg_ids, priority=priority, **choice)
        )

    def find_jobs(self, **filters: Unpack[JobFilters]) -> FoundJobs:
        """Return jobs of the queue, most recently enqueued first, as `tracking.find_jobs` does.

        Raises:
            InvalidSettingError: if the service was made without a URL, or an argument is wrong.
            QueueNotFoundError, DatabaseError: as there.
        """
        return self._opened_for("find_jobs()").run(
            lambda opened: find_jobs(opened.database, queue=self.queue, **filters)
        )

    def wait(self, msg_id: int, *, timeout_seconds: float) -> JobEnd:
        """Wait until a job has its final outcome, as `QueueService.wait` does.

        Raises:
            InvalidSettingError: if the service was made without a URL, or an argument is out of
                its range.
            WaitTimeoutError, JobNotFoundError, QueueNotFoundError, DatabaseError: as there.
        """
        return self._opened_for("wait()").run(
            lambda opened: opened.service.wait(msg_id, timeout_seconds=timeout_seconds)
        )
