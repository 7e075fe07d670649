"""Guarded connections to the databases of JobQueues: allowed hosts only, and checked answers.

The driver opens its connections through the event loop that it is given. This loop wraps the real
one: it limits name lookups, connects only to allowed hosts, and passes only complete, checked
messages to the driver, with or without TLS.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from meshhook_operator.databases.answers import AnswerLimits
from meshhook_operator.errors import AnswerRefusedError, HostNotAllowedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshhook_operator.databases.hosts import DatabaseHosts
    from meshhook_operator.databases.name_lookups import NameLookups

LOGIN_SECONDS = 15.0
"""How long a connection may take to become ready. The driver's own limits do not cover every
connection, such as the one that cancels a statement."""
_BYTES_WITHOUT_SESSION = 4_096


class GuardedLoop:
    """The running event loop, except for how it opens connections. One for each database."""

    def __init__(self, *, hosts: DatabaseHosts, lookups: NameLookups) -> None:
        """Take the allowed hosts, and what looks names up."""
        self._loop = asyncio.get_running_loop()
        self._hosts = hosts
        self._lookups = lookups
        self._refusal: str | None = None

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the event loop."""
        return getattr(self._loop, name)

    def __eq__(self, other: object) -> bool:
        """Be equal to the event loop, because tasks are looked up by it."""
        return other is self or other is self._loop

    def __hash__(self) -> int:
        """Return the event loop's own."""
        return hash(self._loop)

    def take_refusal(self) -> str | None:
        """Return why a connection was closed since the last call; None if none was."""
        refusal, self._refusal = self._refusal, None
        return refusal

    def refuse(self, reason: str) -> None:
        """Note why a connection is closed."""
        self._refusal = reason

    async def create_connection(
        self,
        make_protocol: Callable[[], asyncio.Protocol],
        host: str,
        port: int,
        *,
        ssl: Any = None,
    ) -> tuple[_Transport, asyncio.BaseProtocol]:
        """Connect to the first allowed address of a host that answers.

        Raises:
            HostNotAllowedError: if none is allowed.
            OSError: if none answers.
        """
        by_name = self._hosts.allows_name(host, port)
        if not by_name and not self._hosts.needs_address(port):
            raise HostNotAllowedError(self._hosts.refusal(host, port))
        addresses = await self._lookups.look_up(host, port)
        allowed = [
            each for each in addresses if by_name or self._hosts.allows_address(*each[4][:2])
        ]
        if not allowed:
            raise HostNotAllowedError(self._hosts.refusal(host, port))
        _, guard = await self._loop.create_connection(
            lambda: _Guard(make_protocol(), self),
            sock=await self._connected(allowed),
            ssl=ssl,
            server_hostname=host if ssl else None,
        )
        return guard.transport, guard.inner

    async def create_unix_connection(
        self, make_protocol: Callable[[], asyncio.Protocol], path: str
    ) -> tuple[_Transport, asyncio.BaseProtocol]:
        """Connect to a socket of this machine.

        Raises:
            HostNotAllowedError: if there is a list of allowed hosts, which cannot include sockets.
        """
        if not self._hosts.allows_all:
            raise HostNotAllowedError(self._hosts.refusal(path, None))
        _, guard = await self._loop.create_unix_connection(
            lambda: _Guard(make_protocol(), self), path
        )
        return guard.transport, guard.inner

    async def start_tls(
        self, transport: _Transport, protocol: asyncio.BaseProtocol, context: Any, **options: Any
    ) -> _Transport | None:
        """Switch to TLS; what comes then is checked after decryption."""
        raw = await self._loop.start_tls(
            transport.raw, cast("asyncio.Protocol", protocol), context, **options
        )
        return None if raw is None else _Transport(raw, self, transport.deadline)

    async def _connected(self, addresses: list[tuple[Any, ...]]) -> socket.socket:
        last: OSError | None = None
        for family, kind, number, _, address in addresses:
            connecting = socket.socket(family, kind, number)
            try:
                connecting.setblocking(False)  # noqa: FBT003 - as the system has it
                await self._loop.sock_connect(connecting, address)
            except OSError as error:
                connecting.close()
                last = error
            except BaseException:
                connecting.close()
                raise
            else:
                with suppress(OSError):
                    connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return connecting
        assert last is not None  # noqa: S101 - there is an address
        raise last


class _Transport:
    """A transport of the driver that notes every request to the server."""

    def __init__(
        self, raw: Any, loop: GuardedLoop, deadline: asyncio.TimerHandle | None = None
    ) -> None:
        self.raw = raw
        self.loop = loop
        self.limits = AnswerLimits(now=loop.time())
        self.deadline = deadline or loop.call_later(LOGIN_SECONDS, self.raw.abort)
        """Aborts the connection, unless the login has finished by then."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)

    def write(self, data: Any) -> None:
        self.limits.note_request()
        self.raw.write(data)

    def writelines(self, data: Any) -> None:
        self.limits.note_request()
        self.raw.writelines(data)

    def set_protocol(self, protocol: asyncio.Protocol) -> None:
        guard = _Guard(protocol, self.loop)
        guard.transport = self
        self.raw.set_protocol(guard)


class _Guard(asyncio.Protocol):
    """Wraps a protocol of the driver, and passes on complete, checked messages."""

    def __init__(self, inner: asyncio.Protocol, loop: GuardedLoop) -> None:
        self.inner = inner
        self._loop = loop
        self._held = bytearray()
        # Only the session has messages: requests for TLS and to cancel are answered by a byte.
        self._has_messages = hasattr(inner, "set_connection")
        self._bytes_left = _BYTES_WITHOUT_SESSION
        self.transport: _Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = _Transport(transport, self._loop)
        self.inner.connection_made(cast("asyncio.BaseTransport", self.transport))

    def data_received(self, data: bytes) -> None:
        if not self._has_messages:
            self._bytes_left -= len(data)
            if self._bytes_left < 0:
                self._cut("the server sent data before there was a session")
            else:
                self.inner.data_received(data)
            return
        self._held += data
        transport = self.transport
        try:
            whole = transport.limits.check(self._held, self._loop.time())
        except AnswerRefusedError as error:
            self._cut(str(error))
            return
        if transport.limits.is_ready:
            transport.deadline.cancel()
        if whole:
            messages = bytes(memoryview(self._held)[:whole])
            del self._held[:whole]
            self.inner.data_received(messages)

    def _cut(self, reason: str) -> None:
        self._loop.refuse(reason)
        self._held.clear()
        self.transport.raw.abort()

    def eof_received(self) -> bool | None:
        return self.inner.eof_received()

    def pause_writing(self) -> None:
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        self.inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport.deadline.cancel()
        self._held.clear()
        self.inner.connection_lost(exc)
