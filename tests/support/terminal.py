"""Commands as processes: their environment, and a terminal to type at."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from typing import Self


def environment(url: str | None, **more: str) -> dict[str, str]:
    """Return an environment in which only what a test says is set."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MESHHOOK_")}
    return kept | ({} if url is None else {"MESHHOOK_DATABASE_URL": url}) | more


class OnTerminal:
    """A command on a terminal of 80 columns."""

    def __init__(self, url: str, *arguments: str) -> None:
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "meshhook", *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment(url, TERM="xterm", COLUMNS="80", LINES="24"),
        )
        os.close(slave)
        self.shown = ""

    def read_until(self, text: str) -> str:
        """Read what it shows until there is `text`, or it has ended."""
        while text not in self.shown:
            try:
                self.shown += os.read(self.master, 65_536).decode()
            except OSError:  # the terminal's other end is closed
                break
        return self.shown

    def type(self, text: str) -> None:
        """Type something."""
        os.write(self.master, text.encode())

    def end(self) -> int:
        """Wait for its end, and return its code."""
        self.read_until("\0never")
        return self.process.wait(60)

    def __enter__(self) -> Self:
        """Use it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave neither the process nor the terminal behind."""
        self.process.kill()
        self.process.wait()
        os.close(self.master)
