"""The connections of a monitoring port: how many it accepts, and which is cut when it is full."""

from __future__ import annotations

import contextlib
import enum
import ipaddress
import socket
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from meshhook.observability.http_messages import Request


class Stage(enum.IntEnum):
    """The stage of a connection; the later, the less is lost when it is cut."""

    ANSWERING = 0
    """Its request has arrived; the response is being made or sent."""
    READING = 1
    """Its request has not arrived yet."""
    LEAVING = 2
    """Its response has been sent; the client has not hung up."""


@dataclass(eq=False, slots=True)
class Connection:
    """One client, with the bytes received from it and those still to be sent."""

    socket: socket.socket
    source: str
    """The source it counts for; see `source_of`."""
    deadline: float
    """When it is cut at its present stage, by the monotonic clock."""
    stage: Stage = Stage.READING
    received: bytearray = field(default_factory=bytearray)
    request: Request | None = None
    is_slow: bool = False
    """Whether its response is slow, and made by the thread for those."""
    unsent: memoryview = field(default_factory=lambda: memoryview(b""))

    @property
    def is_open(self) -> bool:
        """Whether it has not been closed on this side."""
        return self.socket.fileno() != -1


class Connections:
    """All connections, oldest first."""

    def __init__(self) -> None:
        self._all: dict[Connection, None] = {}

    def __len__(self) -> int:
        """Return the number of connections."""
        return len(self._all)

    def __iter__(self) -> Iterator[Connection]:
        """Iterate over them, oldest first."""
        return iter(tuple(self._all))

    def add(self, connection: Connection) -> None:
        """Add a new connection."""
        self._all[connection] = None

    def remove(self, connection: Connection) -> None:
        """Remove and close a connection; one that is already gone is ignored."""
        if self._all.pop(connection, False) is None:
            with contextlib.suppress(OSError):  # it may have gone by itself
                connection.socket.close()

    def next_deadline(self) -> float | None:
        """Return the earliest deadline; None if there is no connection."""
        return min((each.deadline for each in self._all), default=None)


def one_to_cut(connections: Iterable[Connection]) -> Connection:
    """Return which connection makes room: the oldest of the source that has the most.

    A source that opens connections without end thus cuts its own and nobody else's. Addresses are
    not limited on their own: behind a gateway the kubelet, Prometheus and others may share one.
    """
    connections = list(connections)
    counts = Counter(each.source for each in connections)
    most = max(counts.values())
    crowd = [each for each in connections if counts[each.source] == most]
    return max(crowd, key=lambda each: each.stage)  # of equals, max takes the first: the oldest


def source_of(address: Any) -> str:
    """Return the source that a connection counts for: an IPv4 address, or an IPv6 /64 network.

    One host has a whole /64 to choose addresses from.
    """
    host = str(address[0])
    if ":" not in host:
        return host
    found = ipaddress.IPv6Address(host.partition("%")[0])
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.IPv6Network((found, 64), strict=False))
