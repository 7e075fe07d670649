"""An address at which connections hang, as behind a firewall that drops packets."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

_SYN_SENT = "02"


class BlackHole:
    """A port of the loopback that never answers, since its queue of connections is full."""

    def __init__(self, port: int) -> None:
        self.port = port

    def attempts(self) -> int:
        """Return how many connections to it are being attempted on this machine."""
        found = 0
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            _, _, remote, state, *_ = line.split()
            found += state == _SYN_SENT and int(remote.partition(":")[2], 16) == self.port
        return found


@contextlib.contextmanager
def black_hole() -> Iterator[BlackHole]:
    """Yield one, and close it in the end."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        hole = BlackHole(listener.getsockname()[1])
        while not hole.attempts():  # nobody accepts, so that soon no more are taken
            taken = stack.enter_context(socket.socket())
            taken.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                taken.connect(listener.getsockname())
        yield hole
