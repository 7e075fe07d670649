"""The server of a test session: one for all its processes, with one template, gone at its end."""

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
    # What a crash of the machine would lose does not matter here. Commits still wait for the
    # write of the log, so that nothing else differs.
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

    The first that needs a database starts the server and prepares the template; the one that has
    started the session calls `end` when all others are through. What a session has left behind that
    was killed is taken away by the next one.
    """

    def __init__(self, directory: Path, url: str | None) -> None:
        """Take where it may keep things, and the server to use.

        Args:
            directory: what `new_session_directory` has returned, the same in all processes.
            url: a database of a server that runs. Default: an embedded one is started.

        Raises:
            InvalidSettingError: if it is no URL of a database.
        """
        self._directory = directory
        self._url = url
        self._place = _EMBEDDED if url is None else parse_database_url(url).place
        self._prefix = _prefix_of(directory)
        self._use: IO[str] | None = None
        self._databases: Databases | None = None

    def databases(self) -> Databases:
        """Return the databases of the server, which is started if need be.

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
        """Return the name of a migrated database to clone: of today, since the history has days.

        Args:
            queue_names: the queues that it has. Default none.
            prepare: what else is done to it, by the first process that asks. Default nothing.

        Raises:
            DatabaseError: if it cannot be made.
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
        """Drop what the session has made, and stop the server if it was started for it."""
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
        """Make the directory, if it is not there, and say that this process uses it.

        Returns:
            How the names of databases begin that were left behind by sessions that were killed.
        """
        abandoned = _remove_abandoned(self._directory, self._place)
        while self._use is None:
            with suppress(FileExistsError):
                self._directory.mkdir(mode=0o700)
                let_servers_enter(self._directory)
            # Another session may take the directory away until it is locked.
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
    """Stop the servers, and remove the directories, of sessions that have not come to their end.

    Args:
        own: the directory of this session.
        place: which server this session uses; what is on others cannot be removed here.

    Returns:
        How the names of their databases begin.
    """
    abandoned: list[str] = []
    for directory in own.parent.glob(f"{SESSION_PREFIX}*"):
        try:
            if directory == own or directory.stat().st_uid != os.geteuid():
                continue
            with (directory / "use.lock").open("a") as use:
                fcntl.flock(use, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if (directory / _PLACE_FILE).read_text() != place:
                    continue
                with suppress(DatabaseError):
                    _remove_server(directory)
                shutil.rmtree(directory, ignore_errors=True)
        except OSError:
            continue  # it is in use, or another session removes it just now
        abandoned.append(_prefix_of(directory))
    return abandoned


def _remove_server(directory: Path) -> None:
    server = EmbeddedPostgres(directory / "postgres")
    server.stop()
    # Of root, where others may not enter the directory, it is elsewhere.
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
