"""What one JobQueue does for its queue, as a row in the database, for people who look there."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from meshhook.errors import DatabaseUnavailableError, MeshHookError
from meshhook.observability.loggers import get_logger
from meshhook_operator.databases.scaling_row import ScalingRow

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from meshhook_operator.api.jobqueue import JobQueue
    from meshhook_operator.api.spec import JobQueueSpec
    from meshhook_operator.api.status import JobQueueStatus
    from meshhook_operator.databases.database import QueueDatabase

_log = get_logger("meshhook_operator.scaling_rows")

RENEW_SECONDS = 60.0
"""How often it is written although nothing has changed, so that a reader knows it still holds."""
CHANGE_SECONDS = 10.0
"""The shortest time between two writes."""
REFUSED_SECONDS = 300.0
"""How long to wait after the database has refused. Scaling does not depend on the row."""
MAX_REASON_CHARACTERS = 4_000


class ScalingRows:
    """Writes the row of one JobQueue when it changes, and every minute.

    What cannot be written is logged, and tried again: after a minute where the database was
    out of reach, after five where it refused.
    """

    def __init__(
        self, *, clock: Callable[[], float], check_may_write: Callable[[str], None]
    ) -> None:
        """Take what it works with.

        Args:
            clock: seconds since 1970.
            check_may_write: called with the namespace right before each write; raises if this
                process may make none.
        """
        self._clock = clock
        self._check_may_write = check_may_write
        self._written: tuple[Hashable, ScalingRow] | None = None
        self._written_at = float("-inf")
        self._try_at = float("-inf")
        self._has_ended = False

    @property
    def has_written(self) -> bool:
        """Whether there is a row that this process wrote."""
        return self._written is not None

    def end(self) -> None:
        """Write no more: the JobQueue is gone."""
        self._has_ended = True

    async def ensure(
        self,
        jobqueue: JobQueue,
        spec: JobQueueSpec,
        status: JobQueueStatus,
        database: QueueDatabase,
    ) -> None:
        """Write the row if that is due.

        Args:
            jobqueue: the JobQueue.
            spec: its spec.
            status: its status, as it was last written.
            database: where its queue is.
        """
        now = self._clock()
        if self._has_ended or now < self._try_at:
            return
        row = row_of(jobqueue, spec, status)
        due = RENEW_SECONDS if (database.generation, row) == self._written else CHANGE_SECONDS
        if now - self._written_at < due:
            return
        try:
            self._check_may_write(jobqueue.key.namespace)
            await database.report_scaling(row)
        except MeshHookError as error:
            is_unavailable = isinstance(error, DatabaseUnavailableError)
            self._try_at = now + (RENEW_SECONDS if is_unavailable else REFUSED_SECONDS)
            _log.warning(
                "scaling not written into the database: the console and meshhook queue show do "
                "not know of it; meshhook roles check names missing rights",
                queue=row.queue,
                error=str(error),
                jobqueue=row.jobqueue,
            )
            return
        # The first connection finds out which database it is.
        self._written, self._written_at = (database.generation, row), now


def row_of(jobqueue: JobQueue, spec: JobQueueSpec, status: JobQueueStatus) -> ScalingRow:
    """Return the row of a JobQueue. Pure."""
    message = status.scaling.message if status.scaling else ""
    return ScalingRow(
        queue=spec.queue_name,
        jobqueue_uid=jobqueue.uid,
        jobqueue=str(jobqueue.key),
        deployment=status.deployment,
        target_age_seconds=float(spec.scaling.target_age_seconds),
        min_replicas=spec.scaling.min_replicas,
        max_replicas=spec.scaling.max_replicas,
        replicas=status.replicas or 0,
        ready_replicas=status.ready_replicas or 0,
        desired_replicas=status.desired_replicas,
        state=status.state,
        reason=message[:MAX_REASON_CHARACTERS] or None,
        scaled_at=_moment(status.last_scale_time),
    )


def _moment(text: str | None) -> datetime | None:
    try:
        return None if text is None else datetime.fromisoformat(text)
    except ValueError:
        return None  # An operator wrote it, or anybody who may change the status.
