"""Changes of a queue's settings, with the statement and the indexes that each needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshhook.administration.setting_indexes import build_indexes, drop_indexes
from meshhook.administration.settings import get_queue_config
from meshhook.errors import InvalidSettingError, QueueNotFoundError
from meshhook.escaping import quoted
from meshhook.names import DEFAULT_QUEUE_NAME, validate_queue_name
from meshhook.postgres.database import Database, takes_url
from meshhook.queue_config import (
    BREAKER_NAMES,
    ENCRYPTION_NAMES,
    KEPT_NAMES,
    KEY_PLACE_NAMES,
    KEY_SETTING_NAMES,
    LIMIT_NAMES,
    LOOKUP_NAMES,
    PRIORITY_SETTING_NAMES,
    RETRY_NAMES,
    SETTING_NAMES,
    QueueConfig,
    QueueSettings,
    changed_settings,
)
from meshhook.store import queries
from meshhook.store.changes import change

if TYPE_CHECKING:
    import asyncpg

    from meshhook.postgres.database import DatabaseSource


@takes_url
async def set_queue_config(
    database: DatabaseSource, queue: str = DEFAULT_QUEUE_NAME, **changes: Any
) -> QueueConfig:
    """Change settings of a queue; running workers follow.

    Setting `keyed`, `ordered`, `prioritized` or `lookup_by` builds or drops indexes of the queue's
    table, beside whoever uses it: that takes a minute for some millions of messages, and waits for
    open transactions. Only the owner of the table may do it.

    Args:
        database: where the queue is.
        queue: the queue. Default `workflow_jobs`.
        **changes: names and values of `QueueSettings`; values may be strings.

    Raises:
        InvalidSettingError: naming the setting, the value received and the rule.
        InvalidQueueNameError, QueueNotFoundError: if there is no such queue.
    """
    name = validate_queue_name(queue)
    own_statements = {
        *KEY_SETTING_NAMES,
        *LOOKUP_NAMES,
        *PRIORITY_SETTING_NAMES,
        *RETRY_NAMES,
        *KEPT_NAMES,
        *ENCRYPTION_NAMES,
    }
    source = Database.of(database)
    await build_indexes(source, name, changes)

    async def write(connection: Any) -> asyncpg.Record:
        # Locked, so that concurrent changes of different settings do not overwrite each other.
        current = await connection.fetchrow(queries.load("lock_queue_config"), name)
        if current is None:
            raise QueueNotFoundError(name)
        config = QueueConfig.from_row(name, current[0])
        settings = changed_settings(config, changes)
        await _change_apart(connection, name, config, settings)
        row: asyncpg.Record = await connection.fetchrow(
            queries.load("set_queue_config"),
            name,
            *(getattr(settings, each) for each in SETTING_NAMES if each not in own_statements),
        )
        return row

    row = await change(source, write)
    config = QueueConfig.from_row(name, row[0])
    await drop_indexes(source, config, changes)
    return config


async def _change_apart(
    connection: Any, queue: str, config: QueueConfig, settings: QueueSettings
) -> None:
    """Write the settings that have statements of their own, if they change.

    Not everybody may change them who may change the others.
    """
    if settings.dead_letter_follow_up != config.dead_letter_follow_up:
        await _check_follow_up(connection, queue, settings.dead_letter_follow_up)
    # In an order in which no limit is without keys in between.
    of_keys = [
        ("set_keys", KEY_PLACE_NAMES),
        ("set_limits", LIMIT_NAMES),
        ("set_breaker", BREAKER_NAMES),
    ]
    of_keys = of_keys if settings.keyed else of_keys[::-1]
    # And in one in which no queue has keys and priorities in between.
    of_priorities = ("set_priorities", PRIORITY_SETTING_NAMES)
    ordered = [of_priorities, *of_keys] if settings.keyed else [*of_keys, of_priorities]
    others = [
        ("set_lookups", LOOKUP_NAMES),
        ("set_retries", RETRY_NAMES),
        ("set_kept_bodies", KEPT_NAMES),
        ("set_encryption", ENCRYPTION_NAMES),
    ]
    for statement, names in [*ordered, *others]:
        values = [getattr(settings, each) for each in names]
        if values != [getattr(config, each) for each in names]:
            await connection.fetch(queries.load(statement), queue, *values)


async def _check_follow_up(connection: Any, queue: str, follow_up: str | None) -> None:
    """Refuse a queue for the jobs that follow dead letters that cannot take them.

    That is the queue itself, one that is missing, and one that requires encryption: the database
    enqueues these jobs, and cannot encrypt.
    """
    if follow_up is None:
        return
    if follow_up == queue:
        raise InvalidSettingError(
            f"dead_letter_follow_up={quoted(follow_up)}: what follows its own dead letters would "
            "never end; name another queue"
        )
    try:
        config = await get_queue_config(connection, follow_up)
    except QueueNotFoundError:
        raise InvalidSettingError(
            f"dead_letter_follow_up={quoted(follow_up)}: there is no such queue. Create it first: "
            f"meshhook queue create {follow_up}"
        ) from None
    if config.requires_encryption:
        raise InvalidSettingError(
            f"dead_letter_follow_up={quoted(follow_up)}: that queue requires encryption, and the "
            "database, which enqueues what follows, cannot encrypt. Enqueue jobs with "
            "on_dead_letter, which is encrypted, or name a queue with encryption=accept"
        )
