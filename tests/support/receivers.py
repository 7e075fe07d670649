"""Receivers of webhooks on the loopback: one that answers as a test says, and one of raw bytes."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from meshhook.http import WebhookHandler
from support.listening import stop_listening

SECRET = "whsec_" + base64.b64encode(b"a secret for tests only!").decode()
OLD_SECRET = "whsec_" + base64.b64encode(b"the secret before that one").decode()
LOOPBACK = ["127.0.0.0/8"]
"""What tests must allow to reach their own servers."""

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def make_handler(**options: Any) -> WebhookHandler:
    """Return a handler that may deliver to the loopback without TLS."""
    given: dict[str, Any] = {
        "secret": SECRET,
        "allow_http": True,
        "allowed_networks": LOOPBACK,
    }
    return WebhookHandler(**given | options)


@dataclass
class Receiver:
    """A receiver that answers as a test says, and keeps what it got."""

    port: int = 0
    scheme: str = "http"
    status: int = 200
    statuses: list[int] = field(default_factory=list)
    """The first answers; after them comes `status`."""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    is_silent: bool = False
    requests: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    """Headers and body of each request."""
    peers: list[tuple[str, int]] = field(default_factory=list)
    """The client's address of each request: the same again means the same connection."""
    targets: list[tuple[str, str]] = field(default_factory=list)
    """Method and path of each request."""
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)
    """The client left a request that was not answered."""

    @property
    def url(self) -> str:
        """Return where deliveries go."""
        return f"{self.scheme}://127.0.0.1:{self.port}/hook?token=t0ken"

    async def answer(self, request: web.Request) -> web.Response:
        """Keep the request, and answer."""
        self.requests.append(
            ({name.lower(): value for name, value in request.headers.items()}, await request.read())
        )
        transport = request.transport
        assert transport is not None
        self.peers.append(transport.get_extra_info("peername")[:2])
        self.targets.append((request.method, request.path_qs))
        self.arrived.set()
        if self.is_silent:
            try:
                await asyncio.Event().wait()
            finally:
                self.hung_up.set()
        status = self.statuses.pop(0) if self.statuses else self.status
        return web.Response(status=status, headers=self.headers, body=self.body)


@asynccontextmanager
async def running_receiver(
    host: str = "127.0.0.1", *, port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Receiver]:
    """Run a receiver.

    Args:
        host: the address that it listens on.
        port: the port. Default: a free one.
        tls: what it proves itself with. Default: nothing, it speaks HTTP.
    """
    receiver = Receiver(scheme="http" if tls is None else "https")
    app = web.Application(client_max_size=10_000_000)
    app.router.add_route("*", "/{path:.*}", receiver.answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, host, port, ssl_context=tls).start()
    receiver.port = runner.addresses[0][1]
    try:
        yield receiver
    finally:
        await runner.cleanup()


@dataclass
class RawReceiver:
    """A server of bytes, and what became of its connections."""

    port: int = 0
    connections: int = 0
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    """A connection was closed by the client, before its script had ended."""
    sent_bytes: int = 0

    @property
    def url(self) -> str:
        """Return where deliveries go."""
        return f"http://127.0.0.1:{self.port}/hook"

    async def endlessly(self, writer: asyncio.StreamWriter, part: bytes) -> None:
        """Send a part again and again, until the client hangs up."""
        while True:
            writer.write(part)
            await writer.drain()
            self.sent_bytes += len(part)
            await asyncio.sleep(0)


@asynccontextmanager
async def raw_receiver(
    script: Callable[[RawReceiver, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[RawReceiver]:
    """Run a server that reads a request's headers and body, and then does what `script` says."""
    receiver = RawReceiver()
    tasks: set[asyncio.Task[Any]] = set()
    is_over = False

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        receiver.connections += 1
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line.split(b":")[1])
                for line in head.lower().split(b"\r\n")
                if line.startswith(b"content-length:")
            )
            await reader.readexactly(length)
            await script(receiver, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            receiver.closed.set()
        finally:
            tasks.discard(task)
            # Closing would wait for a client that reads nothing, beyond the end of the test.
            (writer.transport.abort if is_over else writer.close)()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        await stop_listening(server)
        is_over = True
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def delivery_to(url: str, **fields: Any) -> dict[str, Any]:
    """Return the payload of a delivery."""
    return {"url": url, "body": {"type": "order.paid", "data": {"city": "Größe"}}} | fields
