"""Changes of settings that need indexes: in the background, since building them takes minutes."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from meshhook.administration import get_queue_config, set_queue_config
from meshhook.errors import MeshHookError
from meshhook.observability.loggers import get_logger
from meshhook.postgres.database import Database
from meshhook.queue_config import QueueConfig, QueueSettings, changed_settings
from meshhook_operator.databases.guarded_loop import GuardedLoop
from meshhook_operator.errors import AnswerRefusedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from meshhook_operator.databases.hosts import DatabaseHosts
    from meshhook_operator.databases.name_lookups import NameLookups

Build: TypeAlias = "Callable[[Database, QueueConfig, QueueSettings], Awaitable[bool]]"
"""Builds what is missing for the wanted settings of a queue that has others, and returns whether
anything was."""

_log = get_logger("meshhook_operator.index_changes")


@dataclass(slots=True)
class IndexChange:
    """The last change of a queue that was begun."""

    settings: Mapping[str, Any]
    """What is to be set, by the names in `queue_config`."""
    began_at: float
    """Seconds since 1970."""
    is_running: bool = True
    ended_at: float = 0.0
    """On the monotonic clock."""
    error: MeshHookError | None = None
    """Why it failed; None if it runs or is done."""


class IndexChanges:
    """The changes in one database: one at a time, over a connection of their own.

    The connection is there while something is changed, so that neither ticks nor other changes
    wait for indexes. A change that is cut off is repeated by the next one.
    """

    def __init__(
        self,
        url: str,
        *,
        what: str,
        build: Build,
        pooled: bool,
        hosts: DatabaseHosts,
        lookups: NameLookups,
        one_at_a_time: asyncio.Lock,
    ) -> None:
        """Take what is changed, and how to reach the database.

        Args:
            url: of the database.
            what: of a queue is changed, for the log, such as `keys`.
            build: builds the indexes before the settings are written.
            pooled: whether the URL goes through a pooler in transaction mode.
            hosts: the allowed hosts.
            lookups: what looks up its host name.
            one_at_a_time: held during each change; may be shared with other kinds of changes.
        """
        self._what = what
        self._build = build
        self._url = url
        self._pooled = pooled
        self._hosts = hosts
        self._lookups = lookups
        self._changes: dict[str, IndexChange] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._one_at_a_time = one_at_a_time

    def last(self, queue_name: str) -> IndexChange | None:
        """Return the last change of a queue; None if there was none."""
        return self._changes.get(queue_name)

    def start(
        self, queue_name: str, settings: Mapping[str, Any], *, check_may_write: Callable[[], None]
    ) -> IndexChange:
        """Begin to set settings, or return the change that still runs.

        Args:
            queue_name: the queue.
            settings: what to set, by the names in `queue_config`.
            check_may_write: called before each step; raises if this process may change nothing.
        """
        change = self._changes.get(queue_name)
        if change is None or not change.is_running:
            change = self._changes[queue_name] = IndexChange(dict(settings), time.time())
            task = asyncio.create_task(
                self._run(queue_name, change, check_may_write), name=f"{self._what} of {queue_name}"
            )
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return change

    async def close(self) -> None:
        """Stop what still runs. The server drops no index of it; the next change does."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _run(
        self, queue_name: str, change: IndexChange, check_may_write: Callable[[], None]
    ) -> None:
        try:
            async with self._one_at_a_time:
                await self._apply(queue_name, change.settings, check_may_write)
            _log.info(
                f"{self._what} of the queue set",
                queue=queue_name,
                settings=sorted(change.settings),
            )
        except MeshHookError as error:
            change.error = error
            _log.warning(f"{self._what} of the queue not set", queue=queue_name, error=str(error))
        except Exception as error:  # noqa: BLE001 - nothing here may stop the operator
            # As with other answers of a database: nobody may rely on what this one sends.
            change.error = AnswerRefusedError(
                f"the answer of the database is malformed: {type(error).__name__}"
            )
            _log.exception(f"{self._what} of the queue not set", queue=queue_name)
        finally:
            change.is_running, change.ended_at = False, time.monotonic()

    async def _apply(
        self, queue_name: str, settings: Mapping[str, Any], check_may_write: Callable[[], None]
    ) -> None:
        loop = GuardedLoop(hosts=self._hosts, lookups=self._lookups)
        check_may_write()
        database = await Database.connect(
            self._url, min_size=0, max_size=1, pooled=self._pooled, driver_loop=loop
        )
        try:
            config = await get_queue_config(database, queue_name)
            # Apart from the rest, since another process may lead once they are built.
            if await self._build(database, config, changed_settings(config, settings)):
                check_may_write()
            await set_queue_config(database, queue_name, **settings)
        except Exception as error:
            if refusal := loop.take_refusal():
                raise AnswerRefusedError(refusal) from error
            raise
        finally:
            await database.close()
