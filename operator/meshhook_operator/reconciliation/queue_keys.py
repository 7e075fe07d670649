"""The keys of one JobQueue's queue: whether it has any, their limits, and what single keys have."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import asyncpg

from meshhook.errors import InvalidSettingError
from meshhook.escaping import quoted
from meshhook_operator.api.conditions import KEYS_CHANGING, Finding, timestamp
from meshhook_operator.reconciliation.indexed_settings import IndexedSettings, recent_error
from meshhook_operator.texts import capped

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from meshhook.errors import MeshHookError
    from meshhook_operator.api.jobqueue import ObjectKey
    from meshhook_operator.api.keys_spec import KeysSpec
    from meshhook_operator.databases.database import QueueDatabase
    from meshhook_operator.databases.index_changes import IndexChange

OVERRIDES_SECONDS = 30.0
"""How often keys with something of their own are compared with what is declared."""
MAX_MESSAGE = 600


class QueueKeys(IndexedSettings["KeysSpec"]):
    """Makes the keys of the queue what the spec says."""

    def __init__(self, key: ObjectKey, *, check_may_write: Callable[[str], None]) -> None:
        """Take what it works with."""
        super().__init__(key, check_may_write=check_may_write)
        self._overrides_at = float("-inf")
        self._overrides_of: KeysSpec | None = None

    async def _ensure(
        self,
        spec: KeysSpec,
        queue_name: str,
        settings: Mapping[str, Any],
        database: QueueDatabase,
    ) -> Finding | None:
        change = database.key_changes.last(queue_name)
        differs = _differs(spec.place, settings)
        moves = spec.path is not None and spec.path != settings.get("key_path")
        if moves and spec.enabled and settings.get("keyed"):
            raise InvalidSettingError(
                f"spec.keys.path is {spec.path}, and the keys of the queue are taken from "
                f"{_place(settings)}: to move them, set spec.keys.enabled to false first, and "
                "declare keys again once that has been done"
            )
        if differs:
            if change is not None and change.is_running:
                return _changing(change)
            return self._change_place(spec, queue_name, change, database)
        if not spec.enabled and change is None:
            # Another process may have been cut off before it dropped the indexes.
            self._change_place(spec, queue_name, change, database)
            return None
        await self._ensure_limits(spec, queue_name, settings, database)
        return None

    def _change_place(
        self, keys: KeysSpec, queue_name: str, last: IndexChange | None, database: QueueDatabase
    ) -> Finding:
        wanted = keys.place | keys.limits
        error = recent_error(last, wanted)
        if error is not None:
            return self._not_set(queue_name, error)
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

    def _not_set(self, queue_name: str, error: MeshHookError) -> Finding:
        message = capped(str(error), limit=MAX_MESSAGE)
        if isinstance(error.__cause__, asyncpg.InsufficientPrivilegeError):
            message = (
                "the role of the operator may not set up spec.keys: only the role that owns the "
                f"queue's table can build indexes. As that role: meshhook queue set {queue_name} "
                f"keyed=true. The database says: {message}"
            )
        return Finding(holds=False, reason="KeysNotSet", message=message)


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
