"""The server of a test session: shared by its processes, with one template, stopped at the end."""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING

from meshhook.administration import create_queue
from meshhook.embedded import EmbeddedPostgres
from meshhook.errors import DatabaseError
from meshhook.postgres.url import parse_database_url
from meshhook.schema import migrate
from meshhook.testing.databases import NAME_PREFIX, Databases
from meshhook.testing.places import SESSION_PREFIX, let_servers_enter

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import asyncpg

    from meshhook.testing.databases import Prepare

SERVER_SETTINGS = {
    # It does not matter if these databases are lost in a crash of the machine. Commits still wait
    # for the log to be written, so nothing else differs.
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "max_wal_size": "512MB",
}
"""The settings of a server for tests."""

_PLACE_FILE = "place"
"""The file that says which server a session uses."""
_EMBEDDED = "embedded"


class SessionServer:
    """The server that the processes of one test session share.

    The first process that needs a database starts the server and prepares the template; the main
    process calls `end` when the others are done. If a session is killed, the next one on the same
    server cleans up after it.
    """

    def __init__(self, directory: Path, url: str | None) -> None:
        """Take the directory of the session, and the server to use.

        Args:
            directory: a result of `new_session_directory`, the same in all processes.
            url: a database of a running server. Default: an embedded server is started.

        Raises:
            InvalidSettingError: if it is not the URL of a database.
        """
        self._directory = directory
        self._url = url
        self._place = _EMBEDDED if url is None else parse_database_url(url).place
        self._prefix = _prefix_of(directory)
        self._use: IO[str] | None = None
        self._databases: Databases | None = None

    def databases(self) -> Databases:
        """Return the databases of the server, which is started if necessary.

        Raises:
            DatabaseUnavailableError: if the embedded server is not installed or does not start.
            DatabaseError: if the server cannot be connected to.
        """
        if self._databases is None:
            abandoned = self._enter()
            if self._url is None:
                server = EmbeddedPostgres(self._directory / "postgres", settings=SERVER_SETTINGS)
                self._databases = Databases(server.start(), prefix=self._prefix, copies_files=True)
            else:
                for prefix in abandoned:
                    _drop_all(self._url, prefix)
                self._databases = Databases(self._url, prefix=self._prefix)
        return self._databases

    def template(self, queue_names: Sequence[str] = (), prepare: Prepare | None = None) -> str:
        """Return the name of a migrated database to clone, created by the first process that asks.

        There is one per day, since the history has a partition per day.

        Args:
            queue_names: the queues to create in it. Default none.
            prepare: prepares it further. Default: nothing more.

        Raises:
            DatabaseError: if it cannot be created.
        """
        databases = self.databases()
        name = f"{self._prefix}template_{datetime.now(UTC):%Y%m%d}"
        made = self._directory / name
        with _locked(self._directory / "template.lock"):
            if not made.exists():
                databases.create_template(_preparation(queue_names, prepare), name=name)
                made.touch()
        return name

    def leave(self) -> None:
        """Close this process's connections."""
        databases, self._databases = self._databases, None
        if databases is not None:
            databases.close()

    def end(self) -> None:
        """Drop the databases of the session, or stop the server if the session started it."""
        self.leave()
        if self._use is not None:
            self._use.close()
            self._use = None
        if not self._directory.exists():
            return  # no process has used it
        try:
            if self._url is None:
                _remove_server(self._directory)
            else:
                _drop_all(self._url, self._prefix)
        finally:
            shutil.rmtree(self._directory, ignore_errors=True)

    def _enter(self) -> list[str]:
        """Create the directory if necessary, and mark it as used by this process.

        Returns:
            The name prefixes of databases that killed sessions have left behind.
        """
        abandoned = _remove_abandoned(self._directory, self._place)
        while self._use is None:
            with suppress(FileExistsError):
                self._directory.mkdir(mode=0o700)
                let_servers_enter(self._directory)
            # Until it is locked, another session may take it for abandoned and remove it.
            with suppress(FileNotFoundError):
                use = (self._directory / "use.lock").open("a")
                fcntl.flock(use, fcntl.LOCK_SH)
                if os.fstat(use.fileno()).st_nlink:
                    self._use = use
                    (self._directory / _PLACE_FILE).write_text(self._place)
                else:
                    use.close()
        return abandoned


def _preparation(queue_names: Sequence[str], prepare: Prepare | None) -> Prepare:
    async def prepare_all(connection: asyncpg.Connection[asyncpg.Record]) -> None:
        await migrate(connection)
        for name in queue_names:
            await create_queue(connection, name)
        if prepare is not None:
            await prepare(connection)

    return prepare_all


def _prefix_of(directory: Path) -> str:
    return f"{NAME_PREFIX}{directory.name.removeprefix(SESSION_PREFIX)}_"


def _remove_abandoned(own: Path, place: str) -> list[str]:
    """Stop the servers and remove the directories of sessions that were killed.

    Args:
        own: the directory of this session.
        place: the server of this session; databases on other servers cannot be dropped from here.

    Returns:
        The name prefixes of their databases.
    """
    abandoned: list[str] = []
    for directory in own.parent.glob(f"{SESSION_PREFIX}*"):
        try:
            if directory == own or directory.stat().st_uid != os.geteuid():
                continue
            with (directory / "use.lock").open("a") as use:
                fcntl.flock(use, fcntl.LOCK_EX | fcntl.LOCK_NB)
                place_file = directory / _PLACE_FILE
                if place_file.exists() and place_file.read_text() != place:
                    continue
                with suppress(DatabaseError):
                    _remove_server(directory)
                shutil.rmtree(directory, ignore_errors=True)
        except OSError:
            continue  # it is in use, or another session is removing it
        abandoned.append(_prefix_of(directory))
    return abandoned


def _remove_server(directory: Path) -> None:
    server = EmbeddedPostgres(directory / "postgres")
    server.stop()
    # If root started it where others may not enter, its data are elsewhere.
    shutil.rmtree(server.home, ignore_errors=True)


def _drop_all(url: str, prefix: str) -> None:
    databases = Databases(url, prefix=prefix)
    try:
        databases.drop_all()
    finally:
        databases.close()


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    with file.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
