"""TLS on a real server: what each mode proves, and certificates that go bad while programs run."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from prometheus_client import CollectorRegistry

from meshhook import Job, QueueService
from meshhook.errors import DatabaseError, DatabaseUnavailableError
from meshhook.postgres.connecting import connect
from meshhook.postgres.database import Database
from meshhook_operator.databases.database import DatabaseAddress, QueueDatabase
from meshhook_operator.problems import problem_of
from support.tls_server import CERTIFIED, TlsServer, tls_server
from support.waiting import eventually
from support.workers import TESTS, make_worker, outcomes

EXPIRED = datetime.now(UTC) - timedelta(days=1)
HOST = "127.0.0.1"


class Place(NamedTuple):
    """A database behind TLS, and whose certificates count."""

    server: TlsServer
    database: str
    authority: trustme.CA
    roots: Path
    """The file of its certificate, which clients trust."""

    def url(self, sslmode: str = "verify-full") -> str:
        """Return the URL that verifies the server."""
        return self.server.url(self.database, f"sslmode={sslmode}&sslrootcert={self.roots}")

    async def spoil(self, fault: str) -> None:
        """Give the server a certificate that is not good, and cut what is connected."""
        leaf = {
            "expired": lambda: self.authority.issue_cert(HOST, not_after=EXPIRED),
            "other name": lambda: self.authority.issue_cert("db.example"),
            "other authority": lambda: trustme.CA().issue_cert(HOST),
        }[fault]()
        self.server.set_certificate(leaf)
        await self.server.reload()

    async def mend(self) -> None:
        """Give the server a good certificate again."""
        self.server.set_certificate(self.authority.issue_cert(HOST))
        await self.server.reload()


FAULTS = {
    "expired": "certificate has expired",
    "other name": "not valid for '127.0.0.1'",
    "other authority": "certificate verify failed",
}
"""What is wrong with a certificate, and what the reason says."""


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """The authority of servers and clients."""
    return trustme.CA()


@pytest.fixture(scope="module")
def server(authority: trustme.CA) -> Iterator[TlsServer]:
    """A server that runs."""
    with tls_server() as found:
        asyncio.run(found.start(authority.issue_cert(HOST), authority))
        yield found


@pytest.fixture
async def place(server: TlsServer, authority: trustme.CA, tmp_path: Path) -> AsyncIterator[Place]:
    """A database with a queue `jobs`."""
    roots = tmp_path / "roots.pem"
    authority.cert_pem.write_to_path(str(roots))
    place = Place(server, await server.create_database(), authority, roots)
    connection = await server.connect(place.database)
    await connection.execute("select meshhook.create_queue('jobs')")
    await connection.close()
    yield place
    server.set_authority_of_clients(authority)
    await place.mend()


class Beside:
    """Statements without TLS, each on a connection of its own: the server cuts what it had."""

    def __init__(self, place: Place) -> None:
        self._place = place

    async def fetch(self, sql: str, *arguments: object) -> list[asyncpg.Record]:
        """Return the rows of a statement."""
        connection = await self._place.server.connect(self._place.database)
        try:
            return list(await connection.fetch(sql, *arguments))
        finally:
            await connection.close()

    async def fetchval(self, sql: str, *arguments: object) -> Any:
        """Return the first value of a statement."""
        return (await self.fetch(sql, *arguments))[0][0]


@pytest.fixture
def beside(place: Place) -> Any:
    """Statements on the same database."""
    return Beside(place)


async def enqueue(beside: Any) -> int:
    """Put a job into the queue."""
    return int(await beside.fetchval("select pgmq.send('jobs', '{}')"))


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_worker_waits_for_a_good_certificate(place: Place, beside: Any, fault: str) -> None:
    """It stays alive, says why it is not ready, and records what ended meanwhile, once."""
    runs: list[int] = []
    go_on = asyncio.Event()

    async def handler(job: Job[Any]) -> None:
        runs.append(job.msg_id)
        await go_on.wait()

    msg_id = await enqueue(beside)
    worker = make_worker(place.url(), handler)
    await worker.start()
    try:
        await eventually(lambda: runs)
        await place.spoil(fault)
        go_on.set()
        await eventually(
            lambda: any(FAULTS[fault] in (each.fault or "") for each in worker.readiness())
        )
        assert [each for each in worker.liveness() if each.fault] == []
        assert await beside.fetchval("select count(*) from meshhook.job_attempts") == 0
        await place.mend()
        await eventually(lambda: outcomes(beside, msg_id))
        await eventually(lambda: not any(each.fault for each in worker.readiness()))
    finally:
        await worker.stop()
    assert await outcomes(beside, msg_id) == [("succeeded", 1)]
    assert runs == [msg_id]


async def test_a_worker_takes_a_new_authority_from_its_file(place: Place, beside: Any) -> None:
    """`sslrootcert` is read at each connect: who rotates it restarts nothing."""
    done: list[int] = []

    async def handler(job: Job[Any]) -> None:
        done.append(job.msg_id)

    worker = make_worker(place.url(), handler)
    await worker.start()
    try:
        new = trustme.CA()
        place.server.set_certificate(new.issue_cert(HOST))
        await place.server.reload()
        await eventually(lambda: any(each.fault for each in worker.readiness()))
        place.roots.write_bytes(b"half of a fi")
        no_certificate = "no certificate or crl found"
        await eventually(
            lambda: any(no_certificate in (each.fault or "") for each in worker.readiness())
        )
        new.cert_pem.write_to_path(str(place.roots))
        msg_id = await enqueue(beside)
        await eventually(lambda: msg_id in done)
    finally:
        await worker.stop()
        place.authority.cert_pem.write_to_path(str(place.roots))


async def test_a_clients_certificate_is_rotated(place: Place, beside: Any, tmp_path: Path) -> None:
    """Certificate and key are read at each connect, too."""
    certificate, key = tmp_path / "client.crt", tmp_path / "client.key"

    def write(authority: trustme.CA) -> None:
        leaf = authority.issue_cert("client.example", common_name=CERTIFIED)
        certificate.write_bytes(leaf.cert_chain_pems[0].bytes())
        key.touch(mode=0o600)
        key.write_bytes(leaf.private_key_pem.bytes())

    write(place.authority)
    done: list[int] = []

    async def handler(job: Job[Any]) -> None:
        done.append(job.msg_id)

    query = f"sslmode=verify-full&sslrootcert={place.roots}&sslcert={certificate}&sslkey={key}"
    worker = make_worker(place.server.url(place.database, query, login=CERTIFIED), handler)
    await worker.start()
    try:
        new = trustme.CA()
        place.server.set_authority_of_clients(new)
        await place.server.reload()
        await eventually(lambda: any(each.fault for each in worker.readiness()))
        assert [each for each in worker.liveness() if each.fault] == []
        write(new)
        msg_id = await enqueue(beside)
        await eventually(lambda: msg_id in done)
    finally:
        await worker.stop()


async def test_a_key_that_others_can_read_is_refused(place: Place, tmp_path: Path) -> None:
    """As libpq refuses it; the error names the file and the mode that it must have."""
    leaf = place.authority.issue_cert("client.example", common_name=CERTIFIED)
    certificate, key = tmp_path / "client.crt", tmp_path / "client.key"
    certificate.write_bytes(leaf.cert_chain_pems[0].bytes())
    key.write_bytes(leaf.private_key_pem.bytes())
    query = f"sslmode=verify-full&sslrootcert={place.roots}&sslcert={certificate}&sslkey={key}"
    url = place.server.url(place.database, query, login=CERTIFIED)
    for mode in (0o644, 0o660, 0o604):
        key.chmod(mode)
        with pytest.raises(DatabaseUnavailableError, match=r"client\.key.*0600 or less"):
            await connect(url)
    key.chmod(0o600)
    await (await connect(url)).close()


async def test_a_file_that_is_not_there_is_named(place: Place) -> None:
    """The driver would say that there is no such file, and not which."""
    url = place.server.url(place.database, "sslmode=verify-full&sslrootcert=/no/such.pem")
    with pytest.raises(DatabaseUnavailableError, match=r"/no/such\.pem' \(sslrootcert\)"):
        await connect(url)


async def test_a_producer_and_the_operator_say_the_reason(place: Place) -> None:
    """What was connected before takes the new certificate, or says what is wrong with it."""
    database = await Database.connect(place.url())
    seen = QueueDatabase(
        DatabaseAddress(place.url(), pooled=False),
        on_wake=lambda _: None,
        on_identity=lambda: None,
        registry=CollectorRegistry(),
    )
    queue = QueueService[Any](database, "jobs")
    try:
        await queue.enqueue({})
        await seen.ensure_queue("jobs", {})
        await place.spoil("expired")
        with pytest.raises(DatabaseError):
            await queue.enqueue({})  # on a connection that the server has cut
        with pytest.raises(DatabaseUnavailableError, match="certificate has expired"):
            await queue.enqueue({})

        async def reason() -> bool:
            try:
                await seen.ensure_queue("jobs", {})
            except DatabaseError as error:
                found = problem_of(error)
                return found.reason == "SourceUnavailable" and "has expired" in found.message
            return False

        await eventually(reason)
        await place.mend()
        await eventually(lambda: works(queue.enqueue({})))
        await eventually(lambda: works(seen.ensure_queue("jobs", {})))
    finally:
        await seen.close()
        await database.close()


async def works(coroutine: Any) -> bool:
    """Whether it raises nothing of the database."""
    try:
        await coroutine
    except DatabaseError:
        return False
    return True


@pytest.mark.parametrize(
    ("sslmode", "fault", "comes_to"),
    [
        ("disable", None, "clear"),
        ("allow", None, "clear"),
        ("prefer", None, "encrypted"),
        ("require", None, "encrypted"),
        ("require", "other authority", "encrypted"),
        ("verify-ca", None, "encrypted"),
        ("verify-ca", "other name", "encrypted"),
        ("verify-ca", "other authority", "refused"),
        ("verify-full", None, "encrypted"),
        ("verify-full", "other name", "refused"),
        ("verify-full", "expired", "refused"),
    ],
)
async def test_what_each_mode_comes_to(
    place: Place, sslmode: str, fault: str | None, comes_to: str
) -> None:
    """Only the last one proves that it is the right server; those below `require` prove nothing."""
    if fault is not None:
        await place.spoil(fault)
    roots = f"&sslrootcert={place.roots}" if sslmode.startswith("verify") else ""
    url = place.server.url(place.database, f"sslmode={sslmode}{roots}")
    if comes_to == "refused":
        with pytest.raises(DatabaseUnavailableError, match="certificate verify failed"):
            await connect(url)
        return
    connection = await connect(url)
    sql = "select ssl from pg_stat_ssl where pid = pg_backend_pid()"
    assert await connection.fetchval(sql) is (comes_to == "encrypted")
    await connection.close()


@pytest.mark.parametrize("trusts", ["a file", "the system's"])
async def test_a_revoked_certificate_is_refused(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trusts: str
) -> None:
    """`sslcrl` counts with each authority."""
    revoked = tmp_path / "revoked.pem"
    query = f"sslmode=verify-full&sslcrl={revoked}&sslrootcert="
    if trusts == "a file":
        query += str(place.roots)
    else:
        monkeypatch.setenv("SSL_CERT_FILE", str(place.roots))
        query += "system"
    leaf = place.authority.issue_cert(HOST)
    place.server.set_certificate(leaf)
    await place.server.reload()
    revoked.write_bytes(revocations(place.authority, []))
    await (await connect(place.server.url(place.database, query))).close()
    revoked.write_bytes(revocations(place.authority, [leaf]))
    with pytest.raises(DatabaseUnavailableError, match="certificate revoked"):
        await connect(place.server.url(place.database, query))


def revocations(authority: trustme.CA, leaves: list[trustme.LeafCert]) -> bytes:
    """Return a list of certificates that an authority has revoked."""
    issuer = x509.load_pem_x509_certificate(authority.cert_pem.bytes())
    now = datetime.now(UTC)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(now - timedelta(hours=1))
        .next_update(now + timedelta(days=1))
    )
    for leaf in leaves:
        certificate = x509.load_pem_x509_certificate(leaf.cert_chain_pems[0].bytes())
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder()
            .serial_number(certificate.serial_number)
            .revocation_date(now - timedelta(hours=1))
            .build()
        )
    key = serialization.load_pem_private_key(authority.private_key_pem.bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize("trusts", ["a file", "the system's"])
async def test_a_key_with_a_password(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trusts: str
) -> None:
    """`sslpassword` opens it, a wrong one does not, and no error shows either."""
    leaf = place.authority.issue_cert("client.example", common_name=CERTIFIED)
    certificate, key = tmp_path / "client.crt", tmp_path / "client.key"
    certificate.write_bytes(leaf.cert_chain_pems[0].bytes())
    key.touch(mode=0o600)
    key.write_bytes(
        serialization.load_pem_private_key(leaf.private_key_pem.bytes(), None).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"opens-it"),
        )
    )
    roots = str(place.roots)
    if trusts == "the system's":
        monkeypatch.setenv("SSL_CERT_FILE", roots)
        roots = "system"
    query = f"sslmode=verify-full&sslrootcert={roots}&sslcert={certificate}&sslkey={key}"
    url = place.server.url(place.database, query, login=CERTIFIED)
    await (await connect(f"{url}&sslpassword=opens-it")).close()
    for wrong in ("&sslpassword=does-not-open", ""):
        with pytest.raises(DatabaseUnavailableError) as caught:
            await connect(url + wrong)
        assert "open" not in str(caught.value)


# --- Programs ------------------------------------------------------------------------------------


def environment(url: str, **variables: str) -> dict[str, str]:
    """The variables of a command."""
    return os.environ | {
        "MESHHOOK_DATABASE_URL": url,
        "MESHHOOK_LOG_FORMAT": "json",
        "PYTHONPATH": str(TESTS),
        **variables,
    }


async def run_command(url: str, *arguments: str) -> tuple[int, str, str]:
    """Run a command to its end; return its exit code, what it printed, and its errors."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "meshhook", *arguments),
        env=environment(url),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_command_says_what_is_wrong_and_what_to_look_at(place: Place, fault: str) -> None:
    """Two lines, and the exit code of a database that cannot be used."""
    await place.spoil(fault)
    code, out, err = await run_command(place.url(), "queue", "list")
    assert (code, out) == (4, "")
    assert FAULTS[fault] in err
    assert "sslrootcert" in err
    assert len(err.splitlines()) == 2


