"""Administration of queues: create, drop, list, and read or change their settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from meshhook.actors import one_operation
from meshhook.arguments import check_range, checked_flag
from meshhook.errors import (
    DatabaseReadOnlyError,
    HiddenRowsError,
    InvalidSettingError,
    QueueNotFoundError,
)
from meshhook.escaping import quoted
from meshhook.names import DEFAULT_QUEUE_NAME, validate_queue_name
from meshhook.postgres.database import LONG_ANSWER_TIMEOUT_SECONDS, Database, takes_url
from meshhook.postgres.driver_errors import translated_statement_errors
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
from meshhook.store.changes import change, change_rows
from meshhook.store.key_indexes import match_key_indexes
from meshhook.store.lookup_indexes import match_lookup_indexes
from meshhook.store.priority_indexes import match_priority_index
from meshhook.store.table_locks import WAIT_SECONDS, change_tables

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    import asyncpg

    from meshhook.postgres.database import DatabaseSource

COUNT_LIMIT = 10_000
MAX_COUNT_LIMIT = 10_000_000
PURGE_CHUNK_MESSAGES = 10_000


@dataclass(frozen=True, slots=True)
class QueueSnapshot:
    """One queue at one moment. Counts stop at a limit, which bounds the cost of reading."""

    queue: str
    ready: int
    """Messages that may be claimed now."""
    scheduled: int
    """Messages that were never read and fall due later."""
    running: int
    """Messages that are leased."""
    retrying: int
    """Messages that failed and wait for their next attempt."""
    lost: int
    """Messages whose lease ran out without an outcome; the next claim takes them."""
    capped: bool
    """Whether a count stopped at the limit: there are at least as many."""
    oldest_ready_seconds: float
    """How long the oldest ready or lost message has been in that state; 0 if there is none."""
    oldest_message_seconds: float | None
    """The age of the oldest message since it was enqueued; None if the queue is empty."""
    newest_message_seconds: float | None
    """The age of the newest message since it was enqueued; None if the queue is empty."""
    enqueued_total: int
    """How many messages were ever enqueued."""
    dead_letters: int
    """Dead letters of the queue."""
    dead_letters_capped: bool
    """Whether that count stopped at the limit."""
    oldest_dead_letter_seconds: float | None
    """The age of the oldest dead letter; None if there is none."""
    paused: bool
    """Whether the queue is paused."""
    sampled_at: datetime
    """When the snapshot was taken, by the database's clock."""

    @property
    def queue_length(self) -> int:
        """All messages in the queue, dead letters not included."""
        return self.ready + self.scheduled + self.running + self.retrying + self.lost


@takes_url
async def create_queue(
    database: DatabaseSource,
    queue: str = DEFAULT_QUEUE_NAME,
    *,
    ignore_fifo_groups: bool = False,
    wait_seconds: float = WAIT_SECONDS,
) -> bool:
    """Create a queue with its dead letter queue and settings, or adopt a PGMQ queue.

    Args:
        database: where the queue is to be.
        queue: the queue. Default `workflow_jobs`.
        ignore_fifo_groups: whether to adopt a queue with PGMQ's FIFO groups although workers keep
            the order within a group only where keys are ordered. Default false: it is refused.
        wait_seconds: for how long it is tried, in pieces of a second, to lock the tables of a
            queue in use, 0 to 86400. Default 20.

    Returns:
        Whether anything was created. Calling it again is safe.

    Raises:
        InvalidQueueNameError: if the name is not a valid queue name.
        UnsuitableQueueError: if PGMQ's queue of that name is unlogged, partitioned, has FIFO
            groups, or lacks something; the message says what to do.
        InvalidSettingError: naming the argument that is wrong.
        QueueBusyError: if others held its tables for so long, naming them.
        DatabaseError: if the database cannot be used.
    """
    name = validate_queue_name(queue)
    created = await change_tables(
        Database.of(database),
        name,
        queries.load("create_queue"),
        name,
        checked_flag("ignore_fifo_groups", ignore_fifo_groups),
        wait_seconds=wait_seconds,
    )
    return bool(created)


