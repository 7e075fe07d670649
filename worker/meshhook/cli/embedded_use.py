"""The embedded PostgreSQL of commands: started when needed, stopped by the last one to end."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from meshhook.cli.output import note
from meshhook.embedded import EmbeddedPostgres
from meshhook.embedded.programs import Programs, make_passable_directory, translated_os_errors
from meshhook.errors import DatabaseError
from meshhook.postgres.connecting import connect

_OTHERS_SQL = """
select pg_catalog.count(*) from pg_catalog.pg_stat_activity
where backend_type = 'client backend' and pid <> pg_catalog.pg_backend_pid()
"""


@contextlib.contextmanager
def embedded_database(directory: Path) -> Iterator[str]:
    """Yield the URL of the embedded PostgreSQL in `directory`, started if it is not running.

    If a command started it, the last command to end stops it, unless another client is still
    connected. One that a program started with `EmbeddedPostgres` is left running.

    Raises:
        DatabaseUnavailableError: if it is not installed, or does not start.
    """
    Programs.find(account=None)  # or else it says what to install, and creates nothing
    server = EmbeddedPostgres(directory)
    with translated_os_errors():
        make_passable_directory(server.directory)
        users = (server.directory / "users").open("a")
    with users:
        # All commands that use it share this lock. The one that stops it holds it alone, so that
        # a command which comes in the meantime waits, and then starts it again.
        fcntl.flock(users, fcntl.LOCK_SH)
        was_stopped = server.pid is None
        if not (server.home / "data").exists():
            note(f"Creating a PostgreSQL in {_shown(directory)}; this takes a few seconds.")
        mark = server.directory / "started-by-command"
        try:
            url = server.start()
            if was_stopped:
                mark.write_text(str(server.pid))
        except BaseException:
            # Ctrl-C, say. What has started by now would keep running, and no command would stop it.
            if was_stopped and _is_alone(users):
                with contextlib.suppress(OSError, DatabaseError):
                    server.stop()
            raise
        try:
            yield url
        finally:
            _leave(server, mark, users, url)


def _leave(server: EmbeddedPostgres, mark: Path, users: IO[str], url: str) -> None:
    if not _is_alone(users):
        return  # another command uses it, and stops it when it ends
    try:
        if mark.exists() and mark.read_text() == str(server.pid) and not _is_used(url):
            server.stop()
            mark.unlink()
    except (OSError, DatabaseError) as error:
        note(f"The embedded PostgreSQL was left running: {error}")


def _is_alone(users: IO[str]) -> bool:
    """Whether no other command uses the server; if so, none can until this one ends."""
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_used(url: str) -> bool:
    async def others() -> bool:
        connection = await connect(url)
        try:
            return bool(await connection.fetchval(_OTHERS_SQL))
        finally:
            await connection.close()

    return asyncio.run(others())


def _shown(directory: Path) -> str:
    text = str(directory)
    return text if text.isprintable() and sys.stderr.isatty() else repr(text)
