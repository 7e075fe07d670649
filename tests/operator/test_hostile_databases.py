"""A hostile database server can do nothing to the operator but fail."""

from __future__ import annotations

import asyncio
import os
import re
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
import trustme
from prometheus_client import CollectorRegistry

from meshhook.errors import MeshHookError
from meshhook.postgres import database as library_database
from meshhook_operator.databases import database as databases
from meshhook_operator.databases import guarded_loop
from meshhook_operator.databases.database import DatabaseAddress, QueueDatabase
from meshhook_operator.databases.demand import DemandRequest
from meshhook_operator.problems import problem_of
from support import hostile_server as hostile
from support.hostile_server import Behaviour, hostile_server
from support.waiting import eventually

REQUEST = DemandRequest("jobs", 5, is_waiting=True)
MOST_MEMORY_KIB = 48 * 1024
MOST_CPU_SECONDS = 4.0
"""Of the event loop's thread, whatever else the machine does: an error of 130 MiB once took 36."""
FAILURES = 5

CUT: dict[Behaviour, str] = {
    hostile.giant_error: "a message of 136,314,880 bytes",
    hostile.many_parameters: "more than 262,144 bytes",
    hostile.endless_notices: "notices and notifications at once",
    hostile.endless_negotiation: "more than 262,144 bytes",
    hostile.endless_login: "for a login too many times",
    hostile.costly_login: "iterations of SCRAM",
    hostile.another_protocol: "of type 'H'",
    hostile.endless_rows: "more than 16,777,216 bytes",
    hostile.empty_rows: "more than 16,777,216 bytes",
    hostile.giant_row: "a message of 1,048,576,000 bytes",
    hostile.many_columns: "a message of ",
    hostile.deep_record: "a column of type 2249",
    hostile.vast_array: "an array of 2,147,483,647 elements",
    hostile.copy: "of type 'G'",
    hostile.giant_refusal: "a message of 136,314,880 bytes",
    hostile.wrong_types: "is malformed",
}


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave what is refused time to come, also on a busy machine."""
    monkeypatch.setattr(databases, "FIRST_TICK_TIMEOUT_SECONDS", 100.0)
    monkeypatch.setattr(databases, "TICK_TIMEOUT_SECONDS", 100.0)
    monkeypatch.setattr(guarded_loop, "LOGIN_SECONDS", 100.0)
    monkeypatch.setattr(library_database, "CONNECT_TIMEOUT_SECONDS", 100.0)


@pytest.fixture
def impatient(patient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the timeouts, for what is to run into them."""
    monkeypatch.setattr(databases, "FIRST_TICK_TIMEOUT_SECONDS", 1.0)
    monkeypatch.setattr(guarded_loop, "LOGIN_SECONDS", 1.5)
    monkeypatch.setattr(library_database, "CONNECT_TIMEOUT_SECONDS", 1.0)


@pytest.fixture
async def nothing_left() -> AsyncIterator[None]:
    """No task and no open file is left behind."""
    files = open_files()
    yield
    await eventually(lambda: asyncio.all_tasks() == {asyncio.current_task()})
    await eventually(lambda: open_files() <= files)


def open_files() -> int:
    """Return how many files and sockets are open, those of the server's threads left out."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - links that may be gone at once


def make(url: str) -> QueueDatabase:
    """Return the operator's view of a database."""
    return QueueDatabase(
        DatabaseAddress(url, pooled=False),
        on_wake=lambda _: None,
        on_identity=lambda: None,
        registry=CollectorRegistry(),
    )


async def failure_of(database: QueueDatabase) -> tuple[str, str]:
    """Return the reason and the message that reading a queue ends with."""
    with pytest.raises(MeshHookError) as caught:
        await database.read_demand([REQUEST], waiting_seconds=5)
    problem = problem_of(caught.value)
    return problem.reason, problem.message


def forget_peak() -> None:
    """Let the peak of this process's memory be what it is now."""
    Path("/proc/self/clear_refs").write_text("5")


def memory_kib(name: str) -> int:
    """Return a figure of this process's memory."""
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1])


@pytest.mark.parametrize("behave", CUT, ids=lambda behave: behave.__name__)
async def test_a_server_that_sends_too_much_is_cut_off(behave, nothing_left):
    """The connection is closed at once, with the reason, at little cost of memory and CPU time."""
    with hostile_server(behave) as server:
        database = make(server.url)
        forget_peak()
        memory_before, cpu_before = memory_kib("VmRSS"), time.thread_time()
        reason, message = await failure_of(database)
        assert reason == "AnswerRefused"
        assert CUT[behave] in message
        assert time.thread_time() - cpu_before < MOST_CPU_SECONDS
        assert memory_kib("VmHWM") - memory_before < MOST_MEMORY_KIB
        await database.close()


