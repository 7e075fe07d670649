"""The lock that a running server holds on its directory, even across containers.

PostgreSQL tells by the pid in postmaster.pid whether a server is running. In another container that
pid means nothing, and a second server on the same data would destroy them.
"""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Iterator
from pathlib import Path

from meshhook.embedded.programs import translated_os_errors
from meshhook.errors import DatabaseUnavailableError

ORPHAN_SECONDS = 10.0
"""How long the processes of a killed server may take to notice it and release the lock."""


@contextlib.contextmanager
def server_lock(home: Path) -> Iterator[int]:
    """Take the lock, and yield the descriptor that the new server must inherit.

    The server and its processes hold it from then on, until the last of them ends. Processes that
    held it before have `ORPHAN_SECONDS` to end.

    Raises:
        DatabaseUnavailableError: if a server runs here that cannot be seen from here.
    """
    path = home / "server.lock"
    with translated_os_errors():
        lock = path.open("a")
    with lock:
        deadline = time.monotonic() + ORPHAN_SECONDS
        while not _is_taken(lock.fileno()):
            if time.monotonic() >= deadline:
                raise DatabaseUnavailableError(
                    f"a PostgreSQL runs on the data in {home} that cannot be seen from here, as in "
                    f"another container: it holds {path}. Stop that one, or use another directory: "
                    "two servers would destroy the data"
                )
            time.sleep(0.1)
        yield lock.fileno()


def is_locked(home: Path) -> bool:
    """Whether a server or one of its processes holds the lock, wherever it runs."""
    with translated_os_errors():
        try:
            lock = (home / "server.lock").open("rb")
        except FileNotFoundError:
            return False
    with lock:
        return not _is_taken(lock.fileno())


def _is_taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
