"""The processor time that a database server has used: all its processes, from /proc.

It says what work costs on a machine that does other things beside: it leaves out waiting.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class ServerTime:
    """Sums the time of a server's processes, of those that have ended as well.

    Args:
        postmaster: the process id of the server.
    """

    def __init__(self, postmaster: int) -> None:
        self._postmaster = postmaster
        self._seen: dict[int, float] = {}

    def seconds_of(self, pids: Iterable[int]) -> float:
        """Return what some of its processes had used when they were last seen."""
        return sum(self._seen.get(pid, 0.0) for pid in pids)

    def seconds(self) -> float:
        """Return the processor seconds so far, of each process up to when it was last seen."""
        for pid in [self._postmaster, *_children(self._postmaster)]:
            with suppress(OSError, ValueError):
                nanoseconds = Path(f"/proc/{pid}/schedstat").read_text("ascii").split()[0]
                self._seen[pid] = int(nanoseconds) / 1e9
        return sum(self._seen.values())


def _children(pid: int) -> list[int]:
    with suppress(OSError):
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii")
        return [int(each) for each in text.split()]
    return []
