"""The socket between a worker process and its supervisor."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable

INDEX_VARIABLE = "MESHHOOK_PROCESS_INDEX"
"""The variable with the number of a process among those of its supervisor, from 0."""
LINK_VARIABLE = "MESHHOOK_SUPERVISOR_FD"
"""The variable with the file descriptor of the socket."""
READY = b"ready\n"


class SupervisorLink:
    """The connection to the supervisor of this process; does nothing without one."""

    def __init__(self, link: socket.socket | None = None) -> None:
        self._link = link

    @classmethod
    def from_environment(cls) -> Self:
        """Take the socket that the supervisor opened, and hide it from child processes."""
        number = os.environ.pop(LINK_VARIABLE, None)
        if number is None:
            return cls()
        link = socket.socket(fileno=int(number))
        link.set_inheritable(False)
        link.setblocking(False)  # noqa: FBT003 - the name says what it is
        return cls(link)

    def say_ready(self) -> None:
        """Tell the supervisor that the worker has started."""
        if self._link is not None:
            # If the supervisor is gone, `watch` notices.
            with suppress(OSError):
                self._link.send(READY)

    def watch(self, on_gone: Callable[[], None]) -> None:
        """Call `on_gone` once, in this event loop, when the supervisor has ended."""
        link = self._link
        if link is None:
            return
        loop = asyncio.get_running_loop()

        def look() -> None:
            # The supervisor never sends anything: being readable means that it has ended.
            loop.remove_reader(link)
            on_gone()

        loop.add_reader(link, look)

    def close(self) -> None:
        """Close the socket. Call it in the event loop that watches, if one does."""
        if self._link is not None:
            asyncio.get_running_loop().remove_reader(self._link)
            self._link.close()
            self._link = None