@pytest.mark.parametrize(
    "behave", [hostile.slow_drip, hostile.silence], ids=lambda behave: behave.__name__
)
async def test_a_server_that_keeps_one_waiting_is_left(behave, impatient, nothing_left):
    """It fails after the time limit of a read, and leaves no connection and no task behind."""
    with hostile_server(behave) as server:
        database = make(server.url)
        for _ in range(2):
            reason, message = await failure_of(database)
            assert reason == "SourceUnavailable"
            assert re.search("did not answer within|no answer in time", message)
        await database.close()


@pytest.mark.parametrize(
    "behave",
    [hostile.notifications, hostile.giant_notification],
    ids=lambda behave: behave.__name__,
)
async def test_notifications_do_not_wake_without_end(behave, nothing_left):
    """The listening connection is closed, and opened again later."""
    woken: list[str] = []
    with hostile_server(behave) as server:
        database = QueueDatabase(
            DatabaseAddress(server.url, pooled=False),
            on_wake=woken.append,
            on_identity=lambda: None,
            registry=CollectorRegistry(),
        )
        database.listen(frozenset(["jobs"]))
        refusal = await eventually(database._loop.take_refusal)
        assert "notifications at once" in refusal or "a message of 104,857,600" in refusal
        assert len(woken) <= 2
        await database.close()


async def test_others_are_read_meanwhile(database_url):
    """However much a server sends, other databases are still read."""
    with hostile_server(hostile.endless_rows) as server:
        bad, good = make(server.url), make(database_url)
        await good.ensure_queue("jobs", {})
        looks = failures = meanwhile = 0

        async def fail() -> None:
            nonlocal failures, meanwhile
            while failures < FAILURES or meanwhile < FAILURES:
                before = looks
                assert (await failure_of(bad))[0] == "AnswerRefused"
                failures += 1
                meanwhile += looks - before

        async with asyncio.timeout(60):
            failing = asyncio.create_task(fail())
            while not failing.done():
                await good.read_demand([REQUEST], waiting_seconds=5)
                looks += 1
            await failing
        await bad.close()
        await good.close()


async def test_a_real_server_is_taken_at_its_word(database_url):
    """The answers for the metrics pass the limits too: sizes, ages, sums."""
    database = make(database_url)
    await database.ensure_queue("jobs", {})
    await database.read_demand([REQUEST], waiting_seconds=5)
    assert database._exporter is not None
    await eventually(lambda: database._exporter and database._exporter.rows)
    assert database._loop.take_refusal() is None
    await database.close()


@pytest.fixture(scope="module")
def certificate() -> ssl.SSLContext:
    """What a server shows."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.mark.parametrize(
    "behave",
    [hostile.giant_error, hostile.costly_login, hostile.endless_rows, hostile.wrong_types],
    ids=lambda behave: behave.__name__,
)
async def test_encryption_hides_nothing(behave, certificate, nothing_left):
    """Answers through TLS are checked as well."""
    with hostile_server(behave, tls=certificate) as server:
        database = make(server.url.replace("disable", "require"))
        reason, message = await failure_of(database)
        assert reason == "AnswerRefused"
        assert CUT[behave] in message
        await database.close()


@pytest.mark.parametrize("flood", [b"", b"x" * 65_536], ids=["stalls", "floods"])
@pytest.mark.parametrize("parameters", ["sslmode=require", "sslmode=require&sslnegotiation=direct"])
async def test_a_tls_upgrade_that_never_ends_is_left(flood, parameters, impatient, nothing_left):
    """A server that sends nothing or too much fails in time."""
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            await reader.read(8)
            writer.write(b"S")
            while flood:
                writer.write(flood)
                await writer.drain()
            while await reader.read(65_536):
                pass
        writer.close()
        gone.set()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        database = make(f"postgresql://me:secret@127.0.0.1:{port}/app?{parameters}")
        reason, _ = await failure_of(database)
        assert reason in {"SourceUnavailable", "AnswerRefused"}
        await gone.wait()
        await database.close()


async def test_the_words_of_a_server_are_only_shown():
    """Server text in a condition is one short line, without control characters or passwords."""
    with hostile_server(hostile.rude_refusal) as server:
        database = make(server.url)
        reason, message = await failure_of(database)
        assert reason == "LoginRefused"
        assert message.isprintable()
        assert len(message) <= 500
        assert r"\x1b[2J\u202eroot\n$" in message
        assert "secret" not in message
        await database.close()
