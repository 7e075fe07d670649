"""PostgreSQL servers, copied from a template that is migrated once: a start takes half a second."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

import asyncpg

from meshhook import Database, create_queue
from meshhook.embedded.postmaster import free_port, running_postmaster
from meshhook.embedded.programs import HOST, Programs, give, unprivileged_account
from meshhook.schema import migrate
from support.skipping import skip

QUEUE = "chaos"
SETTINGS = {
    "max_connections": "80",
    "shared_buffers": "32MB",
    "max_wal_size": "256MB",
    "wal_keep_size": "64MB",
    "log_min_messages": "warning",
    "checkpoint_timeout": "60min",
}
FETCH_SECONDS = 300.0
"""For how long a statement of the tests may run: an hour of history takes a while to count."""
UNDISTURBED = {"statement_timeout": "0", "default_transaction_read_only": "off"}
"""What the tests' own sessions set, whatever is wrong with the server's settings."""
DEBIAN_PROGRAMS = Path("/usr/lib/postgresql")
"""Where Debian has a folder for each version: 15 on Debian 12."""

EFFECTS = "create table effects (run_id text not null, msg_id bigint, attempt int, pid int)"
_Value = TypeVar("_Value")


def run(work: Coroutine[Any, Any, _Value]) -> _Value:
    """Run something asynchronous to its end, also where a loop runs already; its loop waits."""
    result: list[_Value] = []
    failure: list[BaseException] = []

    def target() -> None:
        try:
            result.append(asyncio.run(work))
        except BaseException as error:  # noqa: BLE001 - raised again below
            failure.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]


def fetch(url: str, sql: str, *arguments: object) -> list[asyncpg.Record]:
    """Run a statement on a connection of its own, and return its rows."""

    async def go() -> list[asyncpg.Record]:
        connection = await asyncpg.connect(
            url, timeout=15, statement_cache_size=0, server_settings=UNDISTURBED
        )
        try:
            return list(await connection.fetch(sql, *arguments, timeout=FETCH_SECONDS))
        finally:
            await connection.close(timeout=5)

    return run(go())


def fetchval(url: str, sql: str, *arguments: object) -> Any:
    """Run a statement, and return the first column of its first row."""
    return fetch(url, sql, *arguments)[0][0]


def embedded_programs() -> Programs:
    """Return the programs of the embedded PostgreSQL, with the account that runs them."""
    return Programs.find(unprivileged_account() if os.geteuid() == 0 else None)


def debian_programs() -> Programs:
    """Return the programs of Debian's PostgreSQL; the test is skipped where they are missing."""
    versions = sorted(DEBIAN_PROGRAMS.glob("*/bin/postgres"))
    if not versions:
        skip("Debian's PostgreSQL is not installed (on Debian: apt-get install postgresql)")
    return Programs(versions[-1].parent, embedded_programs().account)


