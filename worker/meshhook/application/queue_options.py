"""The settings of a queue in the decorator of its handler, and creating the queue with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypedDict

import asyncpg

from meshhook import administration
from meshhook.errors import DatabaseError, InvalidSettingError, QueueBusyError, QueueNotFoundError
from meshhook.observability.loggers import get_logger
from meshhook.postgres.database import Database
from meshhook.queue_config import LookupId, QueueSettings, changed_settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meshhook.retry import Backoff

_log = get_logger("meshhook.application")


class QueueOptions(TypedDict, total=False):
    """The settings that the decorator accepts; `QueueSettings` describes them."""

    visibility_timeout_seconds: int
    max_retry_attempts: int
    retry_backoff_base_ms: int
    retry_backoff_max_ms: int
    retry_jitter: float
    retry_backoff: Backoff
    retry_delays_ms: Sequence[int]
    max_retries_per_second: float | None
    job_expiry_seconds: float | None
    on_expiry: Literal["archive", "dead_letter"]
    job_timeout_seconds: float | None
    dlq_enabled: bool
    dlq_retention_days: int | None
    archive_retention_days: int | None
    history_retention_days: int
    max_payload_bytes: int
    results: bool
    keep_bodies_days: int | None
    encryption: Literal["accept", "require"]
    lookup_by: Sequence[LookupId]
    prioritized: bool
    priority_target_seconds: tuple[float, float, float, float]
    urgent_slots: int
    keyed: bool
    key_path: str | None
    ordered: bool
    dead_letter_follow_up: str | None
    on_dead_letter: Literal["continue", "block"]
    max_running: int | None
    max_running_per_key: int | None
    max_starts: int | None
    max_starts_per_key: int | None
    starts_period_seconds: float
    breaker_failures: int | None
    breaker_pause_seconds: float
    breaker_max_pause_seconds: float


def checked_options(queue: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings for a new queue, as they will be stored.

    Raises:
        InvalidSettingError: naming the setting, the value received and the rule.
    """
    if "paused" in options:
        raise InvalidSettingError(
            f"queue {queue!r}: a program cannot set paused; an operator can: "
            f"meshhook queue pause {queue}"
        )
    settings = changed_settings(QueueSettings(), options)
    return {name: getattr(settings, name) for name in options}


async def create_if_missing(database: Database, queue: str, settings: Mapping[str, Any]) -> bool:
    """Create a queue with settings if it is missing; an existing queue keeps its own.

    Returns:
        Whether it was created.

    Raises:
        QueueNotFoundError: if it is missing, and the role may not create it.
        DatabaseError: if the database cannot be used.
        UnsuitableQueueError, QueueBusyError: as `create_queue`.
    """
    try:
        config = await administration.get_queue_config(database, queue)
    except QueueNotFoundError:
        return await _create(database, queue, settings)
    others = {name: getattr(config, name) for name in settings}
    if others != settings:
        _log.info(
            "using the queue's settings in the database, which differ from the program's",
            queue=queue,
            **{name: value for name, value in others.items() if value != settings[name]},
        )
    return False


async def _create(database: Database, queue: str, settings: Mapping[str, Any]) -> bool:
    async def create(source: Database) -> bool:
        # If another process has created it in the meantime, it has set the settings, too.
        is_new = await administration.create_queue(source, queue)
        follow_up = settings.get("dead_letter_follow_up")
        if is_new and follow_up is not None:
            # It must be there first. Its own settings are set when its handler starts.
            await administration.create_queue(source, follow_up)
        if is_new and settings:
            await administration.set_queue_config(source, queue, **settings)
        return is_new

    try:
        # In one transaction, so that nobody sees the queue without its settings.
        is_new = await database.run_in_transaction(lambda connection: create(Database(connection)))
    except QueueBusyError:
        # An existing PGMQ queue that is in use. Outside a transaction, its locks are waited for.
        is_new = await create(database)
    except DatabaseError as error:
        if isinstance(error.__cause__, asyncpg.InsufficientPrivilegeError):
            raise QueueNotFoundError(queue) from error  # its message names the command
        raise
    if is_new:
        _log.info("queue created", queue=queue, **settings)
    return is_new
