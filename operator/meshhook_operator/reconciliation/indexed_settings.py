"""Settings of one JobQueue's queue that need indexes: what they share, whichever they are."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Generic, TypeVar

from meshhook.errors import DatabaseUnavailableError, MeshHookError
from meshhook_operator.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from meshhook_operator.api.conditions import Finding
    from meshhook_operator.api.jobqueue import ObjectKey
    from meshhook_operator.databases.database import QueueDatabase
    from meshhook_operator.databases.index_changes import IndexChange

RETRY_SECONDS = 60.0
"""How long after a failure indexes are tried again, unless the spec changes."""

_Spec = TypeVar("_Spec")


class IndexedSettings(ABC, Generic[_Spec]):
    """Makes settings of the queue what the spec says, and leaves alone what it does not name.

    Indexes are built in the background, and what fails stops neither the ticks nor the scaling.
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
        """What Ready should say about these settings; None if they are as declared."""

    async def ensure(
        self,
        spec: _Spec | None,
        queue_name: str,
        settings: Mapping[str, Any],
        database: QueueDatabase,
    ) -> None:
        """Correct what differs from the spec, or begin to.

        Args:
            spec: what is declared; None leaves everything as it is.
            queue_name: the queue.
            settings: its row of `queue_config`.
            database: where it is.

        Raises:
            DatabaseUnavailableError: if the database cannot be reached.
            ClusterError: if this process may change nothing.
        """
        self.finding = None
        if spec is None:
            return
        try:
            self.finding = await self._ensure(spec, queue_name, settings, database)
        except (DatabaseUnavailableError, ClusterError):
            raise
        except MeshHookError as error:
            self.finding = self._not_set(queue_name, error)

    @abstractmethod
    async def _ensure(
        self, spec: _Spec, queue_name: str, settings: Mapping[str, Any], database: QueueDatabase
    ) -> Finding | None:
        """Do the same, and return what Ready should say."""

    @abstractmethod
    def _not_set(self, queue_name: str, error: MeshHookError) -> Finding:
        """Return what Ready should say about an error."""

    def _check_may_write(self) -> None:
        self._check_namespace(self._namespace)


def recent_error(last: IndexChange | None, wanted: Mapping[str, Any]) -> MeshHookError | None:
    """Return why the same change failed, if that was less than RETRY_SECONDS ago."""
    if last is None or last.settings != wanted:
        return None
    return last.error if time.monotonic() < last.ended_at + RETRY_SECONDS else None
