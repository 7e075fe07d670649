"""What the library asks of a caller's connection, whatever its driver."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from meshhook.errors import DatabaseUnavailableError, MeshHookError, UnstorableTextError
from meshhook.escaping import shown_sentence

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Rows = list[tuple[Any, ...]]
"""The rows of a statement; empty if it returns none."""


class DriverConnection(ABC):
    """A caller's connection. Statements have `$1` for their first argument, as PostgreSQL has it.

    It has the methods of an asyncpg connection that enqueuing uses. Errors are the library's; what
    they do to the caller's transaction is up to the driver.
    """

    is_sync = False
    """Whether a statement blocks the calling thread instead of being awaited."""

    async def fetch(self, sql: str, *arguments: object) -> Rows:
        """Run a statement and return its rows."""
        with self._translated():
            return await self._run(sql, _with_lists(arguments))

    async def fetchrow(self, sql: str, *arguments: object) -> tuple[Any, ...] | None:
        """Run a statement and return its first row, or None."""
        rows = await self.fetch(sql, *arguments)
        return rows[0] if rows else None

    async def execute(self, sql: str) -> None:
        """Run statements that return nothing."""
        with self._translated():
            await self._run(sql, None)

    def transaction(self) -> _Transaction:
        """Return a transaction on a connection that has none: in autocommit mode."""
        return _Transaction(self)

    @abstractmethod
    def is_in_transaction(self) -> bool:
        """Return whether a statement belongs to a transaction that the caller will end."""

    @abstractmethod
    async def _run(self, sql: str, arguments: Sequence[object] | None) -> Rows:
        """Run a statement; None as arguments: it returns no rows. Errors are the driver's."""

    @abstractmethod
    def _meaning(self, error: Exception) -> MeshHookError | None:
        """Return the meaning of an error of the driver; None if it is not the driver's."""

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except MeshHookError:
            raise
        except UnicodeError as error:
            raise UnstorableTextError(
                f"a text holds what the connection cannot send: {shown_sentence(str(error))}"
            ) from error
        except Exception as error:
            meaning = self._meaning(error)
            if meaning is None:
                raise
            raise meaning from error


class SyncDriverConnection(DriverConnection):
    """A caller's connection whose statements block the calling thread."""

    is_sync = True

    def fetch_now(self, sql: str, *arguments: object) -> Rows:
        """Run a statement and return its rows, without an event loop."""
        with self._translated():
            return self._run_now(sql, _with_lists(arguments))

    def execute_now(self, sql: str) -> None:
        """Run statements that return nothing."""
        with self._translated():
            self._run_now(sql, None)

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """Let several statements count as one: in a savepoint, or in a transaction of their own."""
        if self.is_in_transaction():
            start, keep = "savepoint meshhook", "release savepoint meshhook"
            undo = "rollback to savepoint meshhook; release savepoint meshhook"
        else:
            start, keep, undo = "begin", "commit", "rollback"
        self.execute_now(start)
        try:
            yield
        except BaseException:
            # A connection that is gone rolls back by itself.
            with suppress(DatabaseUnavailableError):
                self.execute_now(undo)
            raise
        self.execute_now(keep)

    async def _run(self, sql: str, arguments: Sequence[object] | None) -> Rows:
        return self._run_now(sql, arguments)

    @abstractmethod
    def _run_now(self, sql: str, arguments: Sequence[object] | None) -> Rows:
        """Run a statement, as `_run` does."""


def _with_lists(arguments: Sequence[object]) -> list[object]:
    """Return arguments with arrays as lists: drivers take a tuple for a row."""
    return [list(each) if isinstance(each, tuple) else each for each in arguments]


class _Transaction:
    """A transaction on a connection in autocommit mode."""

    def __init__(self, connection: DriverConnection) -> None:
        self._connection = connection

    async def start(self) -> None:
        """Begin it."""
        await self._connection.execute("begin")

    async def commit(self) -> None:
        """Commit it."""
        await self._connection.execute("commit")

    async def rollback(self) -> None:
        """Undo it."""
        await self._connection.execute("rollback")
