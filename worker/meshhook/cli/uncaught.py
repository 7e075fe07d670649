"""Errors that nobody handles, of threads, destructors and the program itself: logged as any other.

Python would print them as they are, with whatever secrets they hold.
"""

from __future__ import annotations

import sys
import threading
from types import TracebackType

from meshhook.observability.loggers import get_logger

_log = get_logger("meshhook.uncaught")


def log_uncaught() -> None:
    """Log what would be printed: for a program, not for a library."""
    sys.excepthook = _of_program
    sys.unraisablehook = _of_destructor
    threading.excepthook = _of_thread


def _of_program(_: type[BaseException], error: BaseException, __: TracebackType | None) -> None:
    _log.error("the program failed", exc_info=error)


def _of_destructor(found: sys.UnraisableHookArgs) -> None:
    _log.error(found.err_msg or "an error was passed over", exc_info=found.exc_value)


def _of_thread(found: threading.ExceptHookArgs) -> None:
    if isinstance(found.exc_value, SystemExit):
        return  # as Python does
    name = None if found.thread is None else found.thread.name
    _log.error("a thread failed", thread=name, exc_info=found.exc_value)
