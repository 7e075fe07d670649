"""Where the servers of tests have their directories. Quick to import, since pytest waits for it."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SESSION_PREFIX = "meshhook-testing-"
"""How the names of the directories of test sessions begin."""

_MEMORY = Path("/dev/shm")  # noqa: S108 - what is made in it has a name that nobody knows before
_ROOM_BYTES = 2_000_000_000


@contextmanager
def server_directory(*, in_memory: bool = False) -> Iterator[Path]:
    """Yield a new directory that also the account of root's servers may enter.

    Args:
        in_memory: whether it may be in memory, where there is enough: a database is cloned there in
            some 20 ms instead of up to 400. Not for tests about durability. Default false.
    """
    directory = Path(tempfile.mkdtemp(prefix="meshhook-test-", dir=_parent(in_memory=in_memory)))
    try:
        let_servers_enter(directory)
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def new_session_directory() -> Path:
    """Return the name of a directory for a test session; nothing is made yet."""
    return _parent(in_memory=True) / f"{SESSION_PREFIX}{secrets.token_hex(6)}"


def let_servers_enter(directory: Path) -> None:
    """Let the account enter a directory that the servers of root run as."""
    if os.geteuid() == 0:
        directory.chmod(0o711)


def _parent(*, in_memory: bool) -> Path:
    enough = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _ROOM_BYTES
    if in_memory and enough and os.access(_MEMORY, os.W_OK):
        return _MEMORY
    return Path(tempfile.gettempdir())
