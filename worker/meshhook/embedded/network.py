"""The embedded PostgreSQL served to other machines: in a pod, for trying things out."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from urllib.parse import quote, urlsplit

from meshhook.embedded.home import account_for
from meshhook.embedded.programs import Programs, translated_os_errors, write_as
from meshhook.embedded.server import DATABASE, EmbeddedPostgres
from meshhook.embedded.server_lock import server_lock
from meshhook.errors import DatabaseUnavailableError, InvalidSettingError

ROLE = "meshhook"
"""The role that the network may log in as. It owns the database, and is no superuser."""

_MIN_PASSWORD_CHARACTERS = 8
# psql's own quoting (:'password') keeps the password from being read as SQL.
_CREATE_ROLE = r"""
set log_statement = 'none';
set log_min_error_statement = 'panic';
select 'create role meshhook' where not exists (select from pg_catalog.pg_roles
where rolname = 'meshhook')
\gexec
alter role meshhook with login nosuperuser password :'password';
alter database meshhook owner to meshhook;
"""


class NetworkPostgres:
    """An embedded PostgreSQL that others may connect to, in the foreground.

    First `prepare` sets it up where no other machine can reach it; then `run` opens its port to
    the network. A client that finds the port open therefore finds a database that is ready.

    Only the role `meshhook` and the roles in `others` may log in from the network, with their
    passwords, to the database `meshhook`. There is no TLS and no backup: it is for trying things
    out.

    Args:
        directory: where the data live; made if missing.
        password: of the role `meshhook`, at least 8 characters; set anew at each `prepare`.
        port: the port to listen on. Default 5432.
        host: the address to listen on; `*` for all. Default `*`.
        settings: PostgreSQL settings by name, for example `{"shared_buffers": "256MB"}`.
        others: further roles that may log in from the network. The caller creates them between
            `prepare` and `run`, at `admin_url`. Default: none.

    Raises:
        InvalidSettingError: for a port outside 1 to 65535, a password that is too short or not
            printable, or a setting that is not one.
    """

    def __init__(
        self,
        directory: Path,
        *,
        password: str,
        port: int = 5432,
        host: str = "*",
        settings: Mapping[str, str] | None = None,
        others: Sequence[str] = (),
    ) -> None:
        if len(password) < _MIN_PASSWORD_CHARACTERS or not password.isprintable():
            raise InvalidSettingError(
                f"password: at least {_MIN_PASSWORD_CHARACTERS} printable characters, "
                f"got {len(password)} characters"
            )
        self._password = password
        self._host = host
        self._roles = (ROLE, *others)
        self._server = EmbeddedPostgres(directory, port=port, settings=settings)

    @property
    def url(self) -> str:
        """The URL of the database for the role `meshhook`, at 127.0.0.1, with the password."""
        place = urlsplit(self._server.url())
        secret = quote(self._password, safe="")
        return f"postgresql://{ROLE}:{secret}@{place.hostname}:{place.port}/{DATABASE}"

    @property
    def admin_url(self) -> str:
        """The URL of the database for the superuser, at 127.0.0.1, with the password.

        From the network the superuser may not log in.
        """
        return self._server.url()

    def prepare(self) -> str:
        """Start the server on 127.0.0.1 only, set the role's password, and return its URL.

        Raises:
            DatabaseUnavailableError: if the wheel is missing, or the server does not start.
        """
        home = self._server.home
        with translated_os_errors():
            if (home / "data").exists():
                # Kubernetes opens the files of a volume to its group at each mount, and PostgreSQL
                # refuses a data directory that others may write to.
                (home / "data").chmod(0o700)
        admin = urlsplit(self._server.start())
        programs = Programs.find(account_for(home))
        literal = self._password.replace("\\", "\\\\").replace("'", "\\'")
        script = f"\\set password '{literal}'\n{_CREATE_ROLE}"
        code, output = programs.psql(admin.port or 0, admin.password or "", script)
        if code:
            raise DatabaseUnavailableError(
                f"the embedded PostgreSQL in {home} runs, but its role {ROLE} cannot be made: "
                f"{output}"
            )
        return self.url

    def stop(self) -> None:
        """Stop the server that `prepare` started, if it runs; open connections are cut.

        Raises:
            DatabaseUnavailableError: if it does not stop.
        """
        self._server.stop()

    def run(self) -> int:
        """Serve the network until SIGTERM, SIGINT or SIGHUP, and return the server's exit code.

        It stops quickly: connections are cut, and open transactions are rolled back. The server's
        log goes to standard error. Call it from the main thread.

        Raises:
            DatabaseUnavailableError: if the server cannot be run.
        """
        stopping = False
        process: subprocess.Popen[bytes] | None = None

        def stop(_number: int, _frame: FrameType | None) -> None:
            nonlocal stopping
            stopping = True
            if process is not None:
                process.send_signal(signal.SIGINT)  # PostgreSQL's fast shutdown

        numbers = [signal.SIGTERM, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            # PostgreSQL takes it for a wish to read its settings, and would go on alone.
            numbers.append(signal.SIGHUP)
        before = {number: signal.signal(number, stop) for number in numbers}
        try:
            self._server.stop()
            command, programs = self._command()
            account = programs.account
            with server_lock(self._server.home) as lock:
                try:
                    process = subprocess.Popen(
                        command,
                        cwd="/",
                        pass_fds=[lock],
                        user=account.uid if account else None,
                        group=account.gid if account else None,
                        extra_groups=[] if account else None,
                    )
                except OSError as error:
                    raise DatabaseUnavailableError(
                        f"the embedded PostgreSQL: {command[0]} cannot be run: {error}"
                    ) from error
            if stopping:  # the signal came before there was a process to pass it on to
                process.send_signal(signal.SIGINT)
            code = process.wait()
            # A server that was only starting has no handler yet, and the signal itself ends it.
            return 0 if stopping and code == -signal.SIGINT else code
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _command(self) -> tuple[list[str | Path], Programs]:
        home = self._server.home
        programs = Programs.find(account_for(home))
        rules = home / "data" / "network_hba.conf"
        with translated_os_errors():
            write_as(
                programs.account,
                rules,
                "# Written at each start.\n"
                + "".join(f'host {DATABASE} "{role}" all scram-sha-256\n' for role in self._roles)
                + "host all postgres 127.0.0.1/32 scram-sha-256\n",
            )
        options = {"listen_addresses": self._host, "hba_file": str(rules)}
        command: list[str | Path] = [programs.directory / "postgres", "-D", home / "data"]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        return command, programs
