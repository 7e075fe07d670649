"""Live pages: what many viewers cost the database, and streams that nobody reads or that end."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from sse_starlette import ServerSentEvent

from meshhook.console import context, live
from meshhook.console.app import console_app
from meshhook.console.server import address_of, listening_socket, server_of
from meshhook.console.settings import ConsoleSettings
from meshhook.console.snapshots import Snapshots
from meshhook.postgres.database import Database
from support.console import ORIGIN, served
from support.waiting import eventually

VIEWERS = 40
REFRESHES = 30


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what is read from the database, statement by statement."""
    seen: list[str] = []
    for name in ("fetch", "fetchrow", "fetchval"):
        read = getattr(Database, name)

        async def counted(
            self: Database, query: str, *args: Any, _read: Any = read, **kw: Any
        ) -> Any:
            seen.append(query)
            return await _read(self, query, *args, **kw)

        monkeypatch.setattr(Database, name, counted)
    return seen


@pytest.mark.parametrize("viewers", [1, VIEWERS])
@pytest.mark.parametrize("page", [("/", 6), ("/workers", 4), ("/queues/jobs", 12)])
@pytest.mark.usefixtures("queue_name")
async def test_viewers_share_what_is_read(
    viewers: int, page: tuple[str, int], pool: Any, statements: list[str]
) -> None:
    """A page that is left open costs the same few statements each interval, however many look."""
    path, most = page
    now = 0.0
    settings = ConsoleSettings()
    app = console_app(pool, settings=settings)
    app.state.console = replace(app.state.console, snapshots=Snapshots(clock=lambda: now))
    transport = httpx.ASGITransport(app, client=("127.0.0.1", 1))
    async with httpx.AsyncClient(transport=transport, base_url=ORIGIN) as client:
        for _ in range(REFRESHES if viewers == 1 else 2):
            statements.clear()
            answers = await asyncio.gather(*(client.get(path) for _ in range(viewers)))
            assert {answer.status_code for answer in answers} == {200}
            assert 0 <= len(statements) <= most, statements
            # Within the interval, whoever comes is shown the same.
            count = len(statements)
            now += settings.refresh_seconds * 0.5
            await client.get(path)
            assert len(statements) == count
            now += settings.refresh_seconds * 0.5
        assert statements, "it was read"
    await app.state.close()


@pytest.mark.usefixtures("queue_name")
async def test_many_queues_are_read_less_often(
    pool: Any, statements: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many a second as one may read, however many there are; a change is seen at once."""
    # One queue in half a minute stands for a hundred and twenty.
    monkeypatch.setattr(context, "QUEUES_PER_SECOND", 1 / 30)
    now = 0.0
    app = console_app(pool, settings=ConsoleSettings())
    app.state.console = replace(app.state.console, snapshots=Snapshots(clock=lambda: now))
    transport = httpx.ASGITransport(app, client=("127.0.0.1", 1))
    reads = []
    async with httpx.AsyncClient(transport=transport, base_url=ORIGIN) as client:
        for now in range(0, 65, 5):
            statements.clear()
            answer = await client.get("/")
            assert "the figures are read every 30 s" in answer.text
            if any("queue_snapshot" in each for each in statements):
                reads.append(now)
        assert reads == [0, 30, 60]
        app.state.console.snapshots.forget_all()
        await client.get("/")
        assert any("queue_snapshot" in each for each in statements)
    await app.state.close()


async def test_streams_read_nothing(
    database_url: str, queue_name: str, statements: list[str]
) -> None:
    """Ticks cost no statement: if all pages are hidden, or gone, nothing is read."""
    async with served(database_url) as url, AsyncExitStack() as stack:
        client = await stack.enter_async_context(httpx.AsyncClient(timeout=30))
        for _ in range(5):
            answer = await stack.enter_async_context(client.stream("GET", f"{url}/events"))
            # A proxy is told to pass on what comes, and a cache to keep nothing.
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert answer.headers["x-accel-buffering"] == "no"
            assert answer.headers["cache-control"] == "no-store"
        lines = answer.aiter_lines()
        seen: list[str] = []
        while seen.count("event: tick") < 2:
            seen.append(await anext(lines))
        assert seen[:2] == [": open", "retry: 5000"]
        assert statements == []


async def test_more_streams_than_allowed_are_refused(
    database_url: str, queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One too many gets 503 and the reason; a place that is free again is given to the next."""
    monkeypatch.setattr(live, "MAX_STREAMS", 1)
    async with served(database_url) as url, httpx.AsyncClient(timeout=30) as client:
        async with client.stream("GET", f"{url}/events") as first:
            assert first.status_code == 200
            refused = await client.get(f"{url}/events")
            assert refused.status_code == 503
            assert "Too many pages are live" in refused.text
            assert (await client.get(url)).status_code == 200

        async def is_let_in() -> bool:
            async with client.stream("GET", f"{url}/events") as answer:
                return answer.status_code == 200

        await eventually(is_let_in)


async def test_a_browser_that_reads_nothing_is_let_go(
    pool: Any, queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is sent to it stays bounded, and its stream ends."""
    sent = 0

    async def ticks(*_: object) -> AsyncIterator[ServerSentEvent]:
        nonlocal sent
        while True:
            sent += 1
            yield ServerSentEvent(comment="x" * 65_536)

    monkeypatch.setattr(live, "_ticks", ticks)
    monkeypatch.setattr(live, "SEND_SECONDS", 0.3)
    settings = ConsoleSettings()
    app = console_app(pool, settings=settings)
    with listening_socket(settings, "127.0.0.1", 0) as listener:
        server = server_of(app)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        place = urlsplit(address_of(listener))
        reader, writer = await asyncio.open_connection(place.hostname, place.port, limit=1_024)
        writer.write(b"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        await writer.drain()

        async def is_open() -> bool:
            return app.state.streams.open == 1 or sent > 0

        async def has_ended() -> bool:
            return sent > 0 and app.state.streams.open == 0

        await eventually(is_open)
        await eventually(has_ended)
        # The buffers of the kernel take some megabytes; the console keeps 64 KiB.
        assert sent < 500
        writer.close()
        del reader
        server.should_exit = True
        await task


@pytest.mark.process
async def test_sigterm_ends_it_at_once_with_many_streams(
    database_url: str, queue_name: str
) -> None:
    """With 200 open streams it ends well before its limit, without an error in its log."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "meshhook", "console", "--port", "0"),
        env={**os.environ, "MESHHOOK_DATABASE_URL": database_url},
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
    )
    assert process.stderr is not None
    said = ""
    while (found := re.search(r"The console is open: (http://\S+)", said)) is None:
        line = await asyncio.wait_for(process.stderr.readline(), 60)
        assert line, said
        said += line.decode()
    place = urlsplit(found[1])
    streams = []
    for _ in range(200):
        reader, writer = await asyncio.open_connection(place.hostname, place.port)
        writer.write(f"GET /events HTTP/1.1\r\nHost: {place.netloc}\r\n\r\n".encode())
        streams.append((reader, writer))
    for reader, _ in streams:
        await asyncio.wait_for(reader.readuntil(b": open"), 60)
    process.send_signal(signal.SIGTERM)
    rest = await asyncio.wait_for(process.stderr.read(), 60)
    code = await asyncio.wait_for(process.wait(), 60)
    for reader, writer in streams:
        await reader.read()
        writer.close()
    assert code in {0, -signal.SIGTERM}, rest.decode()
    assert not re.search(r"rror|Traceback|exceeded", rest.decode()), rest.decode()[:2_000]
