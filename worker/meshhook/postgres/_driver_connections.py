"""Opening connections with the driver: the hosts of a URL in turn, each with its own time limit."""

from __future__ import annotations

import socket
from typing import Any

import asyncpg

from meshhook.postgres._driver_types import tell_array_types
from meshhook.postgres.url import DatabaseUrl, Host, SocketOptions

_NEXT_HOST_ERRORS = (
    OSError,
    TimeoutError,
    asyncpg.CannotConnectNowError,
    asyncpg.exceptions.TooManyConnectionsError,
    asyncpg.exceptions.TargetServerAttributeNotMatched,
)
"""Errors that another host of the same URL may not have."""


def attempts(target: DatabaseUrl) -> list[tuple[Host | None, Any]]:
    """Return the hosts to try, in order, each with what its session must be.

    `prefer-standby` goes through all hosts for a standby, and then takes any.
    """
    hosts: tuple[Host | None, ...] = target.hosts or (None,)
    wanted = target.target_session_attrs
    rounds = ("standby", "any") if wanted == "prefer-standby" else (wanted,)
    return [(host, attributes) for attributes in rounds for host in hosts]


async def open_connection(
    target: DatabaseUrl,
    *,
    timeout_seconds: float,
    server_settings: dict[str, str],
    **arguments: Any,
) -> asyncpg.Connection[asyncpg.Record]:
    """Open a connection to the first host that accepts it. Errors are the driver's.

    Args:
        target: where, and as whom.
        timeout_seconds: how long each host may take, unless the URL says so.
        server_settings: settings of the session; those of the URL override them.
        **arguments: further arguments of `asyncpg.connect`.
    """
    settings = {**target.server_settings, **server_settings}
    if target.application_name is not None:
        settings["application_name"] = target.application_name
    left = attempts(target)
    while True:
        host, attributes = left.pop(0)
        place: dict[str, Any] = {} if host is None else {"host": host.name, "port": host.port}
        try:
            connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(
                **target.driver_arguments(),
                **place,
                **arguments,
                timeout=target.connect_timeout_seconds or timeout_seconds,
                target_session_attrs=attributes,
                server_settings=settings,
                # By default the driver keeps no statement of more than 15 KB: the claim of a keyed
                # queue is longer, and would be planned each time.
                max_cacheable_statement_size=0,
            )
        except Exception as error:
            if not left or not isinstance(error, _NEXT_HOST_ERRORS):
                _forget_frames(error)
                raise
        else:
            set_socket_options(connection, target.socket_options)
            tell_array_types(connection)
            return connection


def _forget_frames(error: BaseException) -> None:
    """Remove the driver's frames from the traceback of an error and its causes.

    Their local variables hold the password, and some programs print the variables of frames.
    """
    left: list[BaseException | None] = [error]
    seen: set[int] = set()
    while left:
        each = left.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        each.__traceback__ = None
        left += [each.__cause__, each.__context__]
        if isinstance(each, BaseExceptionGroup):
            left += each.exceptions


def set_socket_options(connection: Any, options: SocketOptions) -> None:
    """Turn on TCP keepalive, as far as the operating system supports it."""
    transport = getattr(connection, "_transport", None)
    found = None if transport is None else transport.get_extra_info("socket")
    if found is None or found.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(options.keepalive))
    for name, value in (
        ("TCP_KEEPIDLE", options.idle_seconds),
        ("TCP_KEEPINTVL", options.interval_seconds),
        ("TCP_KEEPCNT", options.count),
        ("TCP_USER_TIMEOUT", options.user_timeout_ms),
    ):
        if value is not None and hasattr(socket, name):
            found.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
