"""The keys of one JobQueue's queue: whether it has any, their limits, and what single keys have."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import asyncpg

from meshhook.errors import DatabaseUnavailableError, InvalidSettingError, MeshHookError
from meshhook.escaping import quoted
from meshhook_operator.api.conditions import KEYS_CHANGING, Finding, timestamp
from meshhook_operator.databases.index_changes import IndexChange
from meshhook_operator.errors import ClusterError
from meshhook_operator.texts import capped

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from meshhook_operator.api.jobqueue import ObjectKey
    from meshhook_operator.api.keys_spec import KeysSpec
    from meshhook_operator.databases.database import QueueDatabase

RETRY_SECONDS = 60.0
"""How long after a failure the indexes are tried again, unless the spec changes."""
OVERRIDES_SECONDS = 30.0
"""How often keys with something of their own are compared with what is declared."""
MAX_MESSAGE = 600


class QueueKeys:
    """Makes the keys of the queue what the spec says, and leaves alone what it does not name.

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
        self._overrides_at = float("-inf")
        self._overrides_of: KeysSpec | None = None
        self.finding: Finding | None = None
        """What Ready should say about the keys; None if they are as declared."""

    async def ensure(
        self,
        keys: KeysSpec | None,
        queue_name: str,
        settings: Mapping[str, Any],
        database: QueueDatabase,
    ) -> None:
        """Correct what differs from the spec, or begin to.

        Args:
            keys: what is declared; None leaves everything as it is.
            queue_name: the queue.
            settings: its row of `queue_config`.
            database: where it is.

        Raises:
            DatabaseUnavailableError: if the database cannot be reached.
            ClusterError: if this process may change nothing.
        """
        self.finding = None
        if keys is None:
            return
        try:
            self.finding = await self._ensure(keys, queue_name, settings, database)
        except (DatabaseUnavailableError, ClusterError):
            raise
        except MeshHookError as error:
            self.finding = _not_set(queue_name, error)

    async def _ensure(
        self,
        keys: KeysSpec,
        queue_name: str,
        settings: Mapping[str, Any],
        database: QueueDatabase,
    ) -> Finding | None:
        change = database.key_changes.last(queue_name)
        differs = _differs(keys.place, settings)
        moves = keys.path is not None and keys.path != settings.get("key_path")
        if moves and keys.enabled and settings.get("keyed"):
            raise InvalidSettingError(
                f"spec.keys.path is {keys.path}, and the keys of the queue are taken from "
                f"{_place(settings)}: to move them, set spec.keys.enabled to false first, and "
                "declare keys again once that has been done"
            )
        if differs:
            if change is not None and change.is_running:
                return _changing(change)
            return self._change_place(keys, queue_name, change, database)
        if not keys.enabled and change is None:
            # Another process may have been cut off before it dropped the indexes.
            self._change_place(keys, queue_name, change, database)
            return None
        await self._ensure_limits(keys, queue_name, settings, database)
        return None

    def _change_place(
        self, keys: KeysSpec, queue_name: str, last: IndexChange | None, database: QueueDatabase
    ) -> Finding:
        wanted = keys.place | keys.limits
        if (
            last is not None
            and last.error is not None
            and last.settings == wanted
            and time.monotonic() < last.ended_at + RETRY_SECONDS
        ):
            return _not_set(queue_name, last.error)
        self._check_may_write()
        return _changing(
            database.key_changes.start(queue_name, wanted, check_may_write=self._check_may_write)
        )

    async def _ensure_limits(
        self,
        keys: KeysSpec,
        queue_name: str,
        settings: Mapping[str, Any],
        database: QueueDatabase,
    ) -> None:
        if _differs(keys.limits, settings):
            self._check_may_write()
            await database.ensure_queue(queue_name, keys.limits)
        now = time.monotonic()
        is_due = keys != self._overrides_of or now >= self._overrides_at + OVERRIDES_SECONDS
        if keys.overrides and is_due:
            self._check_may_write()
            await database.set_declared_keys(queue_name, keys.overrides)
            self._overrides_of, self._overrides_at = keys, now

    def _check_may_write(self) -> None:
        self._check_namespace(self._namespace)


def _differs(wanted: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    return any(settings.get(name) != value for name, value in wanted.items())


def _place(settings: Mapping[str, Any]) -> str:
    path = settings.get("key_path")
    return "the header x-pgmq-group" if path is None else f"the path {quoted(path)}"


def _changing(change: IndexChange) -> Finding:
    what = (
        "Indexes for keys are being built since {at}, while the queue is in use. Until they are "
        "done, its keys have no shares and no limits. Transactions that stay open in the database "
        "delay them."
        if change.settings["keyed"]
        else "The keys are being turned off since {at}, while the queue is in use."
    )
    message = what.format(at=timestamp(change.began_at))
    return Finding(holds=True, reason=KEYS_CHANGING, message=message)


def _not_set(queue_name: str, error: MeshHookError) -> Finding:
    message = capped(str(error), limit=MAX_MESSAGE)
    if isinstance(error.__cause__, asyncpg.InsufficientPrivilegeError):
        message = (
            "the role of the operator may not set up spec.keys: only the role that owns the "
            f"queue's table can build indexes. As that role: meshhook queue set {queue_name} "
            f"keyed=true. The database says: {message}"
        )
    return Finding(holds=False, reason="KeysNotSet", message=message)
