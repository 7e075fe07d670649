"""Ctrl-C, from the first moment of the program to its last: one line, exit code 130, no trace."""

from __future__ import annotations

# Nothing else: until this has run, Ctrl-C prints a trace.
import os
import signal
import sys

TYPE_CHECKING = False

if TYPE_CHECKING:
    from types import FrameType, TracebackType

_CODE = 130


def leave_at_once() -> None:
    """Let Ctrl-C end the process on the spot: for as long as there is nothing to clean up.

    An exception would do the same, but for those that are raised where Python can only print
    them: in the middle of an import, or at the interpreter's end.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def clean_up_first() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again, or cancel what an event loop runs."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class interruptible:  # noqa: N801 - it reads as a function, as of contextlib
    """A block that waits for input, and that Ctrl-C ends by KeyboardInterrupt.

    Inside an event loop it would otherwise only cancel the task, which learns of it once the input
    is there. Not from another thread than the main one. Where Ctrl-C is ignored, it stays so.
    """

    def __enter__(self) -> None:
        """Take the signal over."""
        self._before = signal.getsignal(signal.SIGINT)
        if callable(self._before):
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if _is_cancelled():  # a moment ago, when it still was the loop's to handle
                signal.signal(signal.SIGINT, self._before)
                raise KeyboardInterrupt

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give it back."""
        if callable(self._before):
            signal.signal(signal.SIGINT, self._before)


def _is_cancelled() -> bool:
    # Without an event loop there is no need to load asyncio.
    if "asyncio" not in sys.modules:
        return False
    import asyncio

    try:
        task = asyncio.current_task()
    except RuntimeError:
        return False
    return task is not None and task.cancelling() > 0


def _leave(_number: int, _frame: FrameType | None) -> None:
    try:
        os.write(2, b"error: interrupted\n")
    finally:
        os._exit(_CODE)
