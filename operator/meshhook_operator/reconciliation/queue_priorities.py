"""The priorities of one JobQueue's queue: whether it has any, their targets and the kept slots."""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg

from meshhook_operator.api.conditions import PRIORITIES_CHANGING, Finding, timestamp
from meshhook_operator.reconciliation.indexed_settings import IndexedSettings, recent_error
from meshhook_operator.texts import capped

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from meshhook.errors import MeshHookError
    from meshhook_operator.api.priorities_spec import PrioritiesSpec
    from meshhook_operator.databases.database import QueueDatabase
    from meshhook_operator.databases.index_changes import IndexChange

MAX_MESSAGE = 600


class QueuePriorities(IndexedSettings["PrioritiesSpec"]):
    """Makes the priorities of the queue what the spec says."""

    async def _ensure(
        self,
        spec: PrioritiesSpec,
        queue_name: str,
        settings: Mapping[str, Any],
        database: QueueDatabase,
    ) -> Finding | None:
        last, wanted = database.priority_changes.last(queue_name), spec.settings
        differs = settings.get("prioritized") != spec.enabled
        others_differ = any(settings.get(name) != value for name, value in wanted.items())
        if differs:
            if last is not None and last.is_running:
                return _changing(last)
            error = recent_error(last, wanted)
            if error is not None:
                return self._not_set(queue_name, error)
            return _changing(self._start(queue_name, wanted, database))
        if not spec.enabled and last is None:
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

    def _not_set(self, queue_name: str, error: MeshHookError) -> Finding:
        message = capped(str(error), limit=MAX_MESSAGE)
        if isinstance(error.__cause__, asyncpg.InsufficientPrivilegeError):
            message = (
                "the role of the operator may not set up spec.priorities: only the role that owns "
                "the queue's table can build its index. As that role: meshhook queue set "
                f"{queue_name} prioritized=true. The database says: {message}"
            )
        return Finding(holds=False, reason="PrioritiesNotSet", message=message)


def _changing(change: IndexChange) -> Finding:
    what = (
        "The index for priorities is being built since {at}, while the queue is in use. Until it "
        "is done, the oldest jobs go first. Transactions that stay open in the database delay it."
        if change.settings["prioritized"]
        else "The priorities are being turned off since {at}, while the queue is in use."
    )
    message = what.format(at=timestamp(change.began_at))
    return Finding(holds=True, reason=PRIORITIES_CHANGING, message=message)
