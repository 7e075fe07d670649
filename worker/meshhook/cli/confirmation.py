"""Asking before something is deleted for good."""

from __future__ import annotations

import sys

from meshhook.cli.failures import UsageError
from meshhook.cli.interrupts import interruptible
from meshhook.errors import MeshHookError
from meshhook.escaping import shown_sentence


class DeclinedError(MeshHookError):
    """The answer was no."""


def confirm(question: str, *, yes: bool) -> None:
    """Ask on the terminal, unless `yes` is already given.

    Raises:
        UsageError: if there is no terminal to ask on.
        DeclinedError: if the answer is not yes.
        KeyboardInterrupt: at Ctrl-C, at once.
    """
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(f"{question} There is no terminal to ask on: confirm it with --yes")
    try:
        with interruptible():
            sys.stderr.write(f"{shown_sentence(question)} [y/N] ")
            sys.stderr.flush()
            answer = sys.stdin.readline()
    except KeyboardInterrupt:
        sys.stderr.write("\n")  # behind the ^C that the terminal shows
        raise
    if answer.strip().lower() not in {"y", "yes"}:
        raise DeclinedError("not confirmed: nothing was changed")
