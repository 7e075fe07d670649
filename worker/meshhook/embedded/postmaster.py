"""The server process of a data directory, found by its pid file, and the port it listens on."""

from __future__ import annotations

import secrets
import socket
from dataclasses import dataclass
from pathlib import Path

from meshhook.embedded.programs import HOST, translated_os_errors
from meshhook.errors import DatabaseUnavailableError

try:
    import psutil
except ImportError:  # it comes with the extra `embedded`, as the wheel does
    psutil = None  # type: ignore[assignment]

# Below the ports that Linux hands to outgoing connections, so that none of those takes ours
# while the server is stopped.
_PORTS = range(15_000, 32_000)


@dataclass(frozen=True, slots=True)
class Postmaster:
    """A running server."""

    pid: int
    port: int
    ready: bool


def running_postmaster(data: Path) -> Postmaster | None:
    """Return the server that runs on a data directory, or None."""
    with translated_os_errors():
        try:
            lines = (data / "postmaster.pid").read_text().splitlines()
            pid, port = int(lines[0]), int(lines[3])
        except (FileNotFoundError, ValueError, IndexError):
            return None
    # After a crash the number may belong to some other process.
    if not _has_in_command(pid, str(data)):
        return None
    return Postmaster(pid, port, ready=lines[-1].strip() in {"ready", "standby"})


def _has_in_command(pid: int, argument: str) -> bool:
    if psutil is None:
        return False
    try:
        return argument in psutil.Process(pid).cmdline()
    except psutil.Error:
        return False


def remove_misleading(pid_file: Path) -> None:
    """Remove the file that a crashed server left, if its pid belongs to another process now.

    PostgreSQL would mistake that process for the server and refuse to start. In all other cases the
    file stays, since PostgreSQL reads more from it.
    """
    first_line = pid_file.read_text().partition("\n")[0]
    if first_line.isdecimal() and psutil.pid_exists(int(first_line)):
        pid_file.unlink()


def is_free(port: int) -> bool:
    """Whether a server could listen on a port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as PostgreSQL does
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """Return a port on which nothing listens."""
    for _ in range(100):
        port = secrets.choice(_PORTS)
        if is_free(port):
            return port
    raise DatabaseUnavailableError(
        f"no free port was found between {_PORTS.start} and {_PORTS.stop - 1}"
    )
