"""Looking up names, so that the addresses connected to are the ones that were checked."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from aiohttp.abc import AbstractResolver, ResolveResult

from meshhook.errors import AddressRefusedError
from meshhook.escaping import quoted
from meshhook.http.addresses import AddressGuard

Lookup = Callable[[str, int], Awaitable[Sequence[str]]]
"""Returns the addresses of a name and a port. Raises OSError if there is none."""

MAX_LOOKUPS: Final = 64
"""How many names are looked up at once. A name server that is silent holds one for 30 seconds."""
_NUMERIC = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV


class SystemLookup:
    """Asks the system, as every other program on the machine does.

    Each lookup has a thread of its own, which a silent name server can block without delaying
    other lookups, other users of the event loop's threads, or the end of the program.
    """

    def __init__(self) -> None:
        """Start no threads yet."""
        self._limit = asyncio.Semaphore(MAX_LOOKUPS)

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """Return the addresses of a name.

        Raises:
            OSError: if there is none, or if it could not be looked up.
        """
        loop = asyncio.get_running_loop()
        async with self._limit:
            found: asyncio.Future[Sequence[str]] = loop.create_future()
            threading.Thread(
                target=_look_up, args=(loop, found, host, port), name="meshhook-dns", daemon=True
            ).start()
            return await found


def _look_up(
    loop: asyncio.AbstractEventLoop, future: asyncio.Future[Sequence[str]], host: str, port: int
) -> None:
    result: Sequence[str] | Exception
    try:
        infos = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=getattr(socket, "AI_ADDRCONFIG", 0)
        )
        result = [str(info[4][0]) for info in infos]
    except (OSError, UnicodeError) as error:
        result = error if isinstance(error, OSError) else OSError("not a name of DNS")

    def settle() -> None:
        if future.done():
            return
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)

    with suppress(RuntimeError):  # the event loop has ended meanwhile
        loop.call_soon_threadsafe(settle)


class GuardedResolver(AbstractResolver):
    """Resolves names to addresses that may be connected to, and makes sockets for these only."""

    def __init__(self, guard: AddressGuard, lookup: Lookup) -> None:
        """Take the guard, and what looks names up."""
        self._guard = guard
        self._lookup = lookup

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of a name that may be connected to; others are left out.

        Raises:
            AddressRefusedError: if there is none.
            OSError: if the name cannot be looked up.
        """
        refusals: list[str] = []
        results: list[ResolveResult] = []
        for text in dict.fromkeys(await self._lookup(host, port)):
            try:
                address = ipaddress.ip_address(text)
            except ValueError:
                raise OSError(f"{quoted(text, limit=60)} was found, which is no address") from None
            its_family = socket.AF_INET if address.version == 4 else socket.AF_INET6  # noqa: PLR2004
            if family not in (socket.AF_UNSPEC, its_family):
                continue
            reason = self._guard.refusal(address)
            if reason is not None:
                refusals.append(f"{text} {reason}")
                continue
            results.append(
                ResolveResult(
                    hostname=host,
                    host=text,
                    port=port,
                    family=its_family,
                    proto=0,
                    flags=_NUMERIC,
                )
            )
        if not results:
            if not refusals:
                raise OSError("the name has no address")
            raise AddressRefusedError(host, "; ".join(refusals[:3]))
        return results

    def socket_for(self, address_info: tuple[Any, ...]) -> socket.socket:
        """Return a socket to connect to an address with, the last moment to refuse one.

        Raises:
            AddressRefusedError: if the address must not be connected to.
        """
        family, kind, protocol, _, where = address_info
        text = str(where[0])
        try:
            reason = self._guard.refusal(ipaddress.ip_address(text))
        except ValueError:
            reason = "is not an address"
        if reason is not None:
            raise AddressRefusedError(text, f"{text} {reason}")
        return socket.socket(family, kind, protocol)

    async def close(self) -> None:
        """Do nothing: it holds nothing."""
