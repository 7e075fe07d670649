"""Serving the console by itself."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import uvicorn

from meshhook.errors import InvalidSettingError
from meshhook.escaping import quoted
from meshhook.observability.loggers import get_logger

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from meshhook.console.settings import ConsoleSettings

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


async def serve(app: Starlette, listener: socket.socket) -> None:
    """Serve the console until SIGTERM or SIGINT."""
    _log.info("the console is open", url=address_of(listener))
    await server_of(app).serve(sockets=[listener])


def server_of(app: Starlette) -> uvicorn.Server:
    """Return the server of a console."""
    config = uvicorn.Config(
        app,
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
    return uvicorn.Server(config)


def _refusal(address: str, port: int, error: OSError) -> InvalidSettingError:
    return InvalidSettingError(
        f"the console cannot listen on port {port} of {quoted(address)}: {error}; choose another, "
        "or 0 for a free one (--port, --address)"
    )
