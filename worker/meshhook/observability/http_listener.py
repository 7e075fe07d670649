"""Serves a monitoring port: one thread that no client can block, and one for slow responses."""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from meshhook.observability.http_connections import (
    Connection,
    Connections,
    Stage,
    one_to_cut,
    source_of,
)
from meshhook.observability.http_messages import (
    MAX_HEAD_BYTES,
    BadRequestError,
    Request,
    Response,
    read_request,
    write_response,
)
from meshhook.observability.loggers import get_logger

_log = get_logger("meshhook.monitoring")

MAX_CONNECTIONS: Final = 128
MAX_SLOW_ANSWERS: Final = 8
"""How many slow responses may be queued, made and sent at a time; each may be megabytes."""
REQUEST_SECONDS = 5.0
"""How long a client may take to send its request, from connecting on."""
ANSWER_SECONDS = 10.0
"""How long a response may take, from the request until the client has received all of it."""
LEAVING_SECONDS = 1.0
"""How long a client may take to hang up. Closing at once could cut off the end of its response."""
PAUSE_SECONDS = 0.1
"""How long no connection is accepted while the process has no file descriptor left."""

_BACKLOG: Final = 1024
_ACCEPTS_A_TURN: Final = 64
_CHUNK_BYTES: Final = 65_536
_THROW_AWAY: Final = struct.pack("ii", 1, 0)
_NOTHING_LEFT: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class HttpListener:
    """Answers one request per connection.

    When it is full, the oldest connection of the busiest source is cut, so a new one is always
    accepted, and answered in the turn of the loop in which its request arrives.
    """

    def __init__(
        self,
        listening: socket.socket,
        *,
        quick: Callable[[Request], Response | None],
        slow: Callable[[Request], Response],
    ) -> None:
        """Take a bound socket and the functions that answer requests.

        Args:
            listening: the bound socket, owned by the listener from now on.
            quick: answers immediately, or returns None to leave it to `slow`. It must not raise.
            slow: answers in a thread of its own, and may take time. It must not raise.
        """
        self._listening = listening
        self._quick = quick
        self._slow = slow
        self._connections = Connections()
        self._selector = selectors.DefaultSelector()
        self._waker, self._woken = socket.socketpair()
        self._reserve: int | None = None
        self._accept_again: float | None = None
        self._is_stopping = False
        self._waiting: deque[Connection] = deque()
        self._made: deque[tuple[Connection, memoryview]] = deque()
        self._work = threading.Semaphore(0)
        self._threads = [
            threading.Thread(target=target, name=name, daemon=True)
            for target, name in (
                (self._serve, "meshhook-monitoring"),
                (self._make_slow_answers, "meshhook-metrics"),
            )
        ]

    def start(self) -> None:
        """Start listening and answering."""
        for each in (self._listening, self._waker, self._woken):
            each.settimeout(0)
        self._listening.listen(_BACKLOG)
        self._selector.register(self._listening, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._keep_reserve()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Close the port and every connection; a slow response in progress gets a second."""
        self._is_stopping = True
        self._work.release()
        self._wake()
        serving, making = self._threads
        serving.join()
        making.join(timeout=1.0)  # a collector may hang; its thread dies with the process

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # full: it is about to wake; closed: it has stopped
            self._waker.send(b"\0")

    # --- The thread that serves --------------------------------------------------------------

    def _serve(self) -> None:
        try:
            while not self._is_stopping:
                try:
                    self._turn()
                except Exception as error:  # noqa: BLE001 - such as a system without memory
                    _log.error("the monitoring port had an error", exc_info=error)
                    time.sleep(PAUSE_SECONDS)
        finally:
            for each in self._connections:
                self._cut(each)
            self._selector.close()
            for closed in (self._listening, self._waker, self._woken):
                closed.close()
            self._let_reserve_go()

    def _turn(self) -> None:
        for key, _ in self._selector.select(self._seconds_to_wait()):
            if key.fileobj is self._listening:
                self._accept()
            elif key.fileobj is self._woken:
                self._woken.recv(_CHUNK_BYTES)
            elif key.data.is_open:  # one before it in this turn may have cut it
                self._take_step(key.data)
        while self._made:
            connection, answer = self._made.popleft()
            connection.unsent = answer
            if connection.is_open:
                self._take_step(connection)
        now = time.monotonic()
        for each in self._connections:
            if each.deadline <= now:
                self._cut(each)
        if self._accept_again is not None and self._accept_again <= now:
            self._accept_again = None
            self._selector.register(self._listening, selectors.EVENT_READ)
        self._keep_reserve()

    def _seconds_to_wait(self) -> float | None:
        times = [self._connections.next_deadline(), self._accept_again]
        first = min((each for each in times if each is not None), default=None)
        return None if first is None else max(0.0, first - time.monotonic())

    def _accept(self) -> None:
        # The system needs a file descriptor before it looks for a client. Only the first accept is
        # certain to find one: no connection is cut for a client that may not exist.
        is_certain = True
        for _ in range(_ACCEPTS_A_TURN):
            try:
                accepted, address = self._listening.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in _NOTHING_LEFT:
                    continue  # this client has gone already
                if not is_certain or not self._make_room():
                    return
                is_certain = False
                continue
            is_certain = False
            if len(self._connections) >= MAX_CONNECTIONS:
                self._cut(one_to_cut(self._connections))
            accepted.settimeout(0)
            deadline = time.monotonic() + REQUEST_SECONDS
            connection = Connection(accepted, source_of(address), deadline)
            self._connections.add(connection)
            self._selector.register(accepted, selectors.EVENT_READ, connection)
            self._take_step(connection)

    def _take_step(self, connection: Connection) -> None:
        try:
            if connection.stage is Stage.ANSWERING:
                self._send(connection)
            else:
                self._receive(connection)
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self._cut(connection)  # the client has left
        except Exception as error:  # noqa: BLE001 - ends this connection and no more
            _log.error("a request was not answered", exc_info=error)
            self._cut(connection)

    def _receive(self, connection: Connection) -> None:
        received = connection.socket.recv(_CHUNK_BYTES)
        if not received:
            self._cut(connection)
        if connection.stage is Stage.LEAVING or not received:
            return
        connection.received += received[:MAX_HEAD_BYTES]
        try:
            request = connection.request = read_request(connection.received)
            response = None if request is None else self._quick(request)
        except BadRequestError as error:
            request, response = None, error.response
        if request is None and response is None:
            return
        connection.stage = Stage.ANSWERING
        connection.deadline = time.monotonic() + ANSWER_SECONDS
        connection.received.clear()
        if response is not None:
            connection.unsent = _on_the_wire(request, response)
            self._send(connection)
            return
        # Nothing is read meanwhile; what a client sends on waits in the system, within its limits.
        self._selector.unregister(connection.socket)
        slow = [each for each in self._connections if each.is_slow]
        if len(slow) >= MAX_SLOW_ANSWERS:
            self._cut(one_to_cut(slow))
        connection.is_slow = True
        self._waiting.append(connection)
        self._work.release()

    def _send(self, connection: Connection) -> None:
        try:
            sent = connection.socket.send(connection.unsent)
        except BlockingIOError:
            sent = 0
        connection.unsent = connection.unsent[sent:]
        if connection.unsent:
            self._watch(connection, selectors.EVENT_WRITE)
            return
        connection.stage = Stage.LEAVING
        connection.is_slow = False
        connection.deadline = time.monotonic() + LEAVING_SECONDS
        self._watch(connection, selectors.EVENT_READ)
        connection.socket.shutdown(socket.SHUT_WR)

    def _cut(self, connection: Connection) -> None:
        with contextlib.suppress(KeyError, ValueError):  # nothing of it is waited for
            self._selector.unregister(connection.socket)
        with contextlib.suppress(ValueError):  # its answer was not to be made
            self._waiting.remove(connection)
        if connection.unsent:  # or the system would keep what it has of it for a while
            with contextlib.suppress(OSError):
                connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _THROW_AWAY)
        self._connections.remove(connection)

    def _watch(self, connection: Connection, events: int) -> None:
        key = self._selector.get_map().get(connection.socket)
        if key is None:
            self._selector.register(connection.socket, events, connection)
        elif key.events != events:
            self._selector.modify(connection.socket, events, connection)

    # --- File descriptors --------------------------------------------------------------------

    def _make_room(self) -> bool:
        """Free a file descriptor if the process has none left; return whether one was freed."""
        if self._reserve is not None:
            self._let_reserve_go()
        elif len(self._connections):
            self._cut(one_to_cut(self._connections))
        else:  # others have them all; asking again at once would keep a processor busy
            self._selector.unregister(self._listening)
            self._accept_again = time.monotonic() + PAUSE_SECONDS
            return False
        return True

    def _keep_reserve(self) -> None:
        if self._reserve is None:
            with contextlib.suppress(OSError):
                self._reserve = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def _let_reserve_go(self) -> None:
        if self._reserve is not None:
            os.close(self._reserve)
            self._reserve = None

    # --- The thread that makes slow answers --------------------------------------------------

    def _make_slow_answers(self) -> None:
        while True:
            self._work.acquire()
            if self._is_stopping:
                return
            try:
                connection = self._waiting.popleft()
            except IndexError:
                continue  # it was cut meanwhile
            if connection.request is None:
                continue
            began = time.monotonic()
            response = self._slow(connection.request)
            self._made.append((connection, _on_the_wire(connection.request, response)))
            self._wake()
            # At most half of a thread's time, however many clients ask: the jobs need the rest.
            time.sleep(min(time.monotonic() - began, PAUSE_SECONDS))


def _on_the_wire(request: Request | None, response: Response) -> memoryview:
    is_head = request is not None and request.method == "HEAD"
    return memoryview(write_response(response, with_body=not is_head))
