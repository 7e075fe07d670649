"""A server that speaks PostgreSQL's protocol as far as it must, and then misbehaves.

It is a real TCP server, with a thread for each connection: what it sends does not wait for the
event loop of the test.
"""

from __future__ import annotations

import base64
import itertools
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

SSL_REQUEST = 80_877_103
TEXT, BIGINT, RECORD, TEXT_ARRAY = 25, 20, 2249, 1009
MEBIBYTE = 1_048_576

READY = b"Z\x00\x00\x00\x05I"


def message(kind: bytes, body: bytes = b"") -> bytes:
    """Return a message of the protocol."""
    return kind + struct.pack("!I", len(body) + 4) + body


def text(value: str) -> bytes:
    """Return a text as the protocol has it."""
    return value.encode() + b"\0"


def login_step(step: int, body: bytes = b"") -> bytes:
    """Return a message about the login."""
    return message(b"R", struct.pack("!I", step) + body)


def columns(*types: int) -> bytes:
    """Return the description of rows."""
    parts = [
        text(f"column{index}") + struct.pack("!IHIHiH", 0, 0, kind, 0, -1, 1)
        for index, kind in enumerate(types)
    ]
    return message(b"T", struct.pack("!H", len(types)) + b"".join(parts))


def row(*fields: bytes | None) -> bytes:
    """Return a row."""
    parts = [
        struct.pack("!i", -1) if field is None else struct.pack("!I", len(field)) + field
        for field in fields
    ]
    return message(b"D", struct.pack("!H", len(fields)) + b"".join(parts))


class Session:
    """One connection, after its first message was read."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection

    def send(self, data: bytes) -> None:
        """Send all of it."""
        self.connection.sendall(data)

    def send_for_ever(self, data: bytes) -> None:
        """Send it again and again, until the other side has enough."""
        data *= max(1, 65_536 // len(data))
        while True:
            self.connection.sendall(data)

    def let_in(self) -> None:
        """Be a server that is ready."""
        self.send(login_step(0))
        for name, value in (
            ("server_version", "18.0"),
            ("client_encoding", "UTF8"),
            ("server_encoding", "UTF8"),
            ("standard_conforming_strings", "on"),
        ):
            self.send(message(b"S", text(name) + text(value)))
        self.send(message(b"K", struct.pack("!II", 1, 2)) + READY)

    def await_statement(self) -> None:
        """Wait until a statement was sent to be prepared."""
        while self.read()[0] != b"P":
            pass

    def await_execution(self) -> None:
        """Wait until a statement is to be run."""
        while self.read()[0] != b"E":
            pass

    def describe(self, *types: int) -> None:
        """Describe the rows of the statement that was sent."""
        self.send(message(b"1") + message(b"t", struct.pack("!H", 0)) + columns(*types))

    def read(self) -> tuple[bytes, bytes]:
        """Return the next message."""
        head = self._read(5)
        return head[:1], self._read(struct.unpack("!I", head[1:])[0] - 4)

    def await_end(self) -> None:
        """Wait until the other side has gone."""
        while True:
            self.read()

    def read_first(self) -> int:
        """Read what comes before all messages, and return its code."""
        (length,) = struct.unpack("!I", self._read(4))
        return int(struct.unpack_from("!I", self._read(length - 4))[0])

    def _read(self, length: int) -> bytes:
        found = b""
        while len(found) < length:
            more = self.connection.recv(length - len(found))
            if not more:
                raise ConnectionResetError
            found += more
        return found


Behaviour = Callable[[Session], None]
"""What a server does once it was spoken to."""


class HostileServer:
    """Where it listens, and who has come."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.connections = 0
        """How many connections were accepted."""

    @property
    def url(self) -> str:
        """A URL that leads there, without TLS."""
        return f"postgresql://me:secret@127.0.0.1:{self.port}/app?sslmode=disable"


