"""Processes that handlers fork: they leave the worker to the process that they come from.

A forked process is a copy: it has the worker's signal handlers, event loop and connections, and
would go on with them. One that runs something of its own and ends, as those of `multiprocessing`,
may do so; one that comes back from its handler ends there.
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
    """Whether this process was forked off by a job of a worker; made in the worker's event loop."""

    def __init__(
        self, *, sockets: Callable[[], Iterable[int]], on_fork: Callable[[], object]
    ) -> None:
        """Take what to do in a forked process.

        Args:
            sockets: returns the numbers of the worker's sockets; they are let go of.
            on_fork: makes sure that the process starts no jobs.
        """
        self._sockets = sockets
        self._on_fork = on_fork
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()

    def watch(self) -> None:
        """Take care of processes that are forked from now on."""
        _watched.add(self)

    def ignore(self) -> None:
        """Take care of them no longer."""
        _watched.discard(self)

    def leave_worker(self) -> None:
        """Leave the worker alone, in the process that was forked."""
        nothing = os.open(os.devnull, os.O_RDWR)
        try:
            for number in self._sockets():
                # Not a word may get on the wire that the other process talks on.
                os.dup2(nothing, number, inheritable=False)
        finally:
            os.close(nothing)
        self._on_fork()
        if threading.get_ident() == self._thread:
            self._end_in_loop()

    def _end_in_loop(self) -> None:
        """End the process when the event loop has its turn again, before all else that waits."""
        handle = self._loop.call_soon(_end_lost)
        # uvloop shows what it has to call next to the garbage collector alone.
        for waiting in (getattr(self._loop, "_ready", None), *gc.get_referents(self._loop)):
            if isinstance(waiting, deque) and waiting and waiting[-1] is handle:
                waiting.rotate(1)
                break


# A fork copies the whole process, whoever asks for it: so what it has to do is the process's.
_watched: WeakSet[ForkedProcess] = WeakSet()


def end_forked(ended: object) -> NoReturn:
    """End a forked process that has come back from its handler.

    Args:
        ended: what the handler returned or raised: the exit code is 0, that of SystemExit, or 1.
    """
    code = 1 if isinstance(ended, BaseException) else 0
    if isinstance(ended, SystemExit):
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    elif isinstance(ended, BaseException):
        with suppress(BaseException):
            sys.excepthook(type(ended), ended, ended.__traceback__)
    _end(code)


def call_here_only(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    """Call a function, and end a process that it has forked and that comes back from it.

    To be called in a thread: in a forked process there is nobody who waits for what it returns.
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
            b"a process that a handler has forked cannot go on in the worker's event loop; it "
            b"ends. Let it end by itself: os._exit(0)\n",
        )
    _end(1)


def _end(code: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(code & 0xFF)


# The signals that a thread had blocked before it forked.
_blocked = threading.local()


def _hold_signals() -> None:
    # One that reaches the new process too early would be told to the event loop of the old one.
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
