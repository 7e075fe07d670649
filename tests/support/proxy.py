"""A TCP proxy that delays, stalls, swallows, cuts or resets, and knows whose link it is.

It runs in a thread of its own, so that tests with or without an event loop may use it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from support.listening import stop_listening

HOST = "127.0.0.1"
_NAME = b"application_name\0"
_IDLE = b"Z\x00\x00\x00\x05I"
"""What PostgreSQL says last when it has ended a statement, and a transaction if there was one."""
_CHUNK_BYTES = 65_536
_Value = TypeVar("_Value")


@dataclass(eq=False)
class Link:
    """One connection of a client."""

    client: asyncio.StreamWriter
    flowing: asyncio.Event
    """Set while it passes on what it has taken."""
    server: asyncio.StreamWriter | None = None
    application: str = ""
    """The application_name that the client gave; empty until then, or if it gave none."""
    loses: frozenset[str] = frozenset()
    """What is swallowed: questions, answers, or both."""
    ends_when_idle: bool = False
    """Whether it is cut once the server has said that it is idle."""
    pumps: list[asyncio.Task[None]] = field(default_factory=list)
    serving: asyncio.Task[None] | None = None

    def reset(self) -> None:
        """Break it as a crashed host does: with an RST to both sides."""
        for writer in (self.client, self.server):
            if writer is None:
                continue
            connection: socket.socket | None = writer.get_extra_info("socket")
            if connection is not None:
                with contextlib.suppress(OSError):
                    linger = struct.pack("ii", 1, 0)
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
        for pump in self.pumps:
            pump.cancel()


class Proxy:
    """Listens on a port of 127.0.0.1, passes connections on, and misbehaves when told to.

    What it does to links may be limited to those of an application of PostgreSQL, by the start of
    its name.

    Attributes:
        port: where it listens.
        connections: how many connections it has taken so far.
        cuts: how many links `lose_answer_to` has cut.
        swallowed_bytes: how much it did not pass on.
    """

    def __init__(self, target: str | int) -> None:
        """Take where to: the port of a server on this machine, or a URL with host and port."""
        parts = urlsplit(target if isinstance(target, str) else f"//{HOST}:{target}")
        self._target = (parts.hostname or HOST, parts.port or 5432)
        self.port = 0
        self.connections = 0
        self.cuts = 0
        self.swallowed_bytes = 0
        self._last_words: bytes | None = None
        self._links: set[Link] = set()
        self._delay_seconds = 0.0
        self._loses_new: frozenset[str] = frozenset()
        self._barred: tuple[str, ...] = ()
        self._server: asyncio.Server | None = None
        self._reserved: socket.socket | None = None
        self._loop = asyncio.new_event_loop()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        """Listen."""
        # It never listens: it keeps the port from others while nobody does.
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._reserved.bind((HOST, 0))
        self.port = self._reserved.getsockname()[1]
        self._thread.start()
        self.accept()
        return self

    def __exit__(self, *_: object) -> None:
        """Break all links, and stop listening."""
        self.refuse()
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        if self._reserved is not None:
            self._reserved.close()

    def url(self, database: str) -> str:
        """Return the URL of a database behind it."""
        return f"postgresql://postgres@{HOST}:{self.port}/{database}"

    def through(self, url: str) -> str:
        """Return a URL with the proxy in place of its host and port."""
        parts = urlsplit(url)
        login, at, _ = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{login}{at}{HOST}:{self.port}").geturl()

    def lead_to(self, port: int) -> None:
        """Pass connections that are made from now on to another port."""
        self._target = (HOST, port)

    def applications(self) -> list[str]:
        """Return the names of the applications that are connected now."""
        return sorted(link.application for link in list(self._links))

    def accept(self) -> None:
        """Take connections; after `refuse`, on the same port as before."""
        if self._server is None:
            self._run(self._listen())

    def refuse(self) -> None:
        """Break all links, and refuse new ones: the network is cut, or the server gone."""
        if self._server is not None:
            self._run(stop_listening(self._server))
            self._server = None
        self.reset()

    def reset(self, application: str = "") -> int:
        """Break links; new ones are welcome. Returns how many."""
        return self._each(application, Link.reset)

    def bar(self, *applications: str) -> None:
        """Break all links of some applications, also new ones, until the next call."""
        self._barred = applications
        for application in applications:
            self.reset(application)

    def slow_down(self, delay_seconds: float) -> None:
        """Pass everything on that much later from now on; 0 ends it."""
        self._delay_seconds = delay_seconds

    def swallow(self, application: str = "", *, new_ones: bool = False) -> int:
        """Pass nothing on, and say nothing: half-open links. Returns how many.

        Args:
            application: of which application.
            new_ones: whether also links that are made from now on are half-open, until `heal`.
        """
        if new_ones:
            self._loses_new = frozenset({"questions", "answers"})
        return self._lose(application, "questions", "answers")

    def lose_answers(self, application: str = "") -> int:
        """Let the server hear everything and the client nothing. Returns of how many links."""
        return self._lose(application, "answers")

    def lose_answer_to(self, words: bytes) -> None:
        """Let the server hear and commit the next statement with these words, and cut its link."""
        self._last_words = words

    def stall(self) -> None:
        """Pass nothing on from now on, and say nothing; keep what comes until `resume`."""
        self._loop.call_soon_threadsafe(self._flowing.clear)

    def resume(self) -> None:
        """Go on after `stall`."""
        self._loop.call_soon_threadsafe(self._flowing.set)

    def forget(self) -> None:
        """Stall the links of now for ever; later ones work. So do firewalls."""

        async def forget() -> None:
            self._flowing.clear()
            self._flowing = asyncio.Event()
            self._flowing.set()

        self._run(forget())

    def heal(self) -> None:
        """Let new links work; half-open ones stay as they are."""
        self._loses_new = frozenset()

    def _lose(self, application: str, *what: str) -> int:
        def lose(link: Link) -> None:
            link.loses = frozenset(what)

        return self._each(application, lose)

    def _each(self, application: str, do: Callable[[Link], None]) -> int:
        async def go() -> int:
            links = [link for link in self._links if link.application.startswith(application)]
            for link in links:
                do(link)
            return len(links)

        return self._run(go())

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._take, HOST, self.port, reuse_port=True)

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # At once: a task that is cancelled before it starts could not close the connection.
        link = Link(writer, self._flowing, loses=self._loses_new)
        self._links.add(link)
        self.connections += 1
        link.serving = asyncio.create_task(self._serve(reader, link))

    async def _serve(self, reader: asyncio.StreamReader, link: Link) -> None:
        writer = link.client
        try:
            server_reader, link.server = await asyncio.open_connection(*self._target)
            link.pumps = [
                asyncio.create_task(self._pump(reader, link.server, link, "questions")),
                asyncio.create_task(self._pump(server_reader, writer, link, "answers")),
            ]
            await asyncio.wait(link.pumps)
        except OSError:
            pass
        finally:
            self._links.discard(link)
            for each in (writer, link.server):
                if each is not None:
                    each.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: Link, what: str
    ) -> None:
        passing: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        sender = asyncio.create_task(self._send(passing, writer, link))
        try:
            while data := await reader.read(_CHUNK_BYTES):
                if what == "questions" and not link.application:
                    link.application = _application_in(data)
                    if link.application.startswith(self._barred):
                        link.reset()
                        return
                if what == "questions" and self._last_words and self._last_words in data:
                    self._last_words = None
                    link.loses, link.ends_when_idle = frozenset({"answers"}), True
                if what in link.loses:
                    self.swallowed_bytes += len(data)
                    if link.ends_when_idle and data.endswith(_IDLE):
                        self.cuts += 1
                        link.reset()
                        return
                else:
                    passing.put_nowait((self._loop.time() + self._delay_seconds, data))
            if what in link.loses:
                # The other side must not hear of the end either.
                await asyncio.Event().wait()
        except OSError:
            pass
        finally:
            passing.put_nowait((self._loop.time() + self._delay_seconds, b""))
            await sender

    async def _send(
        self, passing: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter, link: Link
    ) -> None:
        with contextlib.suppress(OSError, RuntimeError):
            while True:
                at, data = await passing.get()
                if at > self._loop.time():
                    await asyncio.sleep(at - self._loop.time())
                await link.flowing.wait()
                if not data:
                    writer.write_eof()
                    return
                writer.write(data)
                await writer.drain()

    async def _end(self) -> None:
        # A connection that is being taken meanwhile brings new tasks.
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
        for link in self._links:
            link.reset()
        self._links.clear()

    def _run(self, work: Coroutine[Any, Any, _Value]) -> _Value:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)


def _application_in(data: bytes) -> str:
    """Return the application_name of a startup message, or nothing."""
    _, found, rest = data.partition(_NAME)
    return rest.partition(b"\0")[0].decode() if found else ""
