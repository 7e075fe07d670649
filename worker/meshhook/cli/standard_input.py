"""Waiting for standard input, be it an answer to a question or the next line of a pipe."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from meshhook.cli.failures import UsageError
from meshhook.errors import MeshHookError
from meshhook.escaping import shown_sentence


class DeclinedError(MeshHookError):
    """The answer was no."""


def confirm(question: str, *, yes: bool) -> None:
    """Ask on the terminal, unless `yes` already says so.

    Not typer.confirm: it prints part of the question on standard output, where the result belongs,
    and takes no notice of a Ctrl-C that comes while it goes from printing to waiting.

    Raises:
        UsageError: if there is no terminal to ask on.
        DeclinedError: if the answer is not yes.
        KeyboardInterrupt: at Ctrl-C, at once.
    """
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(f"{question} There is no terminal to ask on: confirm with --yes")
    try:
        with interruptible():
            sys.stderr.write(f"{shown_sentence(question)} [y/N] ")
            sys.stderr.flush()
            answer = sys.stdin.readline()
    except KeyboardInterrupt:
        sys.stderr.write("\n")  # after the ^C that the terminal shows
        raise
    if answer.strip().lower() not in {"y", "yes"}:
        raise DeclinedError("not confirmed: nothing was changed")


@contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C end a block that waits for input by a KeyboardInterrupt, inside an event loop too.

    The loop would only cancel the task, which would learn of it once the input is there. For the
    main thread only. Where Ctrl-C is ignored, it stays ignored.
    """
    before = signal.getsignal(signal.SIGINT)
    if not callable(before):
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        if _is_cancelled():  # by a Ctrl-C a moment ago, when the loop still handled it
            raise KeyboardInterrupt
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _is_cancelled() -> bool:
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no event loop runs
        return False
    return task is not None and task.cancelling() > 0
