"""`meshhook worker --processes`: a supervisor and its processes, controlled by signals."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from meshhook import QueueService
from meshhook.embedded import EmbeddedPostgres
from meshhook.embedded.postmaster import free_port, is_free
from meshhook.worker.supervisor import Supervisor, restart_delay_seconds
from support.databases import server_directory
from support.waiting import eventually

# Starting Python four times takes long on a busy machine.
pytestmark = pytest.mark.timeout(600)

Pool = asyncpg.Pool

HANDLERS = """
import asyncio, os

def note(word):
    file = os.open("ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(file, f"{word} {os.getpid()}\\n".encode())
    os.close(file)

async def slow(job):
    note("ran")
    await asyncio.sleep(0.02)

async def endless(job):
    note("started")
    await asyncio.Event().wait()
"""


@asynccontextmanager
async def workers(
    folder: Path, url: str, *arguments: str, before: Sequence[str] = (), **more: str
) -> AsyncIterator[Any]:
    """Run `meshhook worker` in a folder with handlers; kill it at the end if it still runs."""
    (folder / "handlers.py").write_text(HANDLERS)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MESHHOOK_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "meshhook", *before, "worker", *arguments),
        cwd=folder,
        env=kept | {"MESHHOOK_DATABASE_URL": url, "MESHHOOK_LOG_FORMAT": "json"} | more,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def said(process: Any) -> list[str]:
    """Return the remaining output of a process that is ending."""
    _, text = await asyncio.wait_for(process.communicate(), 60)
    return [line for line in text.decode().splitlines() if line]


def ledger(folder: Path) -> list[list[str]]:
    """Return what the handlers recorded, each with the index of its process."""
    file = folder / "ledger"
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


async def alive(pool: Pool[Any], count: int) -> list[str]:
    """Wait until this many workers report, and return their names."""

    async def are_there() -> Any:
        rows = await pool.fetch("select worker from meshhook.workers order by worker")
        return [row["worker"] for row in rows] if len(rows) == count else None

    found: list[str] = await eventually(are_there, timeout=200)
    return found


async def until_run_by(processes: int, folder: Path, send: Callable[[], Awaitable[None]]) -> None:
    """Send jobs until so many processes have run some: one may come too late for the first ones."""

    async def have_run() -> bool:
        if len({pid for _, pid in ledger(folder)}) >= processes:
            return True
        await send()
        return False

    await eventually(have_run, timeout=200)


async def refill(pool: Pool[Any], queue: QueueService[Any]) -> None:
    """Enqueue jobs if there are none."""
    if not await pool.fetchval("select exists (select from pgmq.q_jobs)"):
        await queue.enqueue_many([{}] * 50)


async def none_reports(pool: Pool[Any]) -> bool:
    """Return whether every worker has withdrawn its report."""
    return not await pool.fetchval("select count(*) from meshhook.workers")


async def all_gone(pool: Pool[Any]) -> bool:
    """Return whether no worker is connected any more."""
    return not await pool.fetchval(
        "select count(*) from pg_stat_activity where datname = current_database() "
        "and application_name like 'meshhook worker%'"
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_all_processes_in_order(
    pool: Pool[Any], queue_name: str, database_url: str, tmp_path: Path, number: signal.Signals
) -> None:
    """Each releases its jobs and withdraws its report; the code is 0."""
    queue = QueueService[Any](pool, queue_name)
    arguments = ["jobs", "--handler", "handlers:endless", "--processes", "2"]
    arguments += ["--concurrency", "3", "--grace-seconds", "6", "--name", "w"]
    async with workers(tmp_path, database_url, *arguments) as process:
        assert await alive(pool, 2) == ["w-0", "w-1"]
        await queue.enqueue_many([{}] * 6)
        await eventually(lambda: len(ledger(tmp_path)) == 6)
        assert len({pid for _, pid in ledger(tmp_path)}) == 2
        process.send_signal(number)
        lines = await said(process)
        assert process.returncode == 0, lines
    assert await pool.fetchval("select count(*) from meshhook.workers") == 0
    rows = await pool.fetch("select read_ct, vt <= now() as ready from pgmq.q_jobs")
    assert {tuple(row) for row in rows} == {(0, True)}


async def test_a_process_that_is_killed_is_started_again(
    pool: Pool[Any], queue_name: str, database_url: str, tmp_path: Path
) -> None:
    """The others keep running; the new process is another worker, and takes part."""
    queue = QueueService[Any](pool, queue_name)
    arguments = ["jobs", "--handler", "handlers:slow", "--processes", "2", "--concurrency", "1"]
    async with workers(tmp_path, database_url, *arguments) as process:
        before = await alive(pool, 2)
        await until_run_by(2, tmp_path, lambda: refill(pool, queue))
        os.kill(int(ledger(tmp_path)[0][1]), signal.SIGKILL)
        # The row of the killed one stays for a while.
        assert set(before) < set(await alive(pool, 3))
        await until_run_by(3, tmp_path, lambda: refill(pool, queue))
        process.terminate()
        lines = [json.loads(line) for line in await said(process)]
        assert process.returncode == 0
    [ended] = [
        line for line in lines if line["event"] == "worker process ended; it is started again"
    ]
    assert (ended["code"], ended["delay_seconds"]) == (-signal.SIGKILL, 0.5)


async def test_what_keeps_all_from_starting_is_said_once(database_url: str, tmp_path: Path) -> None:
    """A missing queue stops all of them, with the exit code of a single worker."""
    arguments = ["jobs", "--handler", "handlers:slow", "--processes", "3"]
    async with workers(tmp_path, database_url, *arguments) as process:
        lines = await said(process)
        assert process.returncode == 3
    assert len([line for line in lines if "meshhook queue create jobs" in line]) == 1


async def test_a_database_that_cannot_be_reached_is_said_once(tmp_path: Path) -> None:
    """So is a wrong URL; the code is the same as for every command."""
    url = "postgresql://nobody@127.0.0.1:1/none"
    arguments = ["jobs", "--handler", "handlers:slow", "--processes", "2"]
    async with workers(tmp_path, url, *arguments) as process:
        lines = await said(process)
        assert process.returncode == 4
    assert len([line for line in lines if "MESHHOOK_DATABASE_URL" in line]) == 1


async def test_a_second_ctrl_c_ends_all_processes_at_once(
    pool: Pool[Any], queue_name: str, database_url: str, tmp_path: Path
) -> None:
    """Each Ctrl-C is forwarded once to every process."""
    queue = QueueService[Any](pool, queue_name)
    arguments = ["jobs", "--handler", "handlers:endless", "--processes", "2"]
    arguments += ["--concurrency", "1", "--grace-seconds", "600"]
    async with workers(tmp_path, database_url, *arguments) as process:
        await alive(pool, 2)
        await queue.enqueue_many([{}] * 2)
        await eventually(lambda: len(ledger(tmp_path)) == 2)
        process.send_signal(signal.SIGINT)

        async def both_stop() -> bool:
            rows = await pool.fetch("select draining from meshhook.workers")
            return [row["draining"] for row in rows] == [True, True]

        await eventually(both_stop)
        process.send_signal(signal.SIGINT)
        await said(process)
        assert process.returncode == 130


async def test_processes_whose_supervisor_was_killed_stop(
    pool: Pool[Any], queue_name: str, database_url: str, tmp_path: Path
) -> None:
    """They release their jobs, as at SIGTERM."""
    queue = QueueService[Any](pool, queue_name)
    arguments = ["jobs", "--handler", "handlers:endless", "--processes", "2"]
    arguments += ["--grace-seconds", "6"]
    async with workers(tmp_path, database_url, *arguments) as process:
        await alive(pool, 2)
        await queue.enqueue({})
        await eventually(lambda: ledger(tmp_path))
        process.kill()
        await eventually(lambda: none_reports(pool), timeout=200)
        await eventually(lambda: all_gone(pool))
    assert await pool.fetchval("select read_ct = 0 and vt <= now() from pgmq.q_jobs")


async def test_processes_share_the_embedded_server(tmp_path: Path) -> None:
    """The first starts and migrates it, a killed one leaves it running, the last stops it."""
    with server_directory() as parent:
        server = EmbeddedPostgres(parent / "meshhook")
        environment = {"MESHHOOK_EMBEDDED_DIRECTORY": str(server.directory)}
        arguments = ["jobs", "--handler", "handlers:slow", "--processes", "2", "--concurrency", "1"]
        await embedded(environment, "queue", "create", "jobs")
        assert server.pid is None
        try:
            url = "postgresql://nobody@127.0.0.1:1/none"
            async with workers(
                tmp_path, url, *arguments, before=["--embedded"], **environment
            ) as process:
                await eventually(lambda: server.pid, timeout=200)
                send = partial(embedded, environment, "enqueue", "jobs", stdin=b"1\n" * 50)
                await until_run_by(2, tmp_path, send)
                os.kill(int(ledger(tmp_path)[0][1]), signal.SIGKILL)
                await until_run_by(3, tmp_path, send)
                assert server.pid is not None
                process.terminate()
                lines = await said(process)
                assert process.returncode == 0, lines
            assert server.pid is None, "the last process did not stop the server"
        finally:
            server.stop()


async def embedded(environment: Mapping[str, str], *arguments: str, stdin: bytes = b"") -> None:
    """Run a command on an embedded server; it must succeed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "meshhook", "--embedded", *arguments),
        env=os.environ | environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    _, text = await process.communicate(stdin)
    assert process.returncode == 0, text.decode()