class Server:
    """A server on a port of 127.0.0.1 that trusts everybody, in a folder that may be thrown away.

    Attributes:
        home: the folder; `data` and `log` are in it.
        settings: used at each start.
    """

    def __init__(
        self, programs: Programs, home: Path, *, settings: Mapping[str, str] | None = None
    ) -> None:
        self._programs = programs
        self.home = home
        self.data = home / "data"
        self.log = home / "log"
        self.port = free_port()
        self.settings = {**SETTINGS, **(settings or {})}

    def __enter__(self) -> Self:
        """Start it."""
        return self.start()

    def __exit__(self, *_: object) -> None:
        """End it at once."""
        self.stop()

    def url(self, database: str = QUEUE, *, port: int | None = None) -> str:
        """Return the URL of a database, by default the one with the queue."""
        return f"postgresql://postgres@{HOST}:{port or self.port}/{database}"

    def initialise(self) -> None:
        """Make new data."""
        self._make_home()
        self._do(
            "initdb",
            f"--pgdata={self.data}",
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
            # So that a full disk is met soon.
            "--wal-segsize=1",
        )
        with (self.data / "postgresql.conf").open("a") as config:
            config.write("\ninclude_if_exists = 'chaos.conf'\n")

    def copy_from(self, data: Path) -> Self:
        """Take the data of a server that is stopped."""
        self._make_home()
        subprocess.run(["cp", "-a", str(data), str(self.data)], check=True)
        return self

    def follow(self, primary: Server) -> Self:
        """Be a streaming standby of `primary`, whose data it has as they were at its start."""
        (self.data / "standby.signal").touch()
        give(self._programs.account, self.data / "standby.signal")
        self.settings["primary_conninfo"] = f"host={HOST} port={primary.port} user=postgres"
        return self

    def back_up(self, to: Path) -> Path:
        """Copy the running server with pg_basebackup, and return the folder of the data."""
        home = Server(self._programs, to)
        home._make_home()
        wal = ("--wal-method=stream", "--checkpoint=fast")
        address = ("-h", HOST, "-p", str(self.port), "-U", "postgres")
        self._do("pg_basebackup", *address, f"--pgdata={home.data}", "--no-sync", *wal)
        return home.data

    def start(self, *, wait: bool = True) -> Self:
        """Start it; with `wait`, until it takes connections."""
        own = {"port": str(self.port), "listen_addresses": HOST, "unix_socket_directories": ""}
        lines = [f"{name} = '{value}'\n" for name, value in (self.settings | own).items()]
        config = self.data / "chaos.conf"
        config.write_text("".join(lines))
        give(self._programs.account, config)
        self._control("start", "-l", self.log, "-w" if wait else "-W", "-t", "60")
        return self

    def stop(self, mode: str = "immediate") -> None:
        """Stop it, if it runs: `immediate` as if it crashed, `fast` in order."""
        if self.is_running:
            self._control("stop", "-m", mode, "-w", "-t", "30")

    def restart(self, mode: str = "immediate") -> None:
        """Stop it and start it again."""
        self.stop(mode)
        self.start()

    def promote(self) -> None:
        """Make a primary of a standby."""
        self._control("promote", "-w", "-t", "30")

    @property
    def is_running(self) -> bool:
        """Whether its first process is there."""
        return running_postmaster(self.data) is not None

    def fetch(self, sql: str, *arguments: object) -> list[asyncpg.Record]:
        """Run a statement in the database of the queue."""
        return fetch(self.url(), sql, *arguments)

    def fetchval(self, sql: str, *arguments: object) -> Any:
        """Run a statement in the database of the queue, and return its first value."""
        return fetchval(self.url(), sql, *arguments)

    def set(self, name: str, value: str | None) -> None:
        """Set something for new and running sessions; None takes it back."""
        change = f"set {name} = '{value}'" if value is not None else f"reset {name}"
        fetch(self.url("postgres"), f"alter system {change}")
        fetch(self.url("postgres"), "select pg_reload_conf()")

    def empty(self) -> None:
        """Make the database of the queue anew, with nothing in it."""
        fetch(self.url("postgres"), f"drop database {QUEUE}")
        fetch(self.url("postgres"), f"create database {QUEUE}")

    def move_wal(self, folder: Path) -> None:
        """Keep the log in another folder, of another file system perhaps."""
        subprocess.run(["cp", "-a", str(self.data / "pg_wal"), str(folder)], check=True)
        shutil.rmtree(self.data / "pg_wal")
        (self.data / "pg_wal").symlink_to(folder / "pg_wal")

    def replace_data(self, data: Path) -> None:
        """Take other data, a backup for example; the server must be stopped."""
        shutil.rmtree(self.data)
        data.rename(self.data)

    def _make_home(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        self.log.touch()
        give(self._programs.account, self.home, self.log)

    def _control(self, command: str, *arguments: str | Path) -> None:
        self._do("pg_ctl", command, "-D", self.data, "-s", *arguments)

    def _do(self, program: str, *arguments: str | Path) -> None:
        code, output = self._programs.run(program, *arguments)
        if code:
            said = self.log.read_text(errors="replace")[-2_000:] if self.log.exists() else ""
            message = f"{program} {arguments[0]}: {output}\n{said}"
            raise RuntimeError(message)


MakeServer = Callable[..., Server]
"""Makes a server that runs; its arguments are settings of PostgreSQL."""


class ServerTemplate:
    """The data of a stopped server with a migrated database, an empty queue, and `effects`."""

    def __init__(self, programs: Programs, folder: Path) -> None:
        self._programs = programs
        self._made = Server(programs, folder / "template")
        self._folder = folder
        self._count = 0

    def make(self) -> Self:
        """Make the data."""
        self._made.initialise()
        with self._made:
            fetch(self._made.url("postgres"), f"create database {QUEUE}")
            run(prepare_database(self._made.url()))
            self._made.stop("fast")
        return self

    def server(
        self, *, folder: Path | None = None, settings: Mapping[str, str] | None = None
    ) -> Server:
        """Return a copy that is not started, by default in the folder of the template."""
        self._count += 1
        home = (folder or self._folder) / f"server-{self._count}"
        return Server(self._programs, home, settings=settings).copy_from(self._made.data)

    @contextlib.contextmanager
    def pair(self, *, is_synchronous: bool = True) -> Iterator[tuple[Server, Server]]:
        """Run a primary, and a standby that streams from it."""
        primary, standby = self.server(), self.server()
        try:
            primary.start()
            standby.follow(primary).start()
            if is_synchronous:
                primary.set("synchronous_standby_names", "*")
            yield primary, standby
        finally:
            self.remove(standby)
            self.remove(primary)

    def remove(self, server: Server) -> None:
        """Stop a copy, and delete it."""
        server.stop()
        shutil.rmtree(server.home, ignore_errors=True)


async def prepare_database(url: str) -> None:
    """Migrate a database, and make the queue and the table `effects`."""
    connection = await asyncpg.connect(url)
    try:
        await migrate(connection)
        await create_queue(Database(connection), QUEUE)
        await connection.execute(EFFECTS)
    finally:
        await connection.close()
