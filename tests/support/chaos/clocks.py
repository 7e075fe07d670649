"""Processes with a wrong clock: Debian's libfaketime, which is loaded before the C library.

A time namespace would not do: it shifts the monotonic clock, and never the time of day.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from support.chaos.processes import Forks
from support.skipping import skip

LIBRARIES = ("/usr/lib/*/faketime/libfaketimeMT.so.1",)


class WrongClock:
    """A clock of its own for all that `forks` starts."""

    def __init__(self, library: Path, file: Path) -> None:
        self._file = file
        self.set("+0")
        self.forks = Forks(
            environment={
                "LD_PRELOAD": str(library),
                "FAKETIME_TIMESTAMP_FILE": str(file),
                # It is read at each call, so that the clock may jump.
                "FAKETIME_NO_CACHE": "1",
                # Intervals stay true, as on a machine whose time of day is wrong.
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                "DONT_FAKE_MONOTONIC": "1",
            }
        )

    def set(self, offset: str) -> None:
        """Let it be wrong by an offset, `+10m` for example, from now on."""
        unfinished = self._file.with_suffix(".new")
        unfinished.write_text(f"{offset}\n")
        unfinished.replace(self._file)


@contextlib.contextmanager
def wrong_clock(file: Path) -> Iterator[WrongClock]:
    """Yield a clock; the test is skipped where libfaketime is missing."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        skip("libfaketime is not installed (on Debian: apt-get install faketime)")
    clock = WrongClock(found[0], file)
    try:
        yield clock
    finally:
        clock.forks.close()
