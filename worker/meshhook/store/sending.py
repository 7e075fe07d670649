"""Sending: storing messages, in batches of one statement each."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import asyncpg

from meshhook.errors import (
    DatabaseConflictError,
    DatabaseError,
    JobTooLargeError,
    MeshHookError,
    QueueNotFoundError,
    SchemaMissingError,
)
from meshhook.observability.producer_metrics import messages_enqueued
from meshhook.postgres.database import Database
from meshhook.postgres.driver_errors import sqlstate_of, translated_statement_errors
from meshhook.store import queries

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshhook.drivers.driver_connection import SyncDriverConnection
    from meshhook.store.groups import NewGroup
    from meshhook.store.messages import Message

MAX_BATCH_MESSAGES = 1_000
MAX_BATCH_BYTES = 8_388_608
COMPRESSED_CHARACTERS = 2_000
"""From this length on, PostgreSQL may compress a body."""
LARGE_MESSAGE_BYTES = 1_048_576
"""From this size on, a program limit reported by the server is attributed to the message's size."""

MessageT = TypeVar("MessageT", bound=tuple[Any, ...])


async def insert_messages(
    connection: object,
    queue_name: str,
    messages: Sequence[Message],
    *,
    is_callers_transaction: bool | None = None,
) -> list[int]:
    """Store messages, and return their ids in order.

    Args:
        connection: where to store them.
        queue_name: the queue.
        messages: the messages.
        is_callers_transaction: whether this is part of a transaction of the caller, whose settings
            are left alone. Default: if the connection is in a transaction.

    Raises:
        QueueNotFoundError: if the queue has no table.
    """
    is_large = any(len(message[0]) >= COMPRESSED_CHARACTERS for message in messages)
    if is_large and is_callers_transaction is None:
        is_callers_transaction = _is_in_transaction(connection)
    prefers_lz4 = is_large and not is_callers_transaction
    sql = queries.load("enqueue", queue_name, prefers_lz4=prefers_lz4)
    try:
        rows = await connection.fetch(sql, *_columns(messages))  # type: ignore[attr-defined]
    except (SchemaMissingError, asyncpg.UndefinedTableError) as error:
        raise QueueNotFoundError(queue_name) from error
    messages_enqueued(queue_name).inc(len(rows))
    return [row[0] for row in rows]


def _is_in_transaction(connection: object) -> bool:
    found: Any = getattr(connection, "is_in_transaction", False)
    return bool(found() if callable(found) else found)


async def insert_group(
    database: Database, queue_name: str, group: NewGroup, messages: Sequence[Message]
) -> list[int]:
    """Store messages as a group, all or none, and return their ids in order.

    Inside a transaction of the caller, they are part of it.

    Raises:
        GroupExistsError, InvalidJobError, QueueNotFoundError, DatabaseError: none is stored.
        UncertainCommitError: all are stored, or none is.
    """
    is_callers = database.is_in_transaction

    async def insert(connection: Any) -> list[int]:
        ids: list[int] = []
        with translated_statement_errors():
            for batch in batches_of(messages) if messages else ():
                ids += await insert_messages(
                    connection, queue_name, batch, is_callers_transaction=is_callers
                )
            await connection.fetch(queries.load("create_group"), *group.arguments(queue_name, ids))
        return ids

    try:
        return await database.run_in_transaction(insert)
    except DatabaseError as error:
        refusal = group.refusal_of(error, queue_name)
        raise (refusal_of(error, messages) if refusal is error else refusal) from error


def insert_group_now(
    connection: SyncDriverConnection,
    queue_name: str,
    group: NewGroup,
    messages: Sequence[Message],
) -> list[int]:
    """Do what `insert_group` does on a caller's connection that blocks."""
    with connection.all_or_nothing():
        ids = insert_now(connection, queue_name, messages) if messages else []
        try:
            connection.fetch_now(queries.load("create_group"), *group.arguments(queue_name, ids))
        except DatabaseError as error:
            raise group.refusal_of(error, queue_name) from error
    return ids