@takes_url
async def drop_queue(
    database: DatabaseSource, queue: str, *, wait_seconds: float = WAIT_SECONDS
) -> bool:
    """Drop a queue with all its messages, dead letters and settings; its history stays.

    Args:
        database: where the queue is.
        queue: the queue.
        wait_seconds: for how long it is tried, in pieces of a second, to lock the tables of a
            queue in use, 0 to 86400. Default 20.

    Returns:
        Whether there was one.

    Raises:
        InvalidQueueNameError: if the name is not a valid queue name.
        InvalidSettingError: naming the argument that is wrong.
        QueueBusyError: if others held its tables for that long, naming them.
        DatabaseError: if the database cannot be used.
    """
    name = validate_queue_name(queue)
    sql = queries.load("drop_queue")
    return bool(
        await change_tables(Database.of(database), name, sql, name, wait_seconds=wait_seconds)
    )


@takes_url
async def list_queues(
    database: DatabaseSource, *, count_limit: int = COUNT_LIMIT
) -> list[QueueSnapshot]:
    """Return every queue, counted up to `count_limit` messages a state.

    Args:
        database: where the queues are.
        count_limit: 1 to 10 million. Default 10,000.

    Raises:
        InvalidSettingError: if `count_limit` is out of range.
        DatabaseError: if they cannot be read.
    """
    check_range("count_limit", count_limit, MAX_COUNT_LIMIT)
    rows = await Database.of(database).fetch(
        queries.load("list_queue_snapshots"),
        count_limit,
        answer_timeout_seconds=LONG_ANSWER_TIMEOUT_SECONDS,
    )
    return [snapshot_from(row) for row in rows]


@takes_url
async def get_queue_snapshot(
    database: DatabaseSource,
    queue: str = DEFAULT_QUEUE_NAME,
    *,
    count_limit: int = COUNT_LIMIT,
) -> QueueSnapshot:
    """Return one queue, counted up to `count_limit` messages a state.

    Args:
        database: where the queue is.
        queue: the queue. Default `workflow_jobs`.
        count_limit: 1 to 10 million. Default 10,000.

    Raises:
        InvalidSettingError: if `count_limit` is out of range.
        InvalidQueueNameError, QueueNotFoundError: if there is no such queue.
    """
    name = validate_queue_name(queue)
    check_range("count_limit", count_limit, MAX_COUNT_LIMIT)
    row = await Database.of(database).fetchrow(queries.load("queue_snapshot"), name, count_limit)
    if row is None:
        raise QueueNotFoundError(name)
    return snapshot_from(row)


@takes_url
async def get_queue_config(
    database: DatabaseSource, queue: str = DEFAULT_QUEUE_NAME
) -> QueueConfig:
    """Return the settings of a queue, by default of `workflow_jobs`.

    Raises:
        InvalidQueueNameError, QueueNotFoundError: if there is no such queue.
        InvalidSettingError: if its row breaks a constraint that was removed from the table.
    """
    name = validate_queue_name(queue)
    row = await Database.of(database).fetchrow(queries.load("get_queue_config"), name)
    if row is None:
        raise QueueNotFoundError(name)
    return QueueConfig.from_row(name, row[0])


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
    await _build_indexes(source, name, changes)

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
    await _drop_indexes(source, config, changes)
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


async def _build_indexes(database: Database, queue: str, changes: Mapping[str, Any]) -> None:
    """Make what a change of settings needs in the tables. What it does not need is dropped later.

    Raises:
        InvalidSettingError: if the keys of a keyed queue are to be elsewhere.
    """
    if changes.keys() & set(KEY_PLACE_NAMES):
        await _build_key_indexes(database, queue, changes)
    if "lookup_by" in changes:
        await _build_lookup_indexes(database, queue, changes)
    if "prioritized" in changes:
        config = await get_queue_config(database, queue)
        if changed_settings(config, changes).prioritized:
            await match_priority_index(database, queue, prioritized=True)


