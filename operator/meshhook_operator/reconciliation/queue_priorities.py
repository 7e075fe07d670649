"""The priorities of one JobQueue's queue: whether it has any, their targets and the kept slots."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import asyncpg

from meshhook.errors import DatabaseUnavailableError, MeshHookError
from meshhook_operator.api.conditions import PRIORITIES_CHANGING, Finding, timestamp
from meshhook_operator.databases.index_changes import IndexChange
from meshhook_operator.errors import ClusterError
from meshhook_operator.texts import capped

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from meshhook_operator.api.jobqueue import ObjectKey
    from meshhook_operator.api.priorities_spec import PrioritiesSpec
    from meshhook_operator.databases.database import QueueDatabase

RETRY_SECONDS = 60.0
"""How long after a failure the index is tried again, unless the spec changes."""
MAX_MESSAGE = 600


class QueuePriorities:
    """Makes the priorities of the queue what the spec says, and leaves alone what it does not name.

    The index is built in the background, and what fails stops neither the ticks nor the scaling.
    """

    def __init__(self, key: ObjectKey, *, check_may_write: Callable[[str], None]) -> None:
        """Take what it works with.

        Args:
            key: of the JobQueue.
            check_may_write: called with the namespace right before each change; raises if this
                process may make none.
        """
        self._namespace = key.namespace
        self._check_namespace = check_may_write
        self.finding: Finding | None = None
        """What Ready should say about the priorities; None if they are as declared."""

    async def ensure(
        self,
        priorities: PrioritiesSpec | None,
        queue_name: str,
        settings: Mapping[str, Any],
        database: QueueDatabase,
    ) -> None:
        """Correct what differs from the spec, or begin to.

        Args:
            priorities: what is declared; None leaves everything as it is.
            queue_name: the queue.
            settings: its row of `queue_config`.
            database: where it is.

        Raises:
            DatabaseUnavailableError: if the database cannot be reached.
            ClusterError: if this process may change nothing.
        """
        self.finding = None
        if priorities is None:
            return
        try:
            self.finding = await self._ensure(priorities, queue_name, settings, database)
        except (DatabaseUnavailableError, ClusterError):
            raise
        except MeshHookError as error:
            self.finding = _not_set(queue_name, error)

    async def _ensure(
        self,
        priorities: PrioritiesSpec,
        queue_name: str,
        settings: Mapping[str, Any],
        database: QueueDatabase,
    ) -> Finding | None:
        last, wanted = database.priority_changes.last(queue_name), priorities.settings
        differs = settings.get("prioritized") != priorities.enabled
        others_differ = any(settings.get(name) != value for name, value in wanted.items())
        if differs:
            if last is not None and last.is_running:
                return _changing(last)
            if (
                last is not None
                and last.error is not None
                and last.settings == wanted
                and time.monotonic() < last.ended_at + RETRY_SECONDS
            ):
                return _not_set(queue_name, last.error)
            return _changing(self._start(queue_name, wanted, database))
        if not priorities.enabled and last is None:
            # Another process may have been cut off before it dropped the index.
            self._start(queue_name, wanted, database)
        elif others_differ:
            self._check_may_write()
            await database.ensure_queue(queue_name, wanted)
        return None

    def _start(
        self, queue_name: str, wanted: Mapping[str, Any], database: QueueDatabase
    ) -> IndexChange:
        self._check_may_write()
        return database.priority_changes.start(
            queue_name, wanted, check_may_write=self._check_may_write
        )

    def _check_may_write(self) -> None:
        self._check_namespace(self._namespace)


def _changing(change: IndexChange) -> Finding:
    what = (
        "The index for priorities is being built since {at}, while the queue is in use. Until it "
        "is done, the oldest jobs go first. Transactions that stay open in the database delay it."
        if change.settings["prioritized"]
        else "The priorities are being turned off since {at}, while the queue is in use."
    )
    message = what.format(at=timestamp(change.began_at))
    return Finding(holds=True, reason=PRIORITIES_CHANGING, message=message)


def _not_set(queue_name: str, error: MeshHookError) -> Finding:
    message = capped(str(error), limit=MAX_MESSAGE)
    if isinstance(error.__cause__, asyncpg.InsufficientPrivilegeError):
        message = (
            "the role of the operator may not set up spec.priorities: only the role that owns the "
            f"queue's table can build its index. As that role: meshhook queue set {queue_name} "
            f"prioritized=true. The database says: {message}"
        )
    return Finding(holds=False, reason="PrioritiesNotSet", message=message)
