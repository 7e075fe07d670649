"""The embedded PostgreSQL served to a network: who may come in, and how it starts and stops."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from meshhook import create_queue
from meshhook.embedded import EmbeddedPostgres, NetworkPostgres
from meshhook.embedded.postmaster import free_port
from meshhook.errors import InvalidSettingError
from meshhook.postgres.database import Database
from meshhook.roles import check_role
from support.databases import server_directory
from support.waiting import eventually

PASSWORD = "it's a \\ pass:word %2F @x"


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory for a server, which is stopped at the end."""
    with server_directory(in_memory=True) as parent:
        yield parent / "postgres"
        EmbeddedPostgres(parent / "postgres").stop()


class Served:
    """A `meshhook serve-postgres` of its own."""

    def __init__(
        self, directory: Path, port: int, password: str = PASSWORD, **passwords: str
    ) -> None:
        self.port = port
        self.log = directory.with_name(f"{port}.log")
        options = ["--port", str(port), "--host", "127.0.0.1", "--set", "max_connections=17"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "meshhook", "serve-postgres", str(directory), *options],
                env=os.environ | {"MESHHOOK_POSTGRES_PASSWORD": password} | passwords,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    async def connect(
        self, *, user: str = "meshhook", password: str = PASSWORD, database: str = "meshhook"
    ) -> asyncpg.Connection[asyncpg.Record]:
        """Connect as others would, once its port is open to the network."""
        await eventually(lambda: "opens port" in self.log.read_text(), timeout=60)
        await eventually(self._accepts, timeout=60)
        return await asyncpg.connect(
            host="127.0.0.1",
            port=self.port,
            user=user,
            database=database,
            password=password,
        )

    def _accepts(self) -> bool:
        # Before, the same port belongs to the server that is being made ready; it has stopped when
        # the one for the network logs that it listens.
        return self.log.read_text().count("database system is ready to accept connections") > 0

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it, by default as Kubernetes would, and return its exit code."""
        self.process.send_signal(number)
        return self.process.wait(60)


@pytest.fixture
def served(directory: Path) -> Iterator[Served]:
    """A served database."""
    served = Served(directory, free_port())
    yield served
    if served.process.poll() is None:
        served.end()


async def test_others_find_a_migrated_database(served):
    """The role meshhook finds the schema in place, and may make queues; it is no superuser."""
    connection = await served.connect()
    assert await connection.fetchval("select count(*) from meshhook.queue_config") == 0
    await connection.execute("select pgmq.create('orders')")
    assert not await connection.fetchval("select usesuper from pg_user where usename = user")
    assert await connection.fetchval("show max_connections") == "17"
    await connection.close()


async def test_only_the_role_with_its_password_gets_in(served):
    """A wrong password and another database are refused."""
    with pytest.raises(asyncpg.InvalidPasswordError):
        await served.connect(password="wrong")
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
        await served.connect(database="postgres")


KINDS = ("operator", "worker", "oncall", "reader")
"""The kinds that the server makes a role of if it is given a password."""


async def test_each_kind_gets_a_role_of_least_privilege(directory):
    """Each has a password of its own, what its kind takes, and no more; the superuser stays out."""
    of = {f"MESHHOOK_POSTGRES_{kind.upper()}_PASSWORD": f"{kind}'s own \\ secret" for kind in KINDS}
    served = Served(directory, free_port(), **of)
    roles = {}
    for kind in KINDS:
        roles[kind] = await served.connect(
            user=f"meshhook_{kind}", password=f"{kind}'s own \\ secret"
        )
        check = await check_role(Database(roles[kind]))
        assert (check.lacks, check.beyond) == ((), ())
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await roles["worker"].execute("select pgmq.create('orders')")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await roles["reader"].execute("delete from meshhook.queue_config")
    await create_queue(Database(roles["operator"]), "orders")
    await roles["worker"].execute("delete from pgmq.q_orders")
    owner = await served.connect()
    await owner.execute("select pgmq.send('orders', '{}'); select pgmq.drop_queue('orders')")
    await owner.close()
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
        await served.connect(user="postgres")
    for connection in roles.values():
        await connection.close()
    assert served.end() == 0

    second = Served(directory, served.port, MESHHOOK_POSTGRES_WORKER_PASSWORD="another secret")
    await (await second.connect(user="meshhook_worker", password="another secret")).close()
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
        await second.connect(user="meshhook_operator", password="operator's own \\ secret")
    assert second.end() == 0


async def test_sigterm_ends_it_at_once_with_connections_open(served):
    """SIGTERM cuts connections instead of waiting for them, and the exit code is 0."""
    connection = await served.connect()
    assert served.end() == 0
    await eventually(connection.is_closed)


async def test_a_terminal_that_goes_away_ends_it(served, directory):
    """SIGHUP is as SIGTERM: no server goes on behind the program's back."""
    connection = await served.connect()
    assert served.end(signal.SIGHUP) == 0
    await eventually(connection.is_closed)
    assert EmbeddedPostgres(directory).pid is None


async def test_sigterm_while_it_starts_leaves_nothing_running(directory):
    """Ended before it was ready, it leaves no server behind."""
    served = Served(directory, free_port())
    await eventually((directory / "data").exists, timeout=60)
    served.end()
    assert EmbeddedPostgres(directory).pid is None


async def test_sigterm_before_the_server_listens_is_no_failure(directory):
    """The signal ends a server that has no handler for it yet, and the exit code is 0."""
    served = Served(directory, free_port())
    await eventually(lambda: "opens port" in served.log.read_text(), timeout=60)
    assert served.end() == 0
    assert EmbeddedPostgres(directory).pid is None


async def test_a_server_that_ends_by_itself_is_an_error(served, directory):
    """The exit code is 1, and the last line says that nobody had asked for it."""
    connection = await served.connect()
    pid = EmbeddedPostgres(directory).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await eventually(connection.is_closed)
    assert served.process.wait(60) == 1
    assert "error: PostgreSQL was killed by signal 9" in served.log.read_text()


async def test_data_and_a_new_password_survive_a_restart(directory):
    """What was stored is there after a kill, and the password is the newest."""
    first = Served(directory, free_port())
    connection = await first.connect()
    await connection.execute("create table kept (n int); insert into kept values (7)")
    os.kill(EmbeddedPostgres(directory).pid or 0, signal.SIGKILL)
    assert first.process.wait(60) == 1

    second = Served(directory, first.port, password="another password")
    connection = await second.connect(password="another password")
    assert await connection.fetchval("select n from kept") == 7
    await connection.close()
    assert second.end() == 0


async def test_a_directory_that_a_volume_opened_to_its_group_is_closed_again(directory):
    """Kubernetes makes a volume's files writable for its group; the server starts all the same."""
    server = NetworkPostgres(directory, password=PASSWORD, port=free_port())
    server.prepare()
    server.stop()
    (directory / "data").chmod(0o2770)
    url = server.prepare()
    connection = await asyncpg.connect(url)
    assert await connection.fetchval("select user") == "meshhook"
    await connection.close()
    assert urlsplit(url).hostname == "127.0.0.1"


@pytest.mark.parametrize("password", ["short", "with a\nline break"])
def test_a_weak_password_is_refused(directory, password):
    """A password must have eight printable characters; the message does not show it."""
    with pytest.raises(InvalidSettingError, match=r"at least 8") as refused:
        NetworkPostgres(directory, password=password)
    assert password not in str(refused.value)
