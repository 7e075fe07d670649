"""Serving the console by itself."""

from __future__ import annotations

import asyncio
import signal
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from meshhook.errors import InvalidSettingError
from meshhook.escaping import quoted
from meshhook.observability.loggers import get_logger

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.applications import Starlette

    from meshhook.console.settings import ConsoleSettings

REQUEST_SECONDS = 30.0
"""How long the head of a request may take to arrive."""
_MAX_CONNECTIONS = 2_000
_STOP_SECONDS = 5

_log = get_logger("meshhook.console")


def listening_socket(settings: ConsoleSettings, address: str, port: int) -> socket.socket:
    """Return a socket that the console may listen on.

    Raises:
        InvalidSettingError: if everybody on the network could use the console, the port is taken,
            or the address is not of this machine.
    """
    settings.check_address(address)
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        found = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _refusal(address, port, error) from error
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(place)
        found.listen(1_024)
    except OSError as error:
        found.close()
        raise _refusal(address, port, error) from error
    return found


def address_of(listener: socket.socket) -> str:
    """Return where a browser finds what listens there."""
    address, port = listener.getsockname()[:2]
    host = f"[{address}]" if ":" in address else address
    return f"http://{host}:{port}/"


class _Protocol(H11Protocol):
    """Closes connections on which no request arrives, or anybody could hold all that there may be.

    uvicorn itself waits for ever for the first request, and for the rest of a slow one.
    """

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._expect_request()

    def data_received(self, data: bytes) -> None:
        """Take a part of a request."""
        super().data_received(data)
        self._expect_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def _expect_request(self) -> None:
        if self._deadline is None and self._has_no_request():
            self._deadline = self.loop.call_later(REQUEST_SECONDS, self._give_up, self.cycle)

    def _give_up(self, before: object) -> None:
        self._deadline = None
        if self.cycle is before and self._has_no_request():
            self.transport.close()

    def _has_no_request(self) -> bool:
        return self.cycle is None or self.cycle.response_complete


class _Server(uvicorn.Server):
    """A server that leaves signals to its caller, and ends live pages first when it stops.

    uvicorn would raise the signal again when it has stopped, which ends the process on the spot:
    nothing that the caller has opened would be closed. It would wait for streams until its time is
    up.
    """

    def __init__(self, config: uvicorn.Config, app: Starlette) -> None:
        super().__init__(config)
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams, and then all else."""
        self._app.state.streams.end()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


async def serve(app: Starlette, listener: socket.socket) -> None:
    """Serve the console until SIGTERM or SIGINT; a second one does not wait for open pages."""
    _log.info("the console is open", url=address_of(listener))
    server = server_of(app)

    def stop() -> None:
        server.force_exit = server.should_exit
        server.should_exit = True

    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)
    for number in signals:
        loop.add_signal_handler(number, stop)
    try:
        await server.serve(sockets=[listener])
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


def server_of(app: Starlette) -> uvicorn.Server:
    """Return the server of a console."""
    config = uvicorn.Config(
        app,
        http=_Protocol,
        lifespan="on",
        # The address of the client is that of the connection: headers may say anything.
        proxy_headers=False,
        server_header=False,
        date_header=True,
        access_log=False,
        log_config=None,
        # Below that it says that it starts and stops, with escapes for terminals.
        log_level="warning",
        limit_concurrency=_MAX_CONNECTIONS,
        timeout_graceful_shutdown=_STOP_SECONDS,
        ws="none",
    )
    return _Server(config, app)


def _refusal(address: str, port: int, error: OSError) -> InvalidSettingError:
    return InvalidSettingError(
        f"the console cannot listen on port {port} of {quoted(address)}: {error}; choose another, "
        "or 0 for a free one (--port, --address)"
    )