async def test_each_process_has_its_metrics_port(
    pool: Pool[Any], queue_name: str, database_url: str, tmp_path: Path
) -> None:
    """The first has the given port, the second the next one."""
    first = two_free_ports()
    arguments = ["jobs", "--handler", "handlers:slow", "--processes", "2"]
    arguments += ["--metrics-address", "127.0.0.1", "--metrics-port", str(first)]
    async with workers(tmp_path, database_url, *arguments) as process:
        await alive(pool, 2)
        for port in (first, first + 1):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /healthz HTTP/1.0\r\n\r\n")
            assert b" 200 " in await asyncio.wait_for(reader.readline(), 60)
            writer.close()
            await writer.wait_closed()
        process.terminate()
        await said(process)
        assert process.returncode == 0


async def test_a_worker_process_has_at_most_three_connections(
    pool: Pool[Any], database_url: str, tmp_path: Path
) -> None:
    """From its start on and for any number of queues, as the server counts them."""
    arguments = ["--handler", "handlers:endless", "--grace-seconds", "0"]
    for name in ("a", "b", "c"):
        await pool.execute("select meshhook.create_queue($1)", name)
        await pool.execute("update meshhook.queue_config set visibility_timeout_seconds = 1")
        await QueueService[Any](pool, name).enqueue({})
        arguments += ["--queue", name]
    most = 0

    async def leases_are_kept() -> bool:
        nonlocal most
        names = await pool.fetch(
            "select application_name as name from pg_stat_activity "
            "where datname = current_database() and application_name like 'meshhook%'"
        )
        most = max(most, len(names))
        return any(row["name"] == "meshhook leases a, b, c" for row in names)

    async with workers(tmp_path, database_url, *arguments) as process:
        await eventually(leases_are_kept, timeout=200)
        # Of a lease that was not kept in time there is another run.
        await eventually(lambda: len(ledger(tmp_path)) >= 3)
        process.terminate()
        await said(process)
        assert process.returncode == 0
    assert 2 <= most <= 3


def two_free_ports() -> int:
    """Return a free port whose successor is free as well."""
    while True:
        port = free_port()
        if is_free(port + 1):
            return port


async def test_a_process_that_does_not_start_ends_the_others() -> None:
    """The exit code is that of the failed process; the running ones are stopped."""
    program = (
        "import os, signal, socket, sys\n"
        "link = socket.socket(fileno=int(os.environ['MESHHOOK_SUPERVISOR_FD']))\n"
        "if os.environ['MESHHOOK_PROCESS_INDEX'] == '1': sys.exit(7)\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n"
        "link.send(b'ready\\n')\n"
        "signal.pause()\n"
    )
    supervisor = Supervisor([sys.executable, "-c", program], processes=2)
    assert await asyncio.wait_for(supervisor.run(), 60) == 7


@pytest.mark.parametrize(
    ("quick_ends", "seconds"), [(0, 0.5), (1, 1), (2, 2), (5, 16), (6, 30), (10_000, 30)]
)
def test_a_process_that_keeps_ending_is_started_ever_later(quick_ends: int, seconds: float) -> None:
    """The delay doubles, up to half a minute."""
    assert restart_delay_seconds(quick_ends) == seconds