async def _drop_indexes(
    database: Database, config: QueueConfig, changes: Mapping[str, Any]
) -> None:
    """Drop what the settings, which were changed, no longer need."""
    queue = config.queue
    if "on_dead_letter" in changes and config.on_dead_letter == "continue":
        await _set_block_triggers(database, queue, is_on=False)
    if changes.keys() & {"keyed", "ordered"} and not (config.keyed and config.ordered):
        await match_key_indexes(database, queue, config.keys, ordered=False)
    if "lookup_by" in changes:
        await match_lookup_indexes(database, queue, config.lookup_by)
    if "prioritized" in changes and not config.prioritized:
        await match_priority_index(database, queue, prioritized=False)


async def _build_key_indexes(database: Database, queue: str, changes: Mapping[str, Any]) -> None:
    config = await get_queue_config(database, queue)
    settings = changed_settings(config, changes)
    if not settings.keyed:
        return
    if config.keyed and config.keys != settings.keys:
        raise InvalidSettingError(
            f"key_path={quoted(settings.key_path)}: while a queue is keyed, its keys stay where "
            f"they are. Turn them off first: meshhook queue set {queue} keyed=false"
        )
    ordered = settings.ordered or config.ordered
    await match_key_indexes(database, queue, settings.keys, ordered=ordered)
    if settings.on_dead_letter == "block":
        await _set_block_triggers(database, queue, is_on=True)


async def _build_lookup_indexes(database: Database, queue: str, changes: Mapping[str, Any]) -> None:
    """Build the indexes that a change of settings needs. What it does not need is dropped later."""
    config = await get_queue_config(database, queue)
    settings = changed_settings(config, changes)
    await match_lookup_indexes(database, queue, {*config.lookup_by, *settings.lookup_by})


async def _set_block_triggers(database: Database, queue: str, *, is_on: bool) -> None:
    await change_tables(database, queue, queries.load("set_block_triggers"), queue, is_on)


async def describe_tables(database: DatabaseSource, queue: str) -> queries.QueueTables:
    """Return what a queue's tables look like, and check that the queue can be written to.

    Raises:
        InvalidQueueNameError, QueueNotFoundError: if there is no such queue.
        DatabaseReadOnlyError: if this is a replica, or the session may only read.
        HiddenRowsError: if row level security hides rows from this role, naming the tables.
        SchemaMissingError: if the migrations have not run.
    """
    name = validate_queue_name(queue)
    # Inside, so that a session that only reads is not kept.
    async with Database.of(database).acquire() as connection:
        with translated_statement_errors():
            row = await connection.fetchrow(queries.load("describe_queue"), name)
        hidden = () if row is None else row["hidden_tables"]
        # A queue whose settings are hidden looks as if there were none.
        if "meshhook.queue_config" in hidden:
            raise HiddenRowsError(row["role"], hidden)
        if row is None or not row["is_complete"]:
            raise QueueNotFoundError(name)
        if row["is_read_only"]:
            message = (
                "the database takes no writes here: it is a replica, or the session is read-only. "
                "Use the URL of the primary server"
            )
            raise DatabaseReadOnlyError(message)
        if hidden:
            raise HiddenRowsError(row["role"], hidden)
    return queries.QueueTables(
        name, has_last_read_at=row["has_last_read_at"], holds_any_bytes=row["holds_any_bytes"]
    )


def snapshot_from(row: asyncpg.Record) -> QueueSnapshot:
    """Return the snapshot that a row of `meshhook.queue_snapshot` holds."""
    return QueueSnapshot(**dict(row))


async def purge_in_chunks(database: Database, queue: str, sql: str, newest: int) -> int:
    """Delete rows with an id up to `newest` in chunks, and return how many were deleted.

    Rows that arrive in the meantime stay: with busy producers it would never end otherwise.
    """
    purged, last = 0, -1
    with one_operation():
        while True:
            (row,) = await change_rows(
                database,
                sql,
                PURGE_CHUNK_MESSAGES,
                last,
                newest,
                queue,
                answer_timeout_seconds=LONG_ANSWER_TIMEOUT_SECONDS,
            )
            if not row["gone"]:
                return purged
            purged += row["gone"]
            last = row["last"]
