"""The topics of one JobQueue's queue: which PGMQ routes to it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from meshhook.errors import DatabaseUnavailableError, MeshHookError
from meshhook.observability.loggers import get_logger
from meshhook_operator.api.conditions import Finding
from meshhook_operator.errors import ClusterError
from meshhook_operator.texts import capped

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meshhook_operator.api.jobqueue import ObjectKey
    from meshhook_operator.databases.database import QueueDatabase

_log = get_logger("meshhook_operator.topics")

LOOK_SECONDS = 30.0
"""How often the bindings are compared with what is declared."""
MAX_MESSAGE = 600


class QueueTopics:
    """Binds the queue to exactly the topics of the spec; what fails does not stop the scaling."""

    def __init__(self, key: ObjectKey, *, check_may_write: Callable[[str], None]) -> None:
        """Take what it works with.

        Args:
            key: of the JobQueue.
            check_may_write: called with the namespace right before each change; raises if this
                process may make none.
        """
        self._namespace = key.namespace
        self._check_may_write = check_may_write
        self._looked_at = float("-inf")
        self._looked_for: Sequence[str] | None = None
        self.finding: Finding | None = None
        """What Ready should say about the topics; None if they are as declared."""

    async def ensure(
        self, topics: Sequence[str] | None, queue_name: str, database: QueueDatabase
    ) -> None:
        """Correct what differs from the spec, if it is time to look.

        Args:
            topics: the patterns that are declared; None leaves all as they are.
            queue_name: the queue.
            database: where it is.

        Raises:
            DatabaseUnavailableError: if the database cannot be reached.
            ClusterError: if this process may change nothing.
        """
        if topics is None:
            self.finding = None
            return
        now = time.monotonic()
        if topics == self._looked_for and now < self._looked_at + LOOK_SECONDS:
            return
        try:
            await self._ensure(set(topics), queue_name, database)
        except (DatabaseUnavailableError, ClusterError):
            raise
        except MeshHookError as error:
            message = f"spec.topics: {capped(str(error), limit=MAX_MESSAGE)}"
            self.finding = Finding(holds=False, reason="TopicsNotBound", message=message)
        else:
            self.finding = None
        self._looked_at, self._looked_for = now, topics

    async def _ensure(self, topics: set[str], queue_name: str, database: QueueDatabase) -> None:
        bound = await database.topics(queue_name)
        if bound != topics:
            self._check_may_write(self._namespace)
            missing, surplus = sorted(topics - bound), sorted(bound - topics)
            await database.bind(queue_name, bind=missing, unbind=surplus)
            _log.info("topics of the queue bound", queue=queue_name, new=missing, gone=surplus)
