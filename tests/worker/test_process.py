"""The collector of a worker's process."""

from __future__ import annotations

import subprocess
import sys


def test_the_program_is_left_alone() -> None:
    """What was imported is frozen, and new objects are looked at less often."""
    code = (
        "import gc; from meshhook import Worker; "
        "from meshhook.worker.process import leave_program_alone; leave_program_alone(); "
        "print(gc.get_freeze_count() > 10_000, gc.get_threshold()[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "10000"]
