"""Receivers that send too much, too slowly, or what is no HTTP: none costs more than its limits."""

from __future__ import annotations

import asyncio
import gzip
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest

from meshhook.testing import AttemptResult, run_job
from support.hostile import is_safe_line
from support.receivers import RawReceiver, delivery_to, make_handler, raw_receiver

Script = Callable[[RawReceiver, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def saying(*parts: bytes, ends: bool = False) -> Script:
    """Return a script that sends bytes, and then ends or stays silent."""

    async def script(
        _: RawReceiver, __: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        for part in parts:
            writer.write(part)
        await writer.drain()
        if not ends:
            await asyncio.Event().wait()

    return script


def repeating(first: bytes, part: bytes) -> Script:
    """Return a script that sends bytes, and then others without end."""

    async def script(
        receiver: RawReceiver, _: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(first)
        await receiver.endlessly(writer, part)

    return script


async def delivered(script: Script, **options: float) -> tuple[AttemptResult, RawReceiver]:
    """Deliver once to a server that does what a script says."""
    async with raw_receiver(script) as receiver, make_handler(**options) as handler:
        result = await run_job(handler, delivery_to(receiver.url))
    return result, receiver


async def test_a_silent_receiver_is_a_timeout() -> None:
    """The error says how long it was waited for."""
    result, _ = await delivered(saying(), read_timeout_seconds=0.2)
    assert (result.outcome, result.error_type) == ("retried", "ReceiverTimeoutError")
    assert "was silent for 0.2 seconds" in (result.error_message or "")


async def test_a_receiver_that_trickles_is_a_timeout() -> None:
    """One byte now and then does not keep a delivery running."""

    async def trickle(
        _: RawReceiver, __: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nX-A: ")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)

    result, _ = await delivered(trickle, read_timeout_seconds=5, total_timeout_seconds=0.3)
    assert (result.outcome, result.error_type) == ("retried", "ReceiverTimeoutError")
    assert "did not answer within 0.3 seconds" in (result.error_message or "")


async def test_a_status_counts_whatever_becomes_of_the_body(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A receiver that said yes has the delivery, though its body never ends."""
    monkeypatch.setattr("meshhook.http.client.BODY_SECONDS", 0.1)
    head = b"HTTP/1.1 %d X\r\nContent-Length: 100\r\n\r\nno"
    yes, _ = await delivered(saying(head % 200))
    no, _ = await delivered(saying(head % 422))
    broken, _ = await delivered(saying(head % 200, ends=True))
    monkeypatch.setattr("meshhook.http.client.BODY_SECONDS", 60)
    for seconds in (0.5, 5, 50):  # in which a busy machine must see the head
        late, _ = await delivered(saying(head % 200), total_timeout_seconds=seconds)
        if late.outcome == "succeeded":
            break
    assert {yes.outcome, broken.outcome, late.outcome} == {"succeeded"}
    assert (no.outcome, no.error_type) == ("dead_lettered", "HTTP 422")
    assert (no.error_message or "").endswith(": no…")


@pytest.mark.parametrize("status", [200, 400])
async def test_a_giant_body_is_read_to_the_limit(status: int) -> None:
    """And then the connection is closed."""
    result, receiver = await delivered(
        repeating(
            b"HTTP/1.1 %d X\r\nTransfer-Encoding: chunked\r\n\r\n" % status,
            b"10000\r\n" + b"y" * 65_536 + b"\r\n",
        ),
        max_response_bytes=1_000,
    )
    assert result.outcome == ("succeeded" if status == 200 else "dead_lettered")
    assert len(result.error_message or "") < 500
    await asyncio.wait_for(receiver.closed.wait(), 60)
    assert receiver.sent_bytes < 20_000_000  # what the buffers of the system hold


async def test_a_compressed_body_is_not_unpacked() -> None:
    """A few kilobytes of it could become gigabytes."""
    bomb = gzip.compress(b"\0" * 50_000_000)
    head = b"HTTP/1.1 400 X\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
    with little_memory():
        result, _ = await delivered(saying(head, bomb))
    assert (result.outcome, result.error_type) == ("dead_lettered", "HTTP 400")
    assert is_safe_line(result.error_message or "")


@pytest.mark.parametrize(
    ("first", "part"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n" * 100),
        (b"HTTP/1.1 200 OK\r\nX-A: ", b"b" * 1_000),
        (b"HTTP/1.1 200 ", b"b" * 1_000),
        (b"HTTP/1.1 200 OK\r\n", b"X-A: " + b"b" * 8_000 + b"\r\n"),
    ],
    ids=["many", "long", "status", "many long"],
)
async def test_endless_headers_are_no_answer(first: bytes, part: bytes) -> None:
    """They are read to a limit, and the connection is closed."""
    with little_memory():
        result, receiver = await delivered(repeating(first, part))
        await asyncio.wait_for(receiver.closed.wait(), 60)
    assert (result.outcome, result.error_type) == ("retried", "InvalidAnswerError")
    assert len(result.error_message or "") < 500
    assert is_safe_line(result.error_message or "")


async def test_interim_answers_without_end_are_a_timeout() -> None:
    """None of them is kept."""
    with little_memory():
        result, _ = await delivered(
            repeating(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100), total_timeout_seconds=0.5
        )
    assert (result.outcome, result.error_type) == ("retried", "ReceiverTimeoutError")


@pytest.mark.parametrize(
    "said",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"220 mail.example ESMTP\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\n: x\x1b[2J\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_no_answer(said: bytes) -> None:
    """It is retried, and shown without effect."""
    result, _ = await delivered(saying(said))
    assert (result.outcome, result.error_type) == ("retried", "InvalidAnswerError")
    assert is_safe_line(result.error_message or "")
    assert "/hook" not in (result.error_message or "")


async def test_a_receiver_that_hangs_up_is_retried() -> None:
    """Before it said anything, or in the middle of its headers."""
    for said in (b"", b"HTTP/1.1 200 OK\r\nX-A: "):
        result, _ = await delivered(saying(said, ends=True))
        assert (result.outcome, result.error_type) == ("retried", "ReceiverUnreachableError")


async def test_answers_that_nobody_asked_for_are_dropped() -> None:
    """A second answer on a connection is not taken for that of the next delivery."""
    answer = b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n"
    async with raw_receiver(saying(answer % 500, answer % 200)) as receiver:
        handler = make_handler()
        for number in (1, 2):
            result = await run_job(handler, delivery_to(receiver.url))
            assert (result.outcome, result.error_type) == ("retried", "ReceiverError")
            assert receiver.connections == number


@contextmanager
def little_memory() -> Iterator[None]:
    """Fail if the block needs more than a few megabytes at once."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8_000_000
