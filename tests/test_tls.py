"""TLS, as the parameters of a URL ask for it; and failures of it, which are no fault of the URL."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trustme

from meshhook.errors import DatabaseUnavailableError
from meshhook.postgres.connecting import connect
from meshhook.postgres.database import Database
from support.listening import stop_listening
from support.waiting import eventually

EXPIRED = datetime.now(UTC) - timedelta(days=1)
SSL_REQUEST_BYTES = 8


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """An authority."""
    return trustme.CA()


@pytest.fixture
def roots(authority: trustme.CA, tmp_path: Path) -> Path:
    """The file of its certificate."""
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    return file


@asynccontextmanager
async def encrypted(url: str, leaf: trustme.LeafCert) -> AsyncIterator[str]:
    """A URL that leads to the database through TLS; the server itself has been built without."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    leaf.configure_cert(context)
    parts = urlsplit(url)
    carrying: set[asyncio.Task[None]] = set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_writer = None
        try:
            await reader.readexactly(SSL_REQUEST_BYTES)
            writer.write(b"S")
            await writer.start_tls(context)
            server_reader, server_writer = await asyncio.open_connection(parts.hostname, parts.port)
            await asyncio.wait(
                [
                    asyncio.create_task(pump(reader, server_writer)),
                    asyncio.create_task(pump(server_reader, writer)),
                ],
                return_when=asyncio.FIRST_COMPLETED,
            )
        except (OSError, EOFError):
            pass
        finally:
            for each in (writer, server_writer):
                if each is not None:
                    await closed(each)

    def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(carry(reader, writer), name="carry")
        carrying.add(task)
        task.add_done_callback(carrying.discard)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield url.replace(f":{parts.port}/", f":{port}/")
    finally:
        await stop_listening(server)
        await eventually(lambda: not carrying)


async def closed(writer: asyncio.StreamWriter) -> None:
    """Close a connection, which through TLS takes an answer; without one, cut it."""
    writer.close()
    try:
        async with asyncio.timeout(5):
            await writer.wait_closed()
    except OSError:
        writer.transport.abort()


async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Carry one direction."""
    with suppress(OSError):
        while data := await source.read(65_536):
            sink.write(data)


def is_encrypted(connection: Any) -> bool:
    """Whether a connection goes through TLS."""
    return connection._transport.get_extra_info("ssl_object") is not None


@pytest.mark.parametrize("trusts", ["a file", "the system's"])
async def test_a_verified_connection(
    database_url: str,
    authority: trustme.CA,
    roots: Path,
    monkeypatch: pytest.MonkeyPatch,
    trusts: str,
) -> None:
    """As the URLs of Neon ask for it, with whichever authorities are trusted."""
    query = f"sslmode=require&sslrootcert={roots}&channel_binding=require"
    if trusts == "the system's":
        monkeypatch.setenv("SSL_CERT_FILE", str(roots))
        query = "sslmode=require&channel_binding=require"
    async with encrypted(database_url, authority.issue_cert("127.0.0.1")) as url:
        own = await connect(f"{url}?{query}")
        database = await Database.connect(f"{url}?{query}")
        try:
            assert is_encrypted(own)
            async with database.acquire() as lent:
                assert is_encrypted(lent)
        finally:
            await own.close()
            await database.close()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("expired", "certificate has expired"),
        ("of another name", "not valid for '127.0.0.1'"),
        ("of another authority", "certificate verify failed"),
    ],
)
async def test_a_certificate_that_is_not_good_is_a_database_out_of_reach(
    database_url: str, authority: trustme.CA, roots: Path, fault: str, reason: str
) -> None:
    """It may be mended without a change of the URL, so workers wait for it."""
    leaf = {
        "expired": lambda: authority.issue_cert("127.0.0.1", not_after=EXPIRED),
        "of another name": lambda: authority.issue_cert("db.example"),
        "of another authority": lambda: trustme.CA().issue_cert("127.0.0.1"),
    }[fault]()
    async with encrypted(database_url, leaf) as url:
        verified = f"{url}?sslmode=verify-full&sslrootcert={roots}"
        for attempt in (connect(verified), Database.connect(verified)):
            with pytest.raises(DatabaseUnavailableError, match=reason):
                await attempt


async def test_a_server_without_tls_is_out_of_reach_where_it_is_required(database_url: str) -> None:
    """Nothing is sent in the clear; where TLS is only preferred, it is."""
    with pytest.raises(DatabaseUnavailableError, match="rejected SSL upgrade"):
        await connect(f"{database_url}?sslmode=require")
    own = await connect(f"{database_url}?sslmode=prefer")
    assert not is_encrypted(own)
    await own.close()
