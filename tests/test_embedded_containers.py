"""The embedded PostgreSQL on a directory that several containers share."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest

from meshhook.embedded import EmbeddedPostgres, NetworkPostgres, postmaster, server_lock
from meshhook.embedded.programs import Account, write_as
from meshhook.errors import DatabaseUnavailableError
from support.databases import server_directory
from support.skipping import skip

REFUSED = "a PostgreSQL runs on the data in .* that cannot be seen from here"
START = """
import sys
from pathlib import Path
from meshhook.embedded import EmbeddedPostgres
print(EmbeddedPostgres(Path(sys.argv[1])).start(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory for a server, which is stopped at the end."""
    with server_directory(in_memory=True) as parent:
        yield parent / "postgres"
        EmbeddedPostgres(parent / "postgres").stop()


@pytest.fixture
def _orphans_end_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_lock, "ORPHAN_SECONDS", 0.0)


@contextmanager
def container(directory: Path) -> Iterator[str]:
    """Run a server in a process namespace of its own, and yield its URL; all end together."""
    if os.getuid() != 0 or shutil.which("unshare") is None:
        skip("only root makes a namespace of processes, with unshare of util-linux")
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    with subprocess.Popen(
        [*command, sys.executable, "-c", START, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.send_signal(signal.SIGKILL)


@pytest.mark.usefixtures("_orphans_end_at_once")
async def test_a_second_container_is_refused(directory: Path):
    """Its own process numbers say nothing of the first one, whose server and data stay."""
    with container(directory) as url:
        connection = await asyncpg.connect(url)
        await connection.execute("create table kept ()")
        with pytest.raises(DatabaseUnavailableError, match=REFUSED) as raised:
            EmbeddedPostgres(directory).start()
        assert str(directory) in str(raised.value)
        with pytest.raises(DatabaseUnavailableError, match=REFUSED):
            NetworkPostgres(directory, password="long enough").prepare()
        assert (directory / "data" / "postmaster.pid").exists()
        assert await connection.fetchval("select count(*) from kept") == 0
        await connection.close()


async def test_the_lock_goes_with_the_container(directory: Path):
    """However it ended: the next server starts, with the data."""
    with container(directory) as url:
        connection = await asyncpg.connect(url)
        await connection.execute("create table kept ()")
        await connection.close()
    connection = await asyncpg.connect(EmbeddedPostgres(directory).start())
    assert await connection.fetchval("select count(*) from kept") == 0
    await connection.close()


@pytest.mark.usefixtures("_orphans_end_at_once")
def test_a_server_that_cannot_be_seen_is_not_started_again(
    directory: Path, monkeypatch: pytest.MonkeyPatch
):
    """As with a number in postmaster.pid that means nothing here."""
    server = EmbeddedPostgres(directory)
    server.start()
    pid = server.pid
    with monkeypatch.context() as patched:
        patched.setattr(postmaster, "_has_in_command", lambda *_: False)
        with pytest.raises(DatabaseUnavailableError, match=REFUSED):
            EmbeddedPostgres(directory).start()
    assert server.pid == pid


def test_root_writes_through_no_link_of_the_unprivileged_account(tmp_path: Path):
    """What a link leads to stays as it was, and the file is replaced."""
    target = tmp_path / "target"
    target.write_text("precious")
    (tmp_path / "meshhook.conf").symlink_to(target)
    write_as(Account(os.getuid(), os.getgid()), tmp_path / "meshhook.conf", "ours")
    assert target.read_text() == "precious"
    assert (tmp_path / "meshhook.conf").read_text() == "ours"
    assert not (tmp_path / "meshhook.conf").is_symlink()
