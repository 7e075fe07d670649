"""Processes that handlers fork: they leave the worker to their parent process.

A forked process is a copy. It has the worker's signal handlers, event loop and connections, and
would continue with them. It may run code of its own and end, as processes of `multiprocessing` do;
but if it returns from its handler, it ends there.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import threading
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn
from weakref import WeakSet

from meshhook.worker.signal_handlers import RELEASED_SIGNALS, release_signals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class ForkedProcess:
    """What happens in a process that a job forks. Create it in the worker's event loop."""

    def __init__(
        self, *, sockets: Callable[[], Iterable[int]], on_fork: Callable[[], object]
    ) -> None:
        """Take what to do in a forked process.

        Args:
            sockets: returns the file descriptors of the worker's sockets, which it lets go of.
            on_fork: makes sure that the process starts no jobs.
        """
        self._sockets = sockets
        self._on_fork = on_fork
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()

    def watch(self) -> None:
        """Handle processes that are forked from now on."""
        _watched.add(self)

    def ignore(self) -> None:
        """Handle them no longer."""
        _watched.discard(self)

    def leave_worker(self) -> None:
        """Detach the forked process from the worker."""
        nothing = os.open(os.devnull, os.O_RDWR)
        try:
            for number in self._sockets():
                # Nothing may be sent on connections that the parent process uses.
                os.dup2(nothing, number, inheritable=False)
        finally:
            os.close(nothing)
        self._on_fork()
        if threading.get_ident() == self._thread:
            self._end_in_loop()

    def _end_in_loop(self) -> None:
        """End the process at the event loop's next turn, before anything else runs."""
        handle = self._loop.call_soon(_end_lost)
        # uvloop shows what it calls next only to the garbage collector.
        for waiting in (getattr(self._loop, "_ready", None), *gc.get_referents(self._loop)):
            if isinstance(waiting, deque) and waiting and waiting[-1] is handle:
                waiting.rotate(1)
                break


# A fork copies the whole process, whoever asks for it: so this belongs to the process.
_watched: WeakSet[ForkedProcess] = WeakSet()


def end_forked(ended: object) -> NoReturn:
    """End a forked process that has returned from its handler.

    Args:
        ended: what the handler returned or raised. The exit code is 0, that of SystemExit, or 1.
    """
    code = 1 if isinstance(ended, BaseException) else 0
    if isinstance(ended, SystemExit):
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    elif isinstance(ended, BaseException):
        with suppress(BaseException):
            sys.excepthook(type(ended), ended, ended.__traceback__)
    _end(code)


def call_here_only(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    """Call a function in a thread, and end a process that it forks if that returns from it.

    In the forked process nobody waits for the result.
    """
    process = os.getpid()
    ended: object = None
    try:
        ended = function(*arguments, **keywords)
    except BaseException as error:
        ended = error
        raise
    finally:
        if os.getpid() != process:
            end_forked(ended)
    return ended


def _end_lost() -> None:
    with suppress(OSError):
        os.write(
            2,
            b"a process that a handler forked cannot continue in the worker's event loop; it ends "
            b"now. Let it end by itself: os._exit(0)\n",
        )
    _end(1)


def _end(code: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(code & 0xFF)


# The signals that a thread had blocked before the fork.
_blocked = threading.local()


def _hold_signals() -> None:
    # A signal that arrives too early would be reported to the parent's event loop.
    _blocked.before = signal.pthread_sigmask(signal.SIG_BLOCK, RELEASED_SIGNALS)


def _let_signals_come() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _blocked.before)


def _leave_workers() -> None:
    watched = list(_watched)
    _watched.clear()
    if watched:
        release_signals()
    _let_signals_come()
    for process in watched:
        process.leave_worker()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_hold_signals, after_in_parent=_let_signals_come, after_in_child=_leave_workers
    )
