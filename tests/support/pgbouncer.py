"""A real PgBouncer in transaction mode, on a port of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from meshhook.embedded.postmaster import free_port
from support.skipping import skip

# Debian installs it where only root looks.
_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
_START_SECONDS = 20


class PgBouncer:
    """A pooler in front of the server that a URL names."""

    def __init__(self, folder: Path, server_url: str, *, pool_size: int) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        parts = urlsplit(server_url)
        self.port = free_port()
        self._config = folder / "pgbouncer.ini"
        self._config.write_text(
            "[databases]\n"
            f"* = host={parts.hostname} port={parts.port} user={parts.username} "
            f"password={parts.password or ''}\n"
            "[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {self.port}\nunix_socket_dir =\n"
            f"auth_type = any\npool_mode = transaction\ndefault_pool_size = {pool_size}\n"
            "max_client_conn = 200\nquery_wait_timeout = 60\nserver_login_retry = 1\n"
        )
        self._config.chmod(0o644)

    def url(self, server_url: str) -> str:
        """Return the URL of the same database through the pooler."""
        return f"postgresql://anybody@127.0.0.1:{self.port}/{server_url.rpartition('/')[2]}"

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        program = shutil.which("pgbouncer", path=_PATH)
        assert program is not None
        # It refuses to run as root.
        account = ["-u", "nobody"] if os.geteuid() == 0 else []
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [program, "--quiet", *account, str(self._config)], stdout=log, stderr=log
            )
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                ended = self._process.poll() is not None
                if ended or time.monotonic() > deadline:
                    pytest.fail(f"pgbouncer: {(self._folder / 'log').read_text()}")
                time.sleep(0.02)
            else:
                return

    def stop(self) -> None:
        """End it at once, with all its connections."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def pgbouncer(folder: Path, server_url: str, *, pool_size: int) -> Iterator[PgBouncer]:
    """Run PgBouncer while the block runs; the test is skipped where it is not installed."""
    if shutil.which("pgbouncer", path=_PATH) is None:
        skip("PgBouncer is not installed (on Debian: apt-get install pgbouncer)")
    pooler = PgBouncer(folder, server_url, pool_size=pool_size)
    pooler.start()
    try:
        yield pooler
    finally:
        pooler.stop()
