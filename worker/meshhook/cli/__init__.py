"""The command line `meshhook`."""

import os
import signal
import sys

from meshhook.cli.interrupts import leave_at_once


def main() -> None:
    """Run the command that the arguments of the program name, and exit with its code."""
    leave_at_once()
    if os.getpid() == 1:
        # The first process of a container takes no notice of a signal that it does not handle. A
        # pod that is told to stop while its handler is imported would start, take jobs, and be
        # killed with them. A command that stops in order sets a handler of its own later.
        signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))
    from meshhook.cli.app import run
    from meshhook.cli.uncaught import log_uncaught

    log_uncaught()
    try:
        sys.exit(run(sys.argv[1:]))
    finally:
        leave_at_once()
