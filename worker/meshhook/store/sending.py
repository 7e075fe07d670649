"""Concurrent enqueues share statements: what arrives while a batch commits is the next batch."""

from __future__ import annotations

import asyncio
import time
from contextlib import nullcontext
from contextvars import Context
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

import asyncpg

from meshhook.errors import (
    DatabaseConflictError,
    DatabaseError,
    DatabaseUnavailableError,
    JobTooLargeError,
    MeshHookError,
    QueueNotFoundError,
    SchemaMissingError,
    UncertainCommitError,
)
from meshhook.observability.producer_metrics import messages_enqueued
from meshhook.postgres.database import Database
from meshhook.postgres.driver_errors import sqlstate_of, translated_statement_errors
from meshhook.postgres.tries import tries
from meshhook.store import queries

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from meshhook.drivers.driver_connection import SyncDriverConnection
    from meshhook.store.groups import NewGroup
    from meshhook.store.messages import Message

MAX_BATCH_MESSAGES = 1_000
MAX_BATCH_BYTES = 8_388_608
HOLD_SECONDS = 0.05
COMPRESSED_CHARACTERS = 2_000
"""From this length on, PostgreSQL may compress a body."""
LARGE_MESSAGE_BYTES = 1_048_576
"""From this size on, a program limit reported by the server is attributed to the message's size."""
_CONFLICT_TRIES = 5

MessageT = TypeVar("MessageT", bound=tuple[Any, ...])
Insert: TypeAlias = "Callable[[Any, str, Sequence[Any]], Awaitable[Sequence[int | MeshHookError]]]"
_Sent: TypeAlias = tuple[Any, ...]
"""A message and the future of its sender, as the last."""


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
        size += _size_of(message)
        if position > start and (size > MAX_BATCH_BYTES or position - start >= MAX_BATCH_MESSAGES):
            batches.append(messages[start:position])
            start, size = position, _size_of(message)
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


def _size_of(message: tuple[Any, ...]) -> int:
    return len(message[0]) + (0 if message[1] is None else len(message[1]))


class SendBuffer(Generic[MessageT]):
    """Coalesces concurrent sends to one queue into one durable statement at a time."""

    def __init__(
        self, database: Database, queue_name: str, insert: Insert = insert_messages
    ) -> None:
        """Take where to send, and what stores messages.

        Args:
            database: where the queue is.
            queue_name: the queue.
            insert: stores messages by one statement, and returns for each its id, or the error of
                its sender. Default: plain messages.
        """
        self._insert_messages = insert
        self._database = database
        self._queue_name = queue_name
        self._pending: list[_Sent] = []
        self._sender: asyncio.Task[None] | None = None

    async def send(self, message: MessageT) -> Any:
        """Store one message, and return its id once it is durable.

        If the caller is cancelled before its batch is sent, its message is dropped from the batch;
        after that the message is stored all the same.
        """
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._pending.append((*message, future))
        if self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(
                self._send_pending(),
                name=f"meshhook-send-{self._queue_name}",
                # It does not belong to the caller, since it sends for others too.
                context=Context(),
            )
        return await future

    async def flush(self) -> None:
        """Wait until every message added so far is stored or refused."""
        while self._sender is not None and not self._sender.done():
            await asyncio.wait([self._sender])

    async def _send_pending(self) -> None:
        while batch := self._take_batch():
            try:
                await self._send_from(batch)
            except asyncio.CancelledError:
                for *_, future in batch + self._pending:
                    future.cancel()
                raise

    async def _send_from(self, batch: list[_Sent]) -> None:
        """Send a batch, and those that form in the meantime, on one connection.

        Returning a connection to its pool costs a round trip, so it is kept for a moment.
        """
        try:
            async with self._database.acquire() as connection:
                ends_at = time.monotonic() + HOLD_SECONDS
                while batch:
                    await self._send(batch, connection)
                    batch = []
                    # Callers whose messages are stored may enqueue more.
                    await asyncio.sleep(0)
                    if time.monotonic() < ends_at:
                        batch = self._take_batch()
        except DatabaseUnavailableError as error:
            if batch and _was_not_sent(error):
                await self._send_again(batch)
            else:
                self._refuse(batch, error)
        except (MeshHookError, OSError) as error:
            self._refuse(batch, error)
        except asyncio.CancelledError:
            for *_, future in batch:
                future.cancel()
            raise

    async def _send_again(self, batch: list[_Sent]) -> None:
        """Send again what failed before anything was sent: only that is safe to repeat."""
        try:
            async for attempt in tries(
                on=_was_not_sent,
                limit=4,
                timeout_seconds=15,
                first_pause_seconds=0.5,
                max_pause_seconds=2,
                step="enqueue",
            ):
                with attempt:
                    # If a batch is sent one by one, some messages may be stored already.
                    rest = [item for item in batch if not item[-1].done()]
                    if rest:
                        await self._send(rest, self._database)
        except (MeshHookError, OSError) as error:
            self._refuse(batch, error)

    def _take_batch(self) -> list[_Sent]:
        size_bytes = 0
        taken = 0
        for item in self._pending[:MAX_BATCH_MESSAGES]:
            size_bytes += _size_of(item[:-1])
            if taken and size_bytes > MAX_BATCH_BYTES:
                break
            taken += 1
        batch, self._pending = self._pending[:taken], self._pending[taken:]
        batch = [item for item in batch if not item[-1].done()]
        return batch if batch or not self._pending else self._take_batch()

    async def _send(self, batch: list[_Sent], connection: object) -> None:
        """Send a batch.

        Raises:
            DatabaseUnavailableError: none of it was sent, or it is not known what was stored.
        """
        try:
            ids = await self._insert(batch, connection)
        except DatabaseUnavailableError:
            raise
        except DatabaseError as error:
            if len(batch) > 1 and not isinstance(error, SchemaMissingError):
                # The server stored none of them. One message it cannot store must not cost the
                # others theirs: send each alone.
                for item in batch:
                    await self._send([item], connection)
                return
            self._refuse(batch, refusal_of(error, [item[:-1] for item in batch]))
        except MeshHookError as error:
            self._refuse(batch, error)
        else:
            for (*_, future), found in zip(batch, ids, strict=True):
                if future.done():
                    continue
                if isinstance(found, MeshHookError):
                    future.set_exception(found)
                else:
                    future.set_result(found)

    async def _insert(self, batch: list[_Sent], connection: Any) -> Sequence[Any]:
        messages = [item[:-1] for item in batch]
        for tries_left in reversed(range(_CONFLICT_TRIES)):
            try:
                with translated_statement_errors():
                    return await self._insert_messages(connection, self._queue_name, messages)
            except DatabaseConflictError:
                # The server has undone it for another's sake, unless it is the caller's own.
                if not tries_left or getattr(connection, "is_in_transaction", bool)():
                    raise
        raise AssertionError  # the last try returns or raises

    @staticmethod
    def _refuse(batch: list[_Sent], error: BaseException) -> None:
        for *_, future in batch:
            if not future.done():
                future.set_exception(error)


def _was_not_sent(error: BaseException) -> bool:
    return isinstance(error, DatabaseUnavailableError) and not isinstance(
        error, UncertainCommitError
    )
