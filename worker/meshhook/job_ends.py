"""Waiting for jobs to end: how a job ended, and what its handler returned."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from math import inf
from typing import TYPE_CHECKING, Any

import asyncpg

from meshhook.arguments import checked_id, checked_seconds
from meshhook.encryption.envelope import is_sealed_object
from meshhook.encryption.messages import read_result
from meshhook.errors import (
    DatabaseError,
    DatabaseUnavailableError,
    JobNotFoundError,
    QueueNotFoundError,
    SchemaMissingError,
    WaitTimeoutError,
)
from meshhook.escaping import quoted
from meshhook.outcomes import AttemptOutcome
from meshhook.store import queries

if TYPE_CHECKING:
    from meshhook.encryption.key_ring import KeyRing
    from meshhook.postgres.database import Database

ENDS_CHANNEL = "meshhook_ends"
"""The channel on which settlements say in which queue jobs have ended, while somebody waits."""
MAX_WAIT_SECONDS = 86_400.0
POLL_SECONDS = 1.0
FIRST_PAUSE_SECONDS = 0.01
AWAIT_SECONDS = 5.0
"""How often to say that somebody waits: what was said holds for 15 seconds."""


@dataclass(frozen=True, slots=True)
class JobEnd:
    """How a job ended."""

    queue: str
    """Its queue."""
    msg_id: int
    """Its id."""
    outcome: str
    """succeeded, dead_lettered, cancelled, archived or expired."""
    result: Any
    """What its handler returned, as JSON has it; None if that was nothing, or if it was not kept:
    then `error_type` says why, or the queue does not keep results."""
    attempts: int
    """How many attempts it had."""
    finished_at: datetime
    """When it ended."""
    error_type: str | None
    """What went wrong; `ResultRefusedError` if it succeeded, but its result could not be kept."""
    error_message: str | None
    """The message of that error, or why it was cancelled."""

    @property
    def has_succeeded(self) -> bool:
        """Whether it succeeded."""
        return self.outcome == AttemptOutcome.SUCCEEDED


class EndWaiter:
    """Waits for jobs of one queue to end. All who wait share one task, which asks for all at once.

    Where the database is reached directly through a pool, one of its connections listens while
    somebody waits. Else, as behind a pooler, it asks once a second.
    """

    def __init__(
        self, database: Database, queue_name: str, *, encryption: KeyRing | None = None
    ) -> None:
        self._encryption = encryption
        self._database = database
        self._queue_name = queue_name
        self._waiting: dict[int, set[asyncio.Future[JobEnd]]] = {}
        self._look = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._said_at = -inf

    async def wait(self, msg_id: int, timeout_seconds: float) -> JobEnd:
        """Wait until a job has its final outcome.

        Raises:
            InvalidSettingError: if an argument is out of its range.
            WaitTimeoutError: if it had none in time.
            JobNotFoundError: if nothing is left of the job.
            EncryptionError: if its result is encrypted, and cannot be decrypted.
            DatabaseError: if it cannot be asked for.
        """
        wanted = checked_id("msg_id", msg_id)
        limit = checked_seconds("timeout_seconds", timeout_seconds, 0.001, MAX_WAIT_SECONDS)
        future: asyncio.Future[JobEnd] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(wanted, set()).add(future)
        self._look.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="meshhook-job-ends")
        try:
            async with asyncio.timeout(limit):
                end = await future
                return replace(end, result=await self._decrypted(end))
        except TimeoutError:
            raise WaitTimeoutError(self._queue_name, wanted, limit) from None
        finally:
            self._waiting[wanted].discard(future)
            if not self._waiting[wanted]:
                del self._waiting[wanted]

    async def _decrypted(self, end: JobEnd) -> Any:
        """Return the result of a job as its handler returned it."""
        if not is_sealed_object(end.result):
            return end.result
        return await read_result(end.result, self._encryption, end.queue, end.msg_id)

    async def close(self) -> None:
        """Let nobody wait any longer."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _run(self) -> None:
        pause_seconds = FIRST_PAUSE_SECONDS
        while self._futures():
            try:
                async with AsyncExitStack() as stack:
                    is_listening = await self._listen(stack)
                    while await self._ask(is_listening=is_listening):
                        pause_seconds = min(2 * pause_seconds, POLL_SECONDS)
                        await self._rest(POLL_SECONDS if is_listening else pause_seconds)
            except DatabaseUnavailableError:
                await asyncio.sleep(POLL_SECONDS)
            except asyncio.CancelledError:
                for future in self._futures():
                    future.cancel()
                raise
            except Exception as error:  # noqa: BLE001 - handed to those who wait
                for future in self._futures():
                    future.set_exception(error)
                return

    async def _listen(self, stack: AsyncExitStack) -> bool:
        """Listen on a connection until the stack ends; return whether that is possible."""
        if not self._database.can_spare_a_connection:
            return False
        connection = await stack.enter_async_context(self._database.acquire())
        # Behind a pooler, which has process ids of its own, a session is not ours to listen on.
        pid = await connection.fetchval("select pg_catalog.pg_backend_pid()")
        if pid != connection.get_server_pid():
            await stack.aclose()
            return False
        await connection.add_listener(ENDS_CHANNEL, self._on_ends)
        stack.push_async_callback(_unlisten, connection, self._on_ends)
        self._said_at = -inf
        return True

    def _on_ends(self, *notification: object) -> None:
        if notification[-1] == self._queue_name:
            self._look.set()

    async def _rest(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._look.wait()

    async def _ask(self, *, is_listening: bool) -> bool:
        """Ask for all jobs at once; return whether somebody still waits."""
        self._look.clear()
        now = asyncio.get_running_loop().time()
        if is_listening and now >= self._said_at + AWAIT_SECONDS:
            # Before it asks: what ends after that is told.
            await self._database.fetch(queries.load("await_ends"))
            self._said_at = now
        wanted = list(self._waiting)
        try:
            rows = await self._database.fetch(
                queries.load("find_ends", self._queue_name), self._queue_name, wanted
            )
        except SchemaMissingError as error:
            raise QueueNotFoundError(self._queue_name) from error
        found = {row["msg_id"]: row for row in rows}
        for msg_id in wanted:
            row = found.get(msg_id)
            for future in [*self._waiting.get(msg_id, ())]:
                if future.done():
                    continue
                if row is None:
                    future.set_exception(_nothing_left(self._queue_name, msg_id))
                elif row["outcome"] is not None:
                    future.set_result(_end(self._queue_name, row))
        return any(not future.done() for future in self._futures())

    def _futures(self) -> list[asyncio.Future[JobEnd]]:
        return [future for each in self._waiting.values() for future in each if not future.done()]


async def _unlisten(connection: Any, listener: Any) -> None:
    with suppress(DatabaseError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        await connection.remove_listener(ENDS_CHANNEL, listener)


def _nothing_left(queue_name: str, msg_id: int) -> JobNotFoundError:
    return JobNotFoundError(
        f"queue {queue_name!r}: nothing is left of job {quoted(msg_id)}. It was never there, "
        "somebody deleted its message, or its history is older than history_retention_days"
    )


def _end(queue_name: str, row: asyncpg.Record) -> JobEnd:
    return JobEnd(
        queue=queue_name,
        msg_id=row["msg_id"],
        outcome=row["outcome"],
        result=None if row["result"] is None else json.loads(row["result"]),
        attempts=row["attempt"],
        finished_at=row["finished_at"],
        error_type=row["error_type"],
        error_message=row["error_message"],
    )
