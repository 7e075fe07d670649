"""Ctrl-C, from the first moment of the program to its last: one line, exit code 130, no trace."""

from __future__ import annotations

# Nothing else: until this has run, Ctrl-C prints a trace.
import os
import signal

TYPE_CHECKING = False

if TYPE_CHECKING:
    from types import FrameType

_CODE = 130


def leave_at_once() -> None:
    """Let Ctrl-C end the process on the spot, for as long as there is nothing to clean up.

    KeyboardInterrupt would do the same, except where Python can only print it: in the middle of an
    import, or while the interpreter exits.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def clean_up_first() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again, or cancel what an event loop runs."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(_number: int, _frame: FrameType | None) -> None:
    try:
        os.write(2, b"error: interrupted\n")
    finally:
        os._exit(_CODE)
