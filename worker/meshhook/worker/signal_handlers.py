"""Stopping at a signal without taking the signal away from existing handlers."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from meshhook.errors import InvalidSettingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

RELEASED_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def stop_signals() -> tuple[signal.Signals, ...]:
    """Return SIGTERM, SIGINT and, unless it is ignored, SIGHUP.

    A terminal or SSH session sends SIGHUP when it closes. With `nohup` it is ignored, because the
    process is to go on.
    """
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return signal.SIGTERM, signal.SIGINT
    return signal.SIGTERM, signal.SIGINT, signal.SIGHUP


@contextmanager
def stopping_at_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` in the running event loop at each SIGTERM and SIGINT, while this context is open.

    Also at SIGHUP if that would end the process; a server that reloads its settings at SIGHUP keeps
    it.

    Existing handlers are called as well and restored afterwards, whether set with `signal.signal`
    or in the event loop, which hears signals in its own way. The first Ctrl-C does not reach
    handlers that raise KeyboardInterrupt or cancel the main task; the second one does.

    Raises:
        InvalidSettingError: called outside the main thread, the only one that can handle signals.
    """
    if threading.current_thread() is not threading.main_thread():
        raise InvalidSettingError(
            "a worker can handle signals in the main thread alone; use run(handle_signals=False), "
            "and call request_stop() in its event loop to stop it"
        )
    listener = _Listener(asyncio.get_running_loop(), stop)
    taken = [_take(number) for number in stop_signals() if _is_wanted(number)]
    for each in taken:
        each.listeners.append(listener)
    try:
        yield
    finally:
        for each in taken:
            each.leave(listener)


def release_signals() -> None:
    """Restore the default effect of signals in a process that was just forked.

    The inherited handlers would do nothing, or notify the event loop of the parent process.
    """
    # The parent reads the other end.
    signal.set_wakeup_fd(-1)
    for number in RELEASED_SIGNALS:
        handler = signal.getsignal(number)
        if isinstance(handler, TakenSignal):
            handler = handler.previous
        if isinstance(handler, TakenSignal) or _is_of_event_loop(handler):
            is_interrupt = number is signal.SIGINT
            handler = signal.default_int_handler if is_interrupt else signal.SIG_DFL
        with suppress(TypeError):  # one that was not set by Python stays
            signal.signal(number, handler)


class _Listener:
    """Someone who is told of signals, in their own event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> None:
        self.was_told = False
        self._loop = loop
        self._stop = stop

    def tell(self) -> None:
        self.was_told = True
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._stop)


class TakenSignal:
    """The handler of one signal while someone listens to it.

    Code that replaces it may keep it and put it back later, when nobody listens any more. It then
    only does what the previous handler did.
    """

    def __init__(self, number: signal.Signals, previous: Any) -> None:
        self.listeners: list[_Listener] = []
        self.previous = previous
        """What `signal.getsignal` returned before."""
        self._number = number

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Tell the listeners, and then the previous handler."""
        is_first = any(not listener.was_told for listener in self.listeners)
        for listener in self.listeners:
            listener.tell()
        if callable(self.previous):
            if not (is_first and _ends_the_main_task(self.previous)):
                self.previous(number, frame)
        elif self.previous is signal.SIG_DFL and not self.listeners:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def leave(self, listener: _Listener) -> None:
        """Stop telling a listener. After the last one, restore the previous handler."""
        self.listeners.remove(listener)
        current: Any = signal.getsignal(self._number)
        # If other code has taken the signal since, it stays theirs.
        if not self.listeners and current is self:
            with suppress(TypeError):  # a handler that was not set by Python cannot be restored
                signal.signal(self._number, self.previous)


def _is_wanted(number: signal.Signals) -> bool:
    current = signal.getsignal(number)
    return number is not signal.SIGHUP or isinstance(current, TakenSignal | signal.Handlers)


def _take(number: signal.Signals) -> TakenSignal:
    current = signal.getsignal(number)
    if isinstance(current, TakenSignal):
        return current
    taken = TakenSignal(number, current)
    signal.signal(number, taken)
    return taken


def _ends_the_main_task(handler: Any) -> bool:
    """Return whether it is Python's own handler of Ctrl-C or that of `asyncio.run`."""
    if isinstance(handler, functools.partial):
        handler = handler.func
    is_of_runner = getattr(handler, "__module__", None) == "asyncio.runners"
    return is_of_runner or handler is signal.default_int_handler


def _is_of_event_loop(handler: Any) -> bool:
    if isinstance(handler, functools.partial):
        handler = handler.func
    home = str(getattr(handler, "__module__", None) or "")
    return home.split(".", maxsplit=1)[0] in {"asyncio", "uvloop"}
