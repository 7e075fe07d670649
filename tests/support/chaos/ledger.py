"""A ledger outside of the database: each process appends whole lines to a file of its own."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Entry(NamedTuple):
    """One line of a ledger."""

    at: float
    """Seconds of the machine's monotonic clock, which all processes share."""
    pid: int
    """The process that wrote it."""
    event: str
    """What happened. Of a producer: attempted, confirmed, uncertain, refused, rolled_back. Of a
    handler: started, ended, failed, effect, forked."""
    run_id: str
    """The job that it happened to."""
    detail: str
    """What else there is to say."""


class Ledger:
    """Notes events; a process that is killed loses none of what it noted.

    Args:
        folder: where the file goes.
        name: begins the file's name.
        only: the events to note; empty: all of them.
    """

    def __init__(self, folder: Path, name: str, only: frozenset[str] = frozenset()) -> None:
        self._pid = os.getpid()
        self._only = only
        file = folder / f"{name}-{self._pid}-{time.time_ns()}"
        self._file = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    @classmethod
    def from_environment(cls, name: str) -> Ledger:
        """Return one as LEDGER, the folder, and LEDGER_ONLY say."""
        only = frozenset(os.environ.get("LEDGER_ONLY", "").split())
        return cls(Path(os.environ["LEDGER"]), name, only)

    def note(self, event: str, run_id: str, detail: object = "") -> None:
        """Append a line."""
        if self._only and event not in self._only:
            return
        line = json.dumps([time.monotonic(), self._pid, event, run_id, str(detail)])
        os.write(self._file, f"{line}\n".encode())

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def entries(folder: Path) -> Iterator[Entry]:
    """Yield what all processes have noted, file by file; half a line at an end is none."""
    for file in sorted(folder.iterdir()):
        for line in file.read_text().split("\n")[:-1]:
            yield Entry(*json.loads(line))
