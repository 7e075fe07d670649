"""What outcomes do to the keys of their jobs: handlers hold keys, and breakers count failures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshhook.errors import (
    DatabaseConflictError,
    DatabaseError,
    DatabaseReadOnlyError,
    DatabaseUnavailableError,
)
from meshhook.names import MAX_HOLD_REASON_LENGTH
from meshhook.observability.loggers import get_logger
from meshhook.postgres.connecting import server_encoding
from meshhook.postgres.text_encodings import fitted_text
from meshhook.store import queries
from meshhook.store.breakers import breaker_changes
from meshhook.store.settlements import BreakerCount, storable_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshhook.store.breakers import BreakerChange
    from meshhook.store.settlements import Settlement
    from meshhook.worker.connections import WorkerConnection
    from meshhook.worker.held_job import HeldJob
    from meshhook.worker.queue_context import QueueContext

_log = get_logger("meshhook.worker.key_effects")


class KeyEffects:
    """What the outcomes of one queue's jobs do to the keys of the jobs."""

    def __init__(self, connection: WorkerConnection, queue: QueueContext) -> None:
        """Take where to record it, and the queue."""
        self._connection = connection
        self._queue = queue

    async def hold(self, jobs: Sequence[HeldJob]) -> None:
        """Hold the keys of jobs whose handlers asked for it, while their messages are there."""
        if not jobs:
            return
        queue, encoding = self._queue, server_encoding(self._connection)
        try:
            await self._connection.fetch(
                queries.load("hold_keys_of_jobs", queue.tables, key_path=queue.config.key_path),
                queue.name,
                [held.settlement.msg_id for held in jobs],
                [held.settlement.read_ct for held in jobs],
                [held.settlement.enqueued for held in jobs],
                [held.key_hold_seconds for held in jobs],
                [_reason_of(held.settlement, encoding) for held in jobs],
            )
        except (DatabaseUnavailableError, DatabaseReadOnlyError, DatabaseConflictError):
            raise
        except DatabaseError as error:
            # An outcome is worth more than a hold.
            _log.warning("keys not held", queue=queue.name, jobs=len(jobs), error=str(error))
        else:
            queue.metrics.keys_held(len(jobs))

    def count(self, jobs: Sequence[HeldJob]) -> BreakerCount | None:
        """Return what to tell the breakers of keys about a batch; None without breakers."""
        config = self._queue.config
        if not config.has_breakers:
            return None
        return BreakerCount(config.key_path, [held.is_failure for held in jobs])

    async def note_completed(self, settled: Sequence[HeldJob]) -> None:
        """Tell breakers of jobs that handlers completed; lost, the next success tells them."""
        jobs = [held for held in settled if held.completed_key is not None]
        if not jobs:
            return
        queue = self._queue
        try:
            changes = await self._connection.fetchval(
                queries.load("record_key_successes"),
                queue.name,
                [held.completed_key for held in jobs],
                [held.settlement.started_at for held in jobs],
            )
        except DatabaseError as error:
            _log.warning("successes not counted", queue=queue.name, error=str(error))
            return
        self.note_changes(breaker_changes(changes))

    def note_changes(self, changes: Sequence[BreakerChange]) -> None:
        """Log and count the breakers that opened and closed."""
        for change in changes:
            self._queue.metrics.breaker_changed(is_open=change.is_open)
            fields: dict[str, Any] = {"queue": self._queue.name, "key": change.key}
            if change.is_open:
                _log.warning(
                    "breaker opened",
                    **fields,
                    failures=change.failures,
                    openings=change.openings,
                    pause_seconds=round(change.pause_seconds, 1),
                )
            else:
                _log.info("breaker closed", **fields, open_seconds=round(change.open_seconds, 1))


def _reason_of(settlement: Settlement, encoding: str | None) -> str | None:
    reason = settlement.error_message or settlement.error_type
    return reason and fitted_text(storable_text(reason, MAX_HOLD_REASON_LENGTH), encoding)