def _columns(messages: Sequence[Message]) -> tuple[Any, Any, Any]:
    bodies, headers, delays = zip(*messages, strict=True)
    # A column without values is sent as null, which costs nothing.
    return bodies, headers if any(headers) else None, delays if any(delays) else None


def insert_now(
    connection: SyncDriverConnection, queue_name: str, messages: Sequence[Message]
) -> list[int]:
    """Do what `insert_batches` does on a caller's connection that blocks.

    Raises:
        QueueNotFoundError, JobTooLargeError, DatabaseError: none is stored.
        UncertainCommitError: all are stored, or none is.
    """
    batches = batches_of(messages)
    sql = queries.load("enqueue", queue_name)
    ids: list[int] = []
    try:
        with connection.all_or_nothing() if len(batches) > 1 else nullcontext():
            for batch in batches:
                ids += [row[0] for row in connection.fetch_now(sql, *_columns(batch))]
    except SchemaMissingError as error:
        raise QueueNotFoundError(queue_name) from error
    except DatabaseError as error:
        raise refusal_of(error, messages) from error
    messages_enqueued(queue_name).inc(len(ids))
    return ids


def batches_of(messages: Sequence[MessageT]) -> list[Sequence[MessageT]]:
    """Split messages into batches for one statement each, by number and by size."""
    batches: list[Sequence[MessageT]] = []
    start = size = 0
    for position, message in enumerate(messages):
        size += size_of(message)
        if position > start and (size > MAX_BATCH_BYTES or position - start >= MAX_BATCH_MESSAGES):
            batches.append(messages[start:position])
            start, size = position, size_of(message)
    batches.append(messages[start:])
    return batches


async def insert_batches(database: Database, queue_name: str, messages: list[Message]) -> list[int]:
    """Store messages, all or none, and return their ids in order.

    Inside a transaction of the caller, they are part of it.

    Raises:
        QueueNotFoundError, JobTooLargeError, DatabaseError: none is stored.
        UncertainCommitError: all are stored, or none is.
    """
    batches = batches_of(messages)
    is_callers = database.is_in_transaction

    async def insert_all(connection: object) -> list[int]:
        ids: list[int] = []
        for batch in batches:
            with translated_statement_errors():
                ids += await insert_messages(
                    connection, queue_name, batch, is_callers_transaction=is_callers
                )
        return ids

    try:
        if len(batches) == 1:
            # A single statement is atomic by itself.
            return await insert_messages(database, queue_name, messages)
        return await database.run_in_transaction(insert_all)
    except DatabaseError as error:
        raise refusal_of(error, messages) from error


async def insert_over(connection: Any, queue_name: str, messages: list[Message]) -> list[int]:
    """Do what `insert_batches` does on the caller's connection, with a fast path for one batch."""
    if len(messages) == 1:
        try:
            with translated_statement_errors():
                return await insert_messages(connection, queue_name, messages)
        except DatabaseError as error:
            is_again = isinstance(error, DatabaseConflictError)
            if not is_again or connection.is_in_transaction():
                raise refusal_of(error, messages) from error
    return await insert_batches(Database.of_caller(connection), queue_name, messages)


def refusal_of(error: DatabaseError, messages: Sequence[tuple[Any, ...]]) -> MeshHookError:
    """Return the error for the callers whose messages were refused."""
    largest = max((len(body.encode()) for body, *_ in messages), default=0)
    is_limit = sqlstate_of(error.__cause__) == asyncpg.ProgramLimitExceededError.sqlstate
    if is_limit and largest >= LARGE_MESSAGE_BYTES:
        return JobTooLargeError(largest)
    return error


def size_of(message: tuple[Any, ...]) -> int:
    """Return the characters of a message's body and headers: about its size in bytes."""
    return len(message[0]) + (0 if message[1] is None else len(message[1]))