@contextmanager
def hostile_server(
    behave: Behaviour, *, tls: ssl.SSLContext | None = None
) -> Iterator[HostileServer]:
    """A server that behaves like that to whoever connects."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = HostileServer(listening.getsockname()[1])
    open_ones: list[socket.socket] = []

    def serve(connection: socket.socket) -> None:
        with suppress(OSError, struct.error), ExitStack() as stack:
            stack.enter_context(connection)
            session = Session(connection)
            if session.read_first() == SSL_REQUEST:
                if tls is None:
                    connection.sendall(b"N")
                else:
                    connection.sendall(b"S")
                    encrypted = tls.wrap_socket(connection, server_side=True)
                    session.connection = stack.enter_context(encrypted)
                    open_ones.append(encrypted)
                session.read_first()
            behave(session)

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listening.accept()
                server.connections += 1
                open_ones.append(connection)
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        with suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        for each in open_ones:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        thread.join()


# --- Before it is ready --------------------------------------------------------------------------


def giant_error(session: Session) -> None:
    """An error of 130 MiB."""
    session.send(b"E" + struct.pack("!I", 130 * MEBIBYTE) + b"M")
    session.send_for_ever(b"x" * 65_536)


def many_parameters(session: Session) -> None:
    """60 MiB of settings."""
    session.send(login_step(0))
    for index in itertools.count():
        session.send(message(b"S", text(f"setting{index}") + text("x" * 1_000)))


def endless_notices(session: Session) -> None:
    """Notices without end."""
    session.send(login_step(0))
    session.send_for_ever(message(b"N", b"SNOTICE\0Mmind the gap\0\0"))


def endless_negotiation(session: Session) -> None:
    """A version of the protocol, offered again and again."""
    session.send_for_ever(message(b"v", struct.pack("!II", 0, 0)))


def endless_login(session: Session) -> None:
    """A login that was never enough."""
    session.send_for_ever(login_step(3))


def costly_login(session: Session) -> None:
    """A password to be hashed two billion times."""
    session.send(login_step(10, text("SCRAM-SHA-256") + b"\0"))
    _, body = session.read()
    nonce = body.partition(b",r=")[2]
    salt = base64.b64encode(b"salt" * 4)
    session.send(login_step(11, b"r=" + nonce + b"server,s=" + salt + b",i=2147483647"))
    session.read()


def slow_drip(session: Session) -> None:
    """A login of a byte a second."""
    for byte in login_step(0) * 100:
        session.send(bytes([byte]))
        time.sleep(1)


def another_protocol(session: Session) -> None:
    """No PostgreSQL at all."""
    session.send_for_ever(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")


# --- As an answer --------------------------------------------------------------------------------


def silence(session: Session) -> None:
    """No answer to any statement."""
    session.let_in()
    while True:
        session.read()


def endless_rows(session: Session) -> None:
    """Rows without end."""
    session.let_in()
    session.await_statement()
    session.describe(TEXT, TEXT)
    session.await_execution()
    session.send(message(b"2"))
    session.send_for_ever(row(b"0001", b"ab"))


def empty_rows(session: Session) -> None:
    """Rows of nothing, which weigh more in memory than on the wire."""
    session.let_in()
    session.await_statement()
    session.describe(*[TEXT] * 200)
    session.await_execution()
    session.send(message(b"2"))
    session.send_for_ever(row(*[None] * 200))


def giant_row(session: Session) -> None:
    """A row of a gigabyte."""
    session.let_in()
    session.await_statement()
    session.describe(TEXT)
    session.await_execution()
    session.send(message(b"2") + b"D" + struct.pack("!I", 1_000 * MEBIBYTE))
    session.send_for_ever(b"x" * 65_536)


def many_columns(session: Session) -> None:
    """30,000 columns."""
    session.let_in()
    session.await_statement()
    session.describe(*[TEXT] * 30_000)
    session.await_end()


def deep_record(session: Session) -> None:
    """A record in a record in a record, 50,000 deep: the driver's decoder calls itself."""
    session.let_in()
    session.await_statement()
    session.describe(RECORD)
    session.await_execution()
    depth = 50_000
    heads = (struct.pack("!iIi", 1, RECORD, 12 * left + 4) for left in reversed(range(depth)))
    session.send(message(b"2") + row(b"".join(heads) + struct.pack("!i", 0)))
    session.await_end()


def vast_array(session: Session) -> None:
    """An array of two billion elements in twenty bytes."""
    session.let_in()
    session.await_statement()
    session.describe(TEXT_ARRAY)
    session.await_execution()
    field = struct.pack("!iiIii", 1, 0, TEXT, 2**31 - 1, 1)
    session.send(message(b"2") + row(field))
    session.await_end()


def copy(session: Session) -> None:
    """An invitation to copy, in place of rows."""
    session.let_in()
    session.await_statement()
    session.describe(TEXT)
    session.await_execution()
    session.send(message(b"2") + message(b"G", struct.pack("!BH", 0, 0)))
    session.send_for_ever(message(b"d", b"x" * 1_000))


def notifications(session: Session) -> None:
    """Notifications that nobody listens for, without end."""
    session.let_in()
    payload = text("meshhook_wake_jobs") + text("")
    session.send_for_ever(message(b"A", struct.pack("!I", 1) + payload))


def giant_notification(session: Session) -> None:
    """A notification of 100 MiB."""
    session.let_in()
    session.send(b"A" + struct.pack("!I", 100 * MEBIBYTE))
    session.send_for_ever(b"x" * 65_536)


def giant_refusal(session: Session) -> None:
    """An error of 130 MiB in answer to a statement."""
    session.let_in()
    session.await_statement()
    session.send(b"E" + struct.pack("!I", 130 * MEBIBYTE) + b"M")
    session.send_for_ever(b"x" * 65_536)


def wrong_types(session: Session) -> None:
    """Numbers where texts belong, and too few of them."""
    session.let_in()
    while True:
        while (found := session.read())[0] != b"P":
            if found[0] == b"Q":
                session.send(message(b"C", b"SELECT 0\0") + READY)
        session.describe(BIGINT)
        session.await_execution()
        session.send(message(b"2") + row(struct.pack("!q", 7)) + message(b"C", b"SELECT 1\0"))
        session.send(READY)


def rude_refusal(session: Session) -> None:
    """A refusal whose text clears terminals, turns the reading order round, and repeats the URL."""
    words = "\x1b[2J\u202eroot\n$ rm -rf / postgresql://me:secret@127.0.0.1/app " * 100
    session.send(message(b"E", b"SFATAL\0C28P01\0M" + text(words) + b"\0"))
