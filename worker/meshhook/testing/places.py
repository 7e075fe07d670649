"""The directories of servers for tests. Quick to import, since every pytest imports it."""

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

_MEMORY = Path("/dev/shm")  # noqa: S108 - the names of what is created in it are random
_ROOM_BYTES = 2_000_000_000


@contextmanager
def server_directory(*, in_memory: bool = False) -> Iterator[Path]:
    """Yield a new directory that PostgreSQL can use even if root starts it.

    Args:
        in_memory: whether it may be in memory if there is enough: cloning a database then takes
            some 20 ms instead of up to 400. Not for tests of durability. Default false.
    """
    directory = Path(tempfile.mkdtemp(prefix="meshhook-test-", dir=_parent(in_memory=in_memory)))
    try:
        let_servers_enter(directory)
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def new_session_directory() -> Path:
    """Return a name for the directory of a test session; it is not created."""
    return _parent(in_memory=True) / f"{SESSION_PREFIX}{secrets.token_hex(6)}"


def let_servers_enter(directory: Path) -> None:
    """Let the account that runs root's servers enter a directory."""
    if os.geteuid() == 0:
        directory.chmod(0o711)


def _parent(*, in_memory: bool) -> Path:
    enough = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _ROOM_BYTES
    if in_memory and enough and os.access(_MEMORY, os.W_OK):
        return _MEMORY
    return Path(tempfile.gettempdir())
