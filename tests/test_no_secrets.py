"""Nothing that this library says, shows or leaves behind has a part of a password in it.

Everything is run with a marked password, and searched for six of its characters in a row, as they
are or escaped, percent-encoded, in base64.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import pickle
import signal
import sys
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import psutil
import pytest
import rich.console
import rich.traceback
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from meshhook import DLQService, QueueExporter, QueueService, Worker
from meshhook.administration import set_queue_config
from meshhook.cli.app import all_commands, run
from meshhook.cli.connecting import Target
from meshhook.embedded import EmbeddedPostgres
from meshhook.embedded.postmaster import free_port
from meshhook.environment import load_settings
from meshhook.errors import DatabaseError, InvalidSettingError, MeshHookError
from meshhook.known_secrets import known_secrets, ways_to_write
from meshhook.postgres.connecting import connect
from meshhook.postgres.database import Database
from meshhook.postgres.url import parse_database_url
from meshhook.worker.connections import WorkerConnection
from meshhook_operator.databases.database import DatabaseAddress, QueueDatabase
from meshhook_operator.problems import problem_of
from meshhook_operator.secrets import FoundAddress
from meshhook_operator.url_checksums import UrlChecksums
from support.databases import Databases, server_directory
from support.logging_setup import logging_as_before
from support.marked import BAD, ENCODED, LEAST, PASSWORD, leaks, marked_login
from support.otlp import collector
from support.scraping import ask_aside
from support.waiting import eventually
from support.workers import TESTS


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """What other tests have let this process know helps none."""
    monkeypatch.setattr(known_secrets, "_secrets", {})
    monkeypatch.setattr(known_secrets, "_is_current", False)


@pytest.fixture
async def url(database_url: str, queue_name: str, databases: Databases) -> AsyncIterator[str]:
    """The URL of a database with a queue `jobs`, with the marked password in it."""
    async with marked_login(database_url) as url:
        yield url


# --- The search itself ---------------------------------------------------------------------------


def test_the_search_finds_every_form_and_every_part() -> None:
    """Else the other tests would prove nothing."""
    for form in ways_to_write(PASSWORD):
        assert leaks(f"before {form} behind"), form
    for i in range(len(PASSWORD) - LEAST + 1):
        assert leaks(PASSWORD[i : i + LEAST])
    for before in ("", "a", "ab"):
        assert leaks(base64.b64encode(f"{before}postgresql://me:{ENCODED}@h".encode()))
    assert leaks(repr(f"x{PASSWORD}".encode()))
    assert not leaks("postgresql://user:password@host:port/database %40 for @, %3A for :")


# --- Commands ------------------------------------------------------------------------------------

COMMANDS: dict[str, tuple[str, ...]] = {
    "enqueue": ("enqueue", "jobs", '{"x": 1}'),
    "publish": ("publish", "shop.a", '{"x": 1}'),
    "stats": ("stats",),
    "workers": ("workers",),
    "migrate": ("migrate",),
    "migrate sql": ("migrate", "sql"),
    "queue create": ("queue", "create", "others"),
    "queue list": ("queue", "list"),
    "queue show": ("queue", "show", "jobs"),
    "queue set": ("queue", "set", "jobs", "max_retry_attempts=3"),
    "queue pause": ("queue", "pause", "jobs"),
    "queue resume": ("queue", "resume", "jobs"),
    "queue bind": ("queue", "bind", "jobs", "shop.#"),
    "queue unbind": ("queue", "unbind", "jobs", "shop.#"),
    "queue bindings": ("queue", "bindings"),
    "queue purge": ("queue", "purge", "jobs", "--yes"),
    "queue drop": ("queue", "drop", "jobs", "--yes"),
    "keys list": ("keys", "list", "jobs"),
    "keys show": ("keys", "show", "jobs", "tenant-7"),
    "keys set": ("keys", "set", "jobs", "tenant-7", "weight=2"),
    "keys hold": ("keys", "hold", "jobs", "tenant-7"),
    "keys resume": ("keys", "resume", "jobs", "tenant-7"),
    "schedule add": ("schedule", "add", "jobs", "daily", "--cron", "@daily"),
    "schedule list": ("schedule", "list"),
    "schedule pause": ("schedule", "pause", "jobs", "daily"),
    "schedule resume": ("schedule", "resume", "jobs", "daily"),
    "schedule run": ("schedule", "run", "jobs", "daily"),
    "schedule history": ("schedule", "history", "jobs", "daily"),
    "schedule delete": ("schedule", "delete", "jobs", "daily", "--yes"),
    "encryption new-key": ("encryption", "new-key", "/no/such/folder/keys", "--id", "k1"),
    "encryption use-key": ("encryption", "use-key", "/no/such/folder/keys", "k1"),
    "encryption status": ("encryption", "status", "jobs"),
    "encryption rotate": ("encryption", "rotate", "jobs", "--dry-run"),
    "groups list": ("groups", "list"),
    "groups show": ("groups", "show", "jobs", "import-7", "--repair"),
    "doctor": ("doctor",),
    "audit list": ("audit", "list"),
    "audit export": ("audit", "export"),
    "roles create": ("roles", "create", "worker", "--login-from-env", "MARKED_LOGIN"),
    "roles grant": ("roles", "grant", "worker", "--name", "nobody_there"),
    "roles check": ("roles", "check"),
    "roles sql": ("roles", "sql", "worker"),
    "jobs list": ("jobs", "list"),
    "jobs show": ("jobs", "show", "jobs", "1"),
    "jobs cancel": ("jobs", "cancel", "jobs", "1"),
    "jobs set-priority": ("jobs", "set-priority", "jobs", "1", "--priority", "low"),
    "jobs reschedule": ("jobs", "reschedule", "jobs", "1", "--delay", "1"),
    "jobs run-now": ("jobs", "run-now", "jobs", "1"),
    "jobs replay": ("jobs", "replay", "jobs", "1"),
    "jobs delete": ("jobs", "delete", "jobs", "1", "--yes"),
    "dlq list": ("dlq", "list", "jobs"),
    "dlq show": ("dlq", "show", "jobs", "1"),
    "dlq errors": ("dlq", "errors", "jobs"),
    "dlq replay": ("dlq", "replay", "jobs", "1"),
    "dlq delete": ("dlq", "delete", "jobs", "1"),
    "dlq purge": ("dlq", "purge", "jobs", "--yes"),
}
"""What each command is run with; some fail even on a good database."""
ELSEWHERE = {"worker", "exporter", "console", "demo", "serve-postgres"}
"""Commands that run until they are stopped: they have tests of their own."""


def commands(found: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Return the names of all commands."""
    for name, each in getattr(found, "commands", {}).items():
        yield from commands(each, (*path, name))
    if not hasattr(found, "commands") or (path and found.invoke_without_command):
        yield " ".join(path)


