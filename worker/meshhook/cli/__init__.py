"""The command line `meshhook`."""

from __future__ import annotations

import os
import signal
import sys

from meshhook.cli.interrupts import leave_at_once

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshhook.cli.applications import Application


def main() -> None:
    """Run the command that the arguments of the program name, and exit with its code."""
    leave_at_once()
    if os.getpid() == 1:
        # The first process of a container ignores signals that it does not handle. A pod told to
        # stop while its handler is imported would start, claim jobs, and be killed with them.
        # Commands that stop in order set a handler of their own later.
        signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))
    from meshhook.cli.app import log_uncaught, run  # noqa: PLC0415 - after leave_at_once

    log_uncaught()
    try:
        sys.exit(run(sys.argv[1:]))
    finally:
        leave_at_once()


def run_application(application: Application, arguments: Sequence[str]) -> int:
    """Run `meshhook worker` on an app of this program, and return the exit code.

    Args:
        application: the app.
        arguments: the command's own arguments, without `--app`.
    """
    from meshhook.cli.app import log_uncaught, run  # noqa: PLC0415 - `import meshhook` is quick
    from meshhook.cli.handler_loader import check_not_importing  # noqa: PLC0415 - the same

    check_not_importing()
    log_uncaught()
    return run(["worker", *arguments], application=application)
