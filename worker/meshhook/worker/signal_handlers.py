"""Stopping at a signal, without taking the signal away from whoever listened before."""

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

    SIGHUP is what a terminal or an SSH session sends that goes away. Who started the process with
    `nohup` wants it to go on.
    """
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return signal.SIGTERM, signal.SIGINT
    return signal.SIGTERM, signal.SIGINT, signal.SIGHUP


@contextmanager
def stopping_at_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` in the event loop that runs, at each SIGTERM and SIGINT while this is open.

    At SIGHUP too, where it would end the process; a server that reads its settings anew at SIGHUP
    keeps it for itself.

    What was called before is called as well, and alone again afterwards: functions given to
    `signal.signal`, and those given to the event loop, which hears signals by a way of its own. The
    first Ctrl-C does not reach what raises KeyboardInterrupt or cancels the main task; the next
    does.

    Raises:
        InvalidSettingError: outside of the main thread, which alone may handle signals.
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
    """Let a process that was just forked die of its signals, as any other does.

    What it inherited would do nothing, or tell the event loop of the process that it came from.
    """
    # The other end is read there.
    signal.set_wakeup_fd(-1)
    for number in RELEASED_SIGNALS:
        handler = signal.getsignal(number)
        if isinstance(handler, TakenSignal):
            handler = handler.previous
        if isinstance(handler, TakenSignal) or _is_of_event_loop(handler):
            is_interrupt = number is signal.SIGINT
            handler = signal.default_int_handler if is_interrupt else signal.SIG_DFL
        with suppress(TypeError):  # one that is not Python's own stays
            signal.signal(number, handler)


class _Listener:
    """Somebody who is told of signals, in an event loop of theirs."""

    def __init__(self, loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> None:
        self.was_told = False
        self._loop = loop
        self._stop = stop

    def tell(self) -> None:
        self.was_told = True
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._stop)


class TakenSignal:
    """The handler of one signal while somebody listens to it here.

    Whoever replaces it may keep it, and put it back when nobody listens any more: it then does what
    was done before.
    """

    def __init__(self, number: signal.Signals, previous: Any) -> None:
        self.listeners: list[_Listener] = []
        self.previous = previous
        """What `signal.getsignal` returned before."""
        self._number = number

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Tell those who listen, and whom it was for before."""
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
        """Tell a listener no more; after the last one all is as it was before."""
        self.listeners.remove(listener)
        current: Any = signal.getsignal(self._number)
        # Somebody else may have taken the signal since: then it is theirs.
        if not self.listeners and current is self:
            with suppress(TypeError):  # a handler that is not Python's own cannot be put back
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
    """Whether it is Python's own handler of Ctrl-C, or that of `asyncio.run`."""
    if isinstance(handler, functools.partial):
        handler = handler.func
    is_of_runner = getattr(handler, "__module__", None) == "asyncio.runners"
    return is_of_runner or handler is signal.default_int_handler


def _is_of_event_loop(handler: Any) -> bool:
    if isinstance(handler, functools.partial):
        handler = handler.func
    home = str(getattr(handler, "__module__", None) or "")
    return home.split(".", maxsplit=1)[0] in {"asyncio", "uvloop"}
