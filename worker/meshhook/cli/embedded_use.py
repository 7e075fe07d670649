"""The embedded PostgreSQL as commands use it: started when needed, stopped by the last of them."""

from __future__ import annotations

import contextlib
import fcntl
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from meshhook.cli.failures import UsageError
from meshhook.cli.output import note
from meshhook.errors import DatabaseError

if TYPE_CHECKING:
    from meshhook.embedded import EmbeddedPostgres

MAX_PROCESSES = 30
"""How many worker processes may share it: each has three of its 100 connections."""

_OTHERS_SQL = """
select pg_catalog.count(*) from pg_catalog.pg_stat_activity
where backend_type = 'client backend' and pid <> pg_catalog.pg_backend_pid()
"""


@contextlib.contextmanager
def embedded_database(directory: Path) -> Iterator[str]:
    """Yield the URL of the embedded PostgreSQL in `directory`, started if it does not run.

    If a command started it, the last command to end stops it, unless some other client is
    connected still. One that a program started with `EmbeddedPostgres` is left alone.

    Raises:
        DatabaseUnavailableError: if it does not start.
    """
    from meshhook.embedded import EmbeddedPostgres
    from meshhook.embedded.programs import make_passable_directory, translated_os_errors

    server = EmbeddedPostgres(directory)
    with translated_os_errors():
        make_passable_directory(server.directory)
        users = (server.directory / "users").open("a")
    with users:
        # All commands that use it hold this lock together. The one that stops it holds it alone,
        # and whoever comes meanwhile waits, and then starts it again.
        fcntl.flock(users, fcntl.LOCK_SH)
        was_stopped = server.pid is None
        if not (server.home / "data").exists():
            note(f"Making a PostgreSQL in {_shown(directory)}; this takes a few seconds.")
        mark = server.directory / "started-by-command"
        try:
            url = server.start()
            if was_stopped:
                mark.write_text(str(server.pid))
        except BaseException:
            # Ctrl-C, say. What it has begun would run on, and no command would stop it.
            if was_stopped and _is_alone(users):
                with contextlib.suppress(OSError, DatabaseError):
                    server.stop()
            raise
        try:
            yield url
        finally:
            _leave(server, mark, users, url)


def check_processes(processes: int) -> None:
    """Check that the embedded PostgreSQL has connections for so many worker processes.

    Raises:
        UsageError: if it has not.
    """
    if processes > MAX_PROCESSES:
        raise UsageError(
            f"--processes {processes}: the embedded PostgreSQL has connections for at most "
            f"{MAX_PROCESSES} worker processes; for more, use a server of your own: "
            "export MESHHOOK_DATABASE_URL=..."
        )


def _leave(server: EmbeddedPostgres, mark: Path, users: IO[str], url: str) -> None:
    if not _is_alone(users):
        return  # another command uses it, and stops it at its end
    try:
        if mark.exists() and mark.read_text() == str(server.pid) and not _is_used(url):
            server.stop()
            mark.unlink()
    except (OSError, DatabaseError) as error:
        note(f"The embedded PostgreSQL was left running: {error}")


def _is_alone(users: IO[str]) -> bool:
    """Whether no other command uses the server; from then on none does until this one ends."""
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_used(url: str) -> bool:
    import asyncio

    from meshhook.postgres.database import connect

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
