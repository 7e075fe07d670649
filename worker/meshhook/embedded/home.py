"""The directory of an embedded server: its files, its lock, and its port and password."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from meshhook.embedded import programs
from meshhook.embedded.programs import (
    Account,
    make_passable_directory,
    translated_os_errors,
    unprivileged_account,
)
from meshhook.errors import DatabaseUnavailableError


def find_home(directory: Path) -> Path:
    """Return where the server of `directory` keeps its files: there, except for some of root's.

    Root's server runs as another account. If that account cannot enter the directory, the files
    are below the system directory, under a name derived from the directory's.
    """
    with translated_os_errors():
        directory = directory.resolve()
        if os.geteuid() != 0 or (directory / "data").exists():
            return directory
        digest = hashlib.sha256(os.fsencode(directory)).hexdigest()[:12]
        elsewhere = programs.SYSTEM_DIRECTORY / f"{directory.name.lstrip('.')}-{digest}"
        if (elsewhere / "data").exists():
            return elsewhere
        nearest = next(path for path in (directory, *directory.parents) if path.exists())
        return directory if unprivileged_account().reaches(nearest) else elsewhere


def account_for(home: Path) -> Account | None:
    """Return the account to run the server as; None for the calling user."""
    if os.geteuid() != 0:
        return None
    if (home / "data").exists():
        owner = (home / "data").stat()
        return Account(owner.st_uid, owner.st_gid)
    return unprivileged_account()


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[Path]:
    """Create and yield the home; no other process can start or stop its server meanwhile."""
    with translated_os_errors():
        make_passable_directory(directory)
        home = find_home(directory)
        make_passable_directory(home)
        with (home / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield home


def read_state(home: Path) -> tuple[int, str]:
    """Return the port and the password."""
    path = home / "server.json"
    try:
        state = json.loads(path.read_text())
        return int(state["port"]), str(state["password"])
    except FileNotFoundError as error:
        message = f"no embedded PostgreSQL was started in {home} yet"
        if (home / "data").exists():
            message = (
                f"{path} is missing, and with it the password: "
                f"restore it, or delete {home} with all its data"
            )
        raise DatabaseUnavailableError(message) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatabaseUnavailableError(f"{path} cannot be read: {error}") from error


def write_state(home: Path, port: int, password: str) -> None:
    """Store the port and the password, readable only for the calling user."""
    with tempfile.NamedTemporaryFile("w", dir=home, delete=False) as file:  # mode 0600
        json.dump({"port": port, "password": password}, file)
    Path(file.name).replace(home / "server.json")
