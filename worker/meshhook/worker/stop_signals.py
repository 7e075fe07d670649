"""The signals that ask a process to stop in order."""

from __future__ import annotations

import signal


def stop_signals() -> tuple[signal.Signals, ...]:
    """Return SIGTERM, SIGINT and, unless it is ignored, SIGHUP.

    SIGHUP is what a terminal or an SSH session sends that goes away. Who started the process with
    `nohup` wants it to go on.
    """
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return signal.SIGTERM, signal.SIGINT
    return signal.SIGTERM, signal.SIGINT, signal.SIGHUP
