"""The buffer of sends: what arrives while a batch commits is the next batch."""

from __future__ import annotations

import asyncio
import time
from contextvars import Context
from typing import TYPE_CHECKING, Any, Generic, TypeAlias

from meshhook.errors import (
    DatabaseConflictError,
    DatabaseError,
    DatabaseUnavailableError,
    MeshHookError,
    SchemaMissingError,
    UncertainCommitError,
)
from meshhook.postgres.database import Database
from meshhook.postgres.driver_errors import translated_statement_errors
from meshhook.postgres.tries import tries
from meshhook.store.sending import (
    MAX_BATCH_BYTES,
    MAX_BATCH_MESSAGES,
    MessageT,
    insert_messages,
    refusal_of,
    size_of,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

HOLD_SECONDS = 0.05
_CONFLICT_TRIES = 5
Insert: TypeAlias = "Callable[[Any, str, Sequence[Any]], Awaitable[Sequence[int | MeshHookError]]]"
_Sent: TypeAlias = tuple[Any, ...]
"""A message and the future of its sender, as the last."""


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
            size_bytes += size_of(item[:-1])
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
