"""A handler for `meshhook worker` that waits until a test lets it go on."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from meshhook import Job


def gated(_: Job[Any]) -> None:
    """Write `started` into the file LEDGER, wait for the file GATE, and write `ended`."""
    ledger, gate = Path(os.environ["LEDGER"]), Path(os.environ["GATE"])
    ledger.write_text("started\n")
    while not gate.exists():
        time.sleep(0.02)
    ledger.write_text("started\nended\n")
