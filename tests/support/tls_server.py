"""A real PostgreSQL with TLS, whose certificates are changed while it runs."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import asyncpg
import trustme

from meshhook.embedded.postmaster import free_port
from meshhook.embedded.programs import HOST, Account, Programs, give, unprivileged_account
from meshhook.schema import migrate
from support.databases import TEST_SETTINGS, server_directory
from support.skipping import skip
from support.waiting import eventually

DATABASE = "meshhook"
"""The template of all other databases."""

PASSWORD = "tls-p4ss"
CERTIFIED = "certified"
"""The role that logs in by its certificate."""


class TlsServer:
    """PostgreSQL as Debian packages it; the embedded one is built without TLS."""

    def __init__(self, folder: Path, programs: Programs) -> None:
        self._data = folder / "data"
        self._programs = programs
        self.port = free_port()

    def url(self, database: str, query: str = "", *, login: str = f"postgres:{PASSWORD}") -> str:
        """Return the URL of a database."""
        return f"postgresql://{login}@{HOST}:{self.port}/{database}" + (query and f"?{query}")

    async def start(self, leaf: trustme.LeafCert, clients: trustme.CA) -> None:
        """Make it, start it with a certificate, and migrate a database to clone."""
        password_file = self._data.parent / "password"
        password_file.write_text(PASSWORD)
        self._give(password_file)
        self._run(
            "initdb",
            f"--pgdata={self._data}",
            "--username=postgres",
            f"--pwfile={password_file}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
        )
        settings = TEST_SETTINGS | {
            "ssl": "on",
            "ssl_cert_file": "server.crt",
            "ssl_key_file": "server.key",
            "ssl_ca_file": "clients.crt",
            "listen_addresses": HOST,
            "port": str(self.port),
            "unix_socket_directories": "",
            "shared_buffers": "32MB",
        }
        lines = [f"{name} = '{value}'" for name, value in settings.items()]
        (self._data / "postgresql.auto.conf").write_text("\n".join(lines) + "\n")
        (self._data / "pg_hba.conf").write_text(
            f"hostssl all {CERTIFIED} {HOST}/32 cert\nhost all all {HOST}/32 scram-sha-256\n"
        )
        self.set_certificate(leaf)
        self.set_authority_of_clients(clients)
        log = self._data.parent / "log"
        log.touch()
        self._give(log)
        self._run("pg_ctl", "start", "-D", self._data, "-l", log, "-w", "-s")
        admin = await self.connect()
        await admin.execute(f"create database {DATABASE}")
        await admin.execute(f"create role {CERTIFIED} superuser login")
        await admin.close()
        connection = await self.connect(DATABASE)
        await migrate(connection)
        await connection.close()

    async def connect(self, database: str = "postgres") -> asyncpg.Connection[asyncpg.Record]:
        """Connect without TLS, whatever has become of the certificates."""
        return await asyncpg.connect(
            host=HOST,
            port=self.port,
            user="postgres",
            password=PASSWORD,
            database=database,
            ssl=False,
        )

    def set_certificate(self, leaf: trustme.LeafCert) -> None:
        """Write the server's certificate and key."""
        self._write("server.crt", b"".join(pem.bytes() for pem in leaf.cert_chain_pems))
        self._write("server.key", leaf.private_key_pem.bytes())

    def set_authority_of_clients(self, authority: trustme.CA) -> None:
        """Write the authority that clients' certificates must come from."""
        self._write("clients.crt", authority.cert_pem.bytes())

    async def create_database(self) -> str:
        """Create a migrated database, and return its name."""
        name = f"test_{secrets.token_hex(8)}"
        connection = await self.connect("postgres")
        try:
            await connection.execute(f"create database {name} template {DATABASE}")
        finally:
            await connection.close()
        return name

    async def reload(self) -> None:
        """Have it read its files again, and cut the connections that others had before."""
        connection = await self.connect()
        try:
            before = await connection.fetchval("select pg_conf_load_time()")
            await connection.execute("select pg_reload_conf()")
            await eventually(lambda: self._has_loaded_since(before))
            await connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where backend_type = 'client backend' and pid <> pg_backend_pid()"
            )
        finally:
            await connection.close()

    async def _has_loaded_since(self, before: datetime) -> bool:
        # A session that is new has what the server has at its begin.
        connection = await self.connect()
        try:
            return bool(await connection.fetchval("select pg_conf_load_time() > $1", before))
        finally:
            await connection.close()

    def stop(self) -> None:
        """Stop it."""
        self._programs.run("pg_ctl", "stop", "-D", self._data, "-m", "immediate", "-w", "-s")

    def _write(self, name: str, content: bytes) -> None:
        file = self._data / f"{name}.new"
        file.write_bytes(content)
        file.chmod(0o600)
        self._give(file)
        file.rename(self._data / name)

    def _give(self, file: Path) -> None:
        give(self._programs.account, file)

    def _run(self, program: str, *arguments: str | Path) -> None:
        code, output = self._programs.run(program, *arguments)
        assert code == 0, output


@contextmanager
def tls_server() -> Iterator[TlsServer]:
    """Yield a server that is not made yet; the test is skipped where there is none with TLS."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    program = str(found[-1]) if found else shutil.which("postgres")
    if program is None:
        skip("PostgreSQL with TLS is not installed (on Debian: apt-get install postgresql)")
    account: Account | None = unprivileged_account() if os.geteuid() == 0 else None
    with server_directory(in_memory=True) as folder:
        if account is not None:
            os.chown(folder, account.uid, account.gid)
        server = TlsServer(folder, Programs(Path(program).parent, account))
        try:
            yield server
        finally:
            server.stop()
