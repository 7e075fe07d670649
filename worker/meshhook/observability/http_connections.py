"""The connections of a monitoring port: how many there may be, and who goes when it is full."""

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
    """How far a connection is; the later, the less is lost when it is cut."""

    ANSWERING = 0
    """Its request is there; the answer is made or sent."""
    READING = 1
    """Its request has not come yet."""
    LEAVING = 2
    """Its answer is sent; the client has not hung up."""


@dataclass(eq=False, slots=True)
class Connection:
    """One client, with what came from it and what is still to be sent."""

    socket: socket.socket
    source: str
    """Who it comes from; see `source_of`."""
    deadline: float
    """On the monotonic clock: when it is cut at its present stage."""
    stage: Stage = Stage.READING
    received: bytearray = field(default_factory=bytearray)
    request: Request | None = None
    is_slow: bool = False
    """Whether its answer is large, and made by the thread for such."""
    unsent: memoryview = field(default_factory=lambda: memoryview(b""))

    @property
    def is_open(self) -> bool:
        """Whether it was not closed here yet."""
        return self.socket.fileno() != -1


class Connections:
    """All connections, oldest first."""

    def __init__(self) -> None:
        self._all: dict[Connection, None] = {}

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._all)

    def __iter__(self) -> Iterator[Connection]:
        """Iterate over them, oldest first."""
        return iter(tuple(self._all))

    def add(self, connection: Connection) -> None:
        """Add one that has come just now."""
        self._all[connection] = None

    def remove(self, connection: Connection) -> None:
        """Remove and close one; what is not there any more does no harm."""
        if self._all.pop(connection, False) is None:
            with contextlib.suppress(OSError):  # it may have gone by itself
                connection.socket.close()

    def next_deadline(self) -> float | None:
        """Return when the first of them has to be cut; None if there is none."""
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
    """Return who a connection counts for: an IPv4 address, or the /64 network of an IPv6 one.

    One host has a whole /64 to choose addresses from.
    """
    host = str(address[0])
    if ":" not in host:
        return host
    found = ipaddress.IPv6Address(host.partition("%")[0])
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.IPv6Network((found, 64), strict=False))
