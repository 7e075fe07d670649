"""Looking up the host names of databases, each in a thread of its own, up to a limit.

The event loop's own threads are few. A name server that does not answer blocks one for half a
minute, and whoever can write a Secret can choose the name server.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress
from typing import Any, TypeAlias, TypeVar

MAX_AT_ONCE = 256
"""A thread that waits for a name server takes some 30 KB of memory."""
MAX_DOUBTFUL_AT_ONCE = MAX_AT_ONCE // 2
"""How many lookups there may be when a name is looked up that was not found last time, so that
there is room for others."""
MAX_NAME_LENGTH = 255
_REMEMBERED = 1_000

Addresses: TypeAlias = list[tuple[Any, ...]]
"""What `socket.getaddrinfo` returns."""
_Value = TypeVar("_Value")


class NameLookups:
    """Looks names up. While too many lookups hang, it returns earlier results."""

    def __init__(self) -> None:
        self._running: dict[tuple[str, int], asyncio.Future[Addresses]] = {}
        self._found: dict[tuple[str, int], Addresses] = {}
        self._doubtful: dict[tuple[str, int], None] = {}
        """The names that were not found last time."""

    async def look_up(self, host: str, port: int) -> Addresses:
        """Return the addresses of a host, at least one.

        Raises:
            OSError: there are none, or too many other lookups hang.
            UnicodeError: this cannot be a host name.
        """
        if len(host) > MAX_NAME_LENGTH or "\0" in host:
            raise UnicodeError
        with suppress(socket.gaierror):
            return _addresses(host, port, socket.AI_NUMERICHOST)
        key = (host, port)
        if key not in self._running:
            most = MAX_DOUBTFUL_AT_ONCE if key in self._doubtful else MAX_AT_ONCE
            if len(self._running) >= most:
                if key in self._found:
                    return self._found[key]
                raise OSError(f"{len(self._running)} lookups of other names hang")
            self._start(key)
        # Others may be waiting for the same lookup.
        return await asyncio.shield(self._running[key])

    def _start(self, key: tuple[str, int]) -> None:
        loop = asyncio.get_running_loop()
        future = self._running[key] = loop.create_future()
        future.add_done_callback(lambda done: self._note(key, done))

        def look_up() -> None:
            found: Addresses | Exception
            try:
                found = _addresses(*key, 0)
            except Exception as error:  # noqa: BLE001 - passed on
                found = error
            with suppress(RuntimeError):  # the loop is closed, so nobody waits
                loop.call_soon_threadsafe(_settle, future, found)

        # A thread of a pool would delay the end of the process.
        threading.Thread(target=look_up, name=f"look up {key[0][:32]}", daemon=True).start()

    def _note(self, key: tuple[str, int], done: asyncio.Future[Addresses]) -> None:
        del self._running[key]
        if done.cancelled():
            return
        self._doubtful.pop(key, None)
        if done.exception() is not None:
            _remember(self._doubtful, key, None)
            return
        _remember(self._found, key, done.result())


def _remember(known: dict[tuple[str, int], _Value], key: tuple[str, int], value: _Value) -> None:
    known.pop(key, None)  # what was said last is forgotten last
    known[key] = value
    if len(known) > _REMEMBERED:
        del known[next(iter(known))]


def _addresses(host: str, port: int, flags: int) -> Addresses:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    if not found:
        raise OSError(f"the host {host!a} has no address")
    return list(found)


def _settle(future: asyncio.Future[Addresses], found: Addresses | Exception) -> None:
    if future.done():
        return
    if isinstance(found, Exception):
        future.set_exception(found)
    else:
        future.set_result(found)