class Lines:
    """What a process says on standard error."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.text = ""
        self._process = process
        self._reading = asyncio.create_task(self._read(), name="read")

    async def _read(self) -> None:
        assert self._process.stderr is not None
        while data := await self._process.stderr.read(65_536):
            self.text += data.decode()

    async def until(self, text: str) -> None:
        """Wait until it has said so."""
        await eventually(lambda: text in self.text, message=text)

    async def end(self) -> int:
        """Wait for its end."""
        await self._reading
        return await asyncio.wait_for(self._process.wait(), 60)


async def start_command(url: str, *arguments: str, **variables: str) -> Any:
    """Start a command."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "meshhook", *arguments),
        env=environment(url, **variables),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )


async def test_a_worker_ends_in_time_while_the_certificate_is_not_good(
    place: Place, beside: Any, tmp_path: Path
) -> None:
    """At SIGTERM it says what it could not record, leaves that to the lease, and exits with 0."""
    ledger, gate = tmp_path / "ledger", tmp_path / "gate"
    await enqueue(beside)
    process = await start_command(
        place.url(),
        *("worker", "jobs", "--handler", "support.gated:gated", "--grace-seconds", "3"),
        LEDGER=str(ledger),
        GATE=str(gate),
    )
    lines = Lines(process)
    try:
        await eventually(ledger.exists, 60)
        await place.spoil("expired")
        gate.touch()
        await lines.until("certificate has expired")
        await eventually(lambda: "ended" in ledger.read_text())
        process.send_signal(signal.SIGTERM)
        assert await lines.end() == 0
    finally:
        if process.returncode is None:
            process.kill()
    assert "outcomes not recorded; their jobs run again when their leases end" in lines.text
    rows = await beside.fetch("select read_ct, vt > now() as is_leased from pgmq.q_jobs")
    assert [row["read_ct"] for row in rows] == [1]
    assert await beside.fetchval("select count(*) from meshhook.job_attempts") == 0


async def test_an_exporter_waits_for_a_good_certificate(place: Place) -> None:
    """It says the reason, serves what it has, and ends at SIGTERM."""
    await place.spoil("expired")
    process = await start_command(
        place.url(), "exporter", "--metrics-port", "0", "--interval-seconds", "0.1"
    )
    lines = Lines(process)
    try:
        await lines.until("waiting for the database")
        await lines.until("queues not read")
        assert "certificate has expired" in lines.text
        assert lines.text.count("queues not read") == 1
        process.send_signal(signal.SIGTERM)
        assert await lines.end() == 0
    finally:
        if process.returncode is None:
            process.kill()