def test_no_command_is_left_out() -> None:
    """A new one needs a line above."""
    assert set(commands(all_commands())) == set(COMMANDS) | ELSEWHERE


def output_of(
    arguments: tuple[str, ...],
    url: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    """Run a command in this process, and return all that it said."""
    monkeypatch.setenv("MESHHOOK_DATABASE_URL", url)
    monkeypatch.setenv("MESHHOOK_LOG_LEVEL", "debug")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    capsys.readouterr()
    run(arguments)
    captured = capsys.readouterr()
    return captured.out + captured.err


@pytest.fixture
def _logging_as_before() -> Iterator[None]:
    """What commands set up ends with the test."""
    with logging_as_before():
        yield


@pytest.mark.usefixtures("_logging_as_before")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command(
    url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """On a good database and on some that are not, with all that it logs and the whole trace."""
    monkeypatch.setenv("MARKED_LOGIN", url.replace("//marked_", "//also_marked_"))
    said = ""
    for each in (url, *(BAD[name](url) for name in ("wrong password", "wrong port", "raw"))):
        said += output_of(COMMANDS[command], each, capsys, monkeypatch)
    assert said
    assert leaks(said) == []


@pytest.mark.usefixtures("_logging_as_before")
@pytest.mark.parametrize("fault", BAD)
def test_a_bad_url_on_the_command_line(
    url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """Whatever is wrong with it."""
    bad = BAD[fault](url)
    said = output_of(("queue", "list"), bad, capsys, monkeypatch)
    assert "error: " in said
    assert leaks(said) == []


@pytest.mark.parametrize("fault", BAD)
async def test_a_bad_url_in_the_library(url: str, fault: str) -> None:
    """Nor in an error's text, its causes, or the variables of the frames it went through."""
    bad = [BAD[fault](url)]
    seen = QueueDatabase(
        DatabaseAddress(bad[0], pooled=False),
        on_wake=lambda _: None,
        on_identity=lambda: None,
        registry=CollectorRegistry(),
    )

    async def operate() -> None:
        await seen.ensure_queue("jobs", {})

    for attempt in (lambda: connect(bad[0]), lambda: Database.connect(bad[0]), operate):
        with pytest.raises(MeshHookError) as caught:
            await attempt()
        error = caught.value
        assert isinstance(error, DatabaseError | InvalidSettingError)
        assert leaks(all_of(error)) == []
        assert leaks(repr(problem_of(error))) == []
    await seen.close()


def all_of(error: BaseException) -> str:
    """Return whatever can be shown of an error but this test's own frames."""
    assert error.__traceback__ is not None
    tail = error.__traceback__
    while tail.tb_next is not None and tail.tb_frame.f_code.co_filename == __file__:
        tail = tail.tb_next
    console = rich.console.Console(file=io.StringIO(), width=200)
    error.__traceback__ = tail
    console.print(
        rich.traceback.Traceback.from_exception(
            type(error), error, tail, show_locals=True, locals_max_string=10_000
        )
    )
    chain = [error]
    while chain[-1].__cause__ or chain[-1].__context__:
        chain.append(chain[-1].__cause__ or chain[-1].__context__)  # type: ignore[arg-type]
    shown = [f"{each!s} {each!r} {each.args!r} {vars(each)!r}" for each in chain]
    written = io.StringIO()
    console.file.seek(0)
    written.write(console.file.read())
    return "\n".join([*shown, written.getvalue(), *traceback.format_exception(error)])


def mutated() -> st.SearchStrategy[str]:
    """URLs with the password in them, and something wrong with them."""
    pieces = st.sampled_from(
        [
            *("postgresql://", "postgres:/", "jdbc:postgresql://", "mysql://", "", "://", "x"),
            *("me", ":", "@", "/", "?", "#", "%", "&", "=", "[", "]", ",", "h", "h:5432", "db"),
            *("\n", " ", "'", "password=", "?password=", "&sslmode=require", "sslpassword="),
            *("service=", "host=", "port=", "options=", "%2", "%zz", "\\", "\x00", "é"),
        ]
    )
    password = st.sampled_from([PASSWORD, ENCODED, quote(PASSWORD), PASSWORD[:20], PASSWORD[20:]])
    random = (
        st.lists(pieces, min_size=1, max_size=8)
        .flatmap(lambda found: st.tuples(st.just(found), password, st.integers(0, len(found))))
        .map(lambda found: "".join([*found[0][: found[2]], found[1], *found[0][found[2] :]]))
    )
    whole = f"postgresql://me:{ENCODED}@h:5432/db?sslmode=require"
    raw = f"postgresql://me:{PASSWORD}@h:5432/db?sslmode=require"
    cut = st.tuples(st.sampled_from([whole, raw]), st.integers(0, 120), st.integers(0, 12), pieces)
    return random | cut.map(lambda f: f[0][: f[1]] + f[3] + f[0][f[1] + f[2] :])


@given(mutated())
def test_a_url_that_cannot_be_read_shows_nothing_of_itself(url: str) -> None:
    """Whatever has become of it."""
    held = [url]
    try:
        found = parse_database_url(held[0])
    except InvalidSettingError as error:
        assert leaks(all_of(error)) == []  # noqa: PT017 - the error may not come
    else:
        if leaks(found.password or ""):
            assert leaks(known_secrets.hide(f"{found!r} {found!s} {found.place}")) == []


# --- Objects -------------------------------------------------------------------------------------


async def test_objects_show_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However they are shown, and whatever they can be written to."""
    monkeypatch.setenv("MESHHOOK_DATABASE_URL", url)
    monkeypatch.setenv("MESHHOOK_LISTEN_URL", url)
    monkeypatch.setenv("MESHHOOK_POSTGRES_PASSWORD", PASSWORD)

    async def handler(_: object) -> None:
        """Do nothing."""

    database = await Database.connect(url)
    settings = load_settings()
    worker = Worker(url, "jobs", handler, listen_url=url, registry=CollectorRegistry())
    await worker.start()
    connection = WorkerConnection(url, application_name="x")
    await connection.open()
    shown: list[object] = [
        *(database, worker, worker.get_stats(), worker.liveness(), worker.readiness()),
        *(connection, worker._parts, parse_database_url(url), settings),
        *(QueueService[Any](database, "jobs"), DLQService(database, "jobs")),
        QueueExporter(database, registry=CollectorRegistry()),
        Target(url, pooled=False, is_embedded=False, listen_url=url),
        DatabaseAddress(url, pooled=False),
        FoundAddress(DatabaseAddress(url, pooled=False), UrlChecksums().of(url, "shop/database")),
        [DatabaseAddress(url, pooled=False)],
    ]
    try:
        for each in shown:
            assert leaks(f"{each!r} {each!s} {each}") == [], type(each)
        for each in (database, worker, connection, parse_database_url(url)):
            # Python 3.13 names the local object that it can't get, and older ones pickle.
            told = r"pickle|serializ|reduce|no default|local object"
            with pytest.raises(Exception, match=told) as caught:
                pickle.dumps(each)
            assert leaks(str(caught.value)) == []
        assert leaks(settings.model_dump_json()) == []
    finally:
        await connection.close()
        await worker.stop()
        await database.close()


# --- Programs that run ---------------------------------------------------------------------------


class Program:
    """A program that runs, and all that it says."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said = ""
        self._readers = [
            asyncio.create_task(self._read(stream), name="read")
            for stream in (process.stdout, process.stderr)
        ]

    async def _read(self, stream: asyncio.StreamReader | None) -> None:
        assert stream is not None
        while data := await stream.read(65_536):
            self.said += data.decode(errors="backslashreplace")

    async def port(self) -> int:
        """Wait until it has said on which port its metrics are."""
        await eventually(lambda: '"port": ' in self.said, 200, message="its port")
        return int(self.said.partition('"port": ')[2].partition(",")[0].rstrip("}\n"))

    async def stop(self, number: int = signal.SIGTERM) -> int:
        """End it by a signal, and return its exit code."""
        if self.process.returncode is None:
            self.process.send_signal(number)
        code = await asyncio.wait_for(self.process.wait(), 60)
        await asyncio.gather(*self._readers)
        return code

    def command_lines(self) -> str:
        """Return the arguments of it and of all that it has started, as anybody may see them."""
        return seen_of_processes(self.process.pid)


def seen_of_processes(pid: int, *, with_environment: bool = False) -> str:
    """Return the arguments of a process and of all below it that have not just ended."""

    def look(process: psutil.Process) -> object:
        return process.cmdline(), process.environ() if with_environment else None

    first = psutil.Process(pid)
    seen = [look(first)]
    for each in first.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            seen.append(look(each))
    return repr(seen)


def holds(file: Path, text: str) -> bool:
    """Say whether a text stands in a file; a running server removes some meanwhile."""
    with suppress(FileNotFoundError):
        return file.is_file() and text.encode() in file.read_bytes()
    return False


async def start(url: str, *arguments: str, **variables: str) -> Program:
    """Start a command that says all that it can."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "meshhook", *arguments),
        env={
            **os.environ,
            "MESHHOOK_DATABASE_URL": url,
            "MESHHOOK_LOG_FORMAT": "json",
            "MESHHOOK_LOG_LEVEL": "debug",
            "MARKED_PASSWORD": PASSWORD,
            "PYTHONASYNCIODEBUG": "1",
            "PYTHONFAULTHANDLER": "1",
            "PYTHONDEVMODE": "1",
            "PYTHONPATH": str(TESTS),
            **variables,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    return Program(process)


async def enqueue(connection: asyncpg.Connection[Any], *kinds: str) -> None:
    """Put jobs into the queue."""
    for kind in kinds:
        await connection.execute("select pgmq.send('jobs', $1::jsonb)", json.dumps({"kind": kind}))


async def ended(connection: asyncpg.Connection[Any], count: int) -> bool:
    """Whether so many jobs have an outcome."""
    sql = "select count(distinct msg_id) from meshhook.job_attempts"
    return bool(await connection.fetchval(sql) >= count)


@pytest.mark.timeout(300)
async def test_a_worker_whose_handlers_leak(
    url: str, connection: asyncpg.Connection[Any], tmp_path: Path
) -> None:
    """Its log, its metrics and health, its traces, the history, the dead letters, its sessions."""
    await set_queue_config(
        Database(connection), "jobs", max_retry_attempts=2, retry_backoff_base_ms=10
    )
    kinds = ("raise", "group", "bury", "retry", "driver", "ours", "thread", "task")
    await enqueue(connection, *kinds)
    seen = ""
    with collector() as traces:
        program = await start(
            url,
            *("worker", "jobs", "--handler", "support.leaking:leak", "--grace-seconds", "3"),
            *("--metrics-port", "0", "--metrics-address", "127.0.0.1", "--processes", "2"),
            OTEL_EXPORTER_OTLP_ENDPOINT=traces.endpoint,
            OTEL_EXPORTER_OTLP_HEADERS=f"authorization=Bearer%20{ENCODED},team={ENCODED}",
            OTEL_BSP_SCHEDULE_DELAY="100",
        )
        try:
            port = await program.port()
            await eventually(lambda: ended(connection, len(kinds)), 200)
            seen += program.command_lines()
            for path in ("/metrics", "/healthz", "/readyz", "/other"):
                seen += (await ask_aside(port, path)).text
            for table in ("meshhook.job_attempts", "pgmq.q_jobs_dlq", "meshhook.workers"):
                seen += repr(await connection.fetch(f"select * from {table}"))
            seen += repr(
                await connection.fetch("select application_name, query from pg_stat_activity")
            )
            await connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where datname = current_database() and application_name like 'meshhook %'"
            )
            await enqueue(connection, "raise")  # on connections that are new
            await eventually(lambda: ended(connection, len(kinds) + 1), 200)
        finally:
            assert await program.stop() == 0
        seen += repr(traces.spans)
    assert "HoldingError" in program.said
    assert "HoldingError" in seen
    assert program.said.count("(hidden)") > 20
    assert leaks(program.said) == []
    assert leaks(seen) == []


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["print", "forget"])
async def test_what_is_not_hidden_is_found(
    url: str, connection: asyncpg.Connection[Any], kind: str
) -> None:
    """The search sees a URL that is printed, and a password that the library does not know."""
    await enqueue(connection, kind)
    program = await start(url, "worker", "jobs", "--handler", "support.leaking:leak")
    try:
        await eventually(lambda: ended(connection, 1), 200)
    finally:
        await program.stop()
    assert leaks(program.said)


@pytest.mark.parametrize(
    "arguments",
    [
        ("worker", "jobs", "--handler", "support.leaking:refuse"),
        ("exporter", "--metrics-port", "0", "--metrics-address", "127.0.0.1"),
        ("demo", "--jobs", "1"),
    ],
    ids=lambda arguments: arguments[0],
)
@pytest.mark.parametrize("fault", ["wrong password", "wrong port", "raw", "no TLS"])
async def test_a_program_with_a_bad_url(url: str, arguments: tuple[str, ...], fault: str) -> None:
    """It says what is wrong, and nothing of the URL."""
    program = await start(BAD[fault](url), *arguments)
    try:
        await eventually(
            lambda: "error" in program.said or program.process.returncode is not None, 100
        )
    finally:
        await program.stop()
    assert "error" in program.said
    assert leaks(program.said) == []


@pytest.mark.timeout(300)
async def test_a_demo_on_a_database(url: str, connection: asyncpg.Connection[Any]) -> None:
    """What it prints, and the arguments of all the processes that it starts."""
    program = await start(url, "demo", "--jobs", "40")
    seen = ""
    try:
        while program.process.returncode is None:
            with suppress(psutil.Error):  # one has just ended
                seen += program.command_lines()
            await asyncio.sleep(0.1)
    finally:
        code = await program.stop()
    assert code == 0, program.said[-2000:]
    assert "webhook" in seen
    assert leaks(program.said + seen) == []


async def test_the_embedded_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told of no secret of the program that starts it, and shows none of its own."""
    monkeypatch.setenv("MESHHOOK_DATABASE_URL", f"postgresql://me:{ENCODED}@h/db")
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"key={ENCODED}")
    with server_directory() as directory:
        server = EmbeddedPostgres(directory / "postgres")
        own_url = server.start()
        try:
            assert server.pid is not None
            shown = seen_of_processes(server.pid, with_environment=True)
            assert str(server.home) in shown
            assert leaks(shown) == []
            own = own_url.partition("postgres:")[2].partition("@")[0]
            assert own not in shown
            assert own not in (server.home / "server.log").read_text()
            holding = [file for file in server.home.rglob("*") if holds(file, own)]
            assert [file.name for file in holding] == ["server.json"]
            assert holding[0].stat().st_mode & 0o077 == 0
        finally:
            server.stop()


@pytest.mark.timeout(300)
async def test_a_server_for_others(tmp_path: Path) -> None:
    """`serve-postgres` sets a password that nothing shows."""
    with server_directory() as directory:
        data = directory / "data"
        program = await start(
            "",
            *("serve-postgres", str(data), "--port", str(free_port()), "--host", "127.0.0.1"),
            MESHHOOK_POSTGRES_PASSWORD=PASSWORD,
        )

        def logs() -> str:
            return "".join(file.read_text() for file in directory.rglob("*.log"))

        try:
            await eventually(lambda: "opens port" in program.said, 90)
            seen = program.command_lines()
        finally:
            await program.stop()
        assert leaks(program.said + seen + logs()) == []
