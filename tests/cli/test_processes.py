"""The program as a process: signals, streams, terminals, and the embedded server."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from meshhook import QueueService
from meshhook.embedded import EmbeddedPostgres
from support.databases import server_directory
from support.scraping import ask
from support.terminal import OnTerminal, environment
from support.waiting import eventually

HANDLERS = """
import asyncio, os, time

def note(word):
    with open("ledger", "a") as ledger:
        ledger.write(word + "\\n")

async def quick(job):
    note("ran")

async def endless(job):
    note("started")
    await asyncio.Event().wait()

def stubborn(job):
    note("started")
    time.sleep(600)
"""


def meshhook(
    *arguments: str, url: str | None = None, **more: Any
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "meshhook", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(url, **more.pop("env", {})),
        **more,
    )


@asynccontextmanager
async def worker(folder: Path, url: str, handler: str, *options: str) -> AsyncIterator[Any]:
    """Run a worker in a folder with handlers until the test ends it."""
    (folder / "handlers.py").write_text(HANDLERS)
    command = ["-m", "meshhook", "worker", "jobs", "--handler", f"handlers:{handler}", *options]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        cwd=folder,
        env=environment(url),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()  # so that no pipe stays open


def ledger(folder: Path) -> list[str]:
    """Return what the handlers recorded."""
    file = folder / "ledger"
    return file.read_text().split() if file.exists() else []


def test_data_and_remarks_go_to_streams_of_their_own(database_url):
    """Standard output contains only JSON, and nothing after an error."""
    assert meshhook("queue", "create", "jobs", url=database_url).returncode == 0
    listed = meshhook("queue", "list", "--json", url=database_url)
    assert (listed.returncode, listed.stderr) == (0, "")
    assert json.loads(listed.stdout)[0]["queue"] == "jobs"
    failed = meshhook("queue", "show", "other", url=database_url)
    assert (failed.returncode, failed.stdout) == (3, "")
    assert failed.stderr.startswith("error: ")


def test_a_reader_that_leaves_early_is_no_error(database_url):
    """With `| head` there is neither a traceback nor a message."""
    meshhook("queue", "create", "jobs", url=database_url)
    jobs = "1\n" * 2_000
    meshhook("enqueue", "jobs", url=database_url, input=jobs)
    command = '"$0" -m meshhook jobs list --limit 1000 --json | head -1'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable],
        check=False,
        capture_output=True,
        text=True,
        env=environment(database_url),
    )
    assert (done.stdout, done.stderr) == ("[\n", "")


def test_nothing_that_is_slow_is_loaded_for_the_help():
    """Neither the driver nor models nor tables."""
    script = """
import sys, types
package = types.ModuleType("meshhook")
package.__path__ = [sys.argv[1]]
sys.modules["meshhook"] = package
from meshhook.cli.app import run
run(["--help"])
slow = {"asyncpg", "pydantic", "pydantic_settings", "structlog", "rich", "prometheus_client"}
print(sorted(slow & set(sys.modules)), file=sys.stderr)
"""
    package = Path(__file__).parents[2] / "worker" / "meshhook"
    done = subprocess.run(
        [sys.executable, "-c", script, str(package)], check=True, capture_output=True, text=True
    )
    assert done.stderr == "[]\n"


def test_a_command_that_logs_nothing_loads_nothing_to_log_with(database_url):
    """The formatter of records takes as long to load as the rest of a command."""
    script = """
import sys
from meshhook.cli.app import run
code = run(["queue", "list"])
print(sorted({"structlog", "rich", "stamina"} & set(sys.modules)), file=sys.stderr)
import logging
logging.getLogger("meshhook.x").warning("seen", extra={"queue": "jobs"})
sys.exit(code)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        capture_output=True,
        text=True,
        env=environment(database_url, MESHHOOK_LOG_FORMAT="json"),
    )
    _, loaded, record = done.stderr.splitlines()
    assert loaded == "[]"
    assert json.loads(record)["event"] == "seen"
    assert json.loads(record)["queue"] == "jobs"


async def test_a_worker_runs_jobs_and_ends_with_0_at_sigterm(
    database_url, pool, queue_name, tmp_path
):
    """It logs JSON with queue and job to standard error, and prints nothing."""
    async with worker(tmp_path, database_url, "quick") as process:
        await QueueService[Any](pool, queue_name).enqueue({"n": 1})
        await eventually(lambda: ledger(tmp_path) == ["ran"])
        await eventually(lambda: pool.fetchval("select count(*) = 0 from pgmq.q_jobs"))
        process.send_signal(signal.SIGTERM)
        out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0
    assert out == b""
    records = [json.loads(line) for line in err.splitlines()]
    assert {record["queue"] for record in records} == {"jobs"}
    assert records[-1]["event"] == "worker stopped"


@pytest.mark.parametrize("options", [[], ["--processes", "2"]])
async def test_a_worker_whose_terminal_goes_away_stops_in_order(
    database_url, pool, queue_name, tmp_path, options
):
    """At SIGHUP it releases its jobs and ends with 0, as at SIGTERM."""
    await QueueService[Any](pool, queue_name).enqueue({})
    async with worker(
        tmp_path, database_url, "endless", "--grace-seconds", "6", *options
    ) as process:
        await eventually(lambda: ledger(tmp_path) == ["started"])
        process.send_signal(signal.SIGHUP)
        assert await asyncio.wait_for(process.wait(), 60) == 0
    assert await pool.fetchval("select vt <= now() and read_ct = 0 from pgmq.q_jobs")


async def test_a_worker_that_ignores_hangups_works_on(database_url, pool, queue_name, tmp_path):
    """A worker started with `nohup` outlives its terminal."""
    queue = QueueService[Any](pool, queue_name)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # which a new process inherits
    try:
        async with worker(tmp_path, database_url, "quick") as process:
            await queue.enqueue({"n": 1})
            await eventually(lambda: ledger(tmp_path) == ["ran"])
            process.send_signal(signal.SIGHUP)
            await queue.enqueue({"n": 2})
            await eventually(lambda: ledger(tmp_path) == ["ran", "ran"])
    finally:
        signal.signal(signal.SIGHUP, before)


async def test_a_second_ctrl_c_ends_a_worker_at_once(database_url, pool, queue_name, tmp_path):
    """The first one waits for running jobs; the second exits with 130."""
    await QueueService[Any](pool, queue_name).enqueue({})
    async with worker(tmp_path, database_url, "endless", "--grace-seconds", "600") as process:
        await eventually(lambda: ledger(tmp_path) == ["started"])
        process.send_signal(signal.SIGINT)
        await eventually(lambda: _said(process, b"worker stops"))
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), 60) == 130


async def test_a_thread_that_does_not_end_keeps_no_worker_alive(
    database_url, pool, queue_name, tmp_path
):
    """The worker ends with 0 after the grace period, and its job is ready again."""
    await QueueService[Any](pool, queue_name).enqueue({})
    async with worker(tmp_path, database_url, "stubborn", "--grace-seconds", "6") as process:
        await eventually(lambda: ledger(tmp_path) == ["started"])
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 60) == 0
    assert await pool.fetchval("select vt <= now() from pgmq.q_jobs")


async def _said(process: Any, text: bytes) -> bool:
    return text in await process.stderr.readline()


async def test_ctrl_c_during_an_enqueue_says_how_many_are_stored(database_url, pool, queue_name):
    """Code 130; the number matches the table."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "meshhook", "enqueue", queue_name),
        env=environment(database_url),
        stdin=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    stdin = process.stdin
    assert stdin is not None

    async def feed() -> None:
        while True:
            stdin.write(b"1\n" * 1_000)
            await stdin.drain()

    feeding = asyncio.create_task(feed())
    await eventually(lambda: pool.fetchval("select count(*) > 2000 from pgmq.q_jobs"))
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    said = (await asyncio.wait_for(process.stderr.read(), 60)).decode()
    assert await process.wait() == 130
    feeding.cancel()
    await asyncio.wait([feeding])
    found = re.search(r"error: interrupted\n([\d,]+) jobs stored, up to line (\d+)", said)
    assert found is not None, said
    stored = int(found[1].replace(",", ""))
    assert stored == int(found[2])
    assert await pool.fetchval("select count(*) from pgmq.q_jobs") - stored in {0, 1_000}


@pytest.mark.parametrize(("answer", "code", "left"), [("y", 0, 0), ("n", 1, 1), ("", 1, 1)])
def test_what_deletes_asks_on_a_terminal(database_url, answer, code, left):
    """Only yes counts as confirmation."""
    meshhook("queue", "create", "jobs", url=database_url)
    meshhook("enqueue", "jobs", "1", url=database_url)
    with OnTerminal(database_url, "queue", "purge", "jobs") as command:
        question = command.read_until("[y/N]")
        assert "Delete all messages of queue 'jobs' (1, 0 of them running)?" in question
        command.type(f"{answer}\n")
        assert command.end() == code
    shown = json.loads(meshhook("queue", "show", "jobs", "--json", url=database_url).stdout)
    assert shown["snapshot"]["ready"] == left


def test_statistics_are_watched_until_ctrl_c(database_url):
    """They are redrawn until Ctrl-C, which is no error."""
    meshhook("queue", "create", "jobs", url=database_url)
    with OnTerminal(database_url, "stats", "--watch") as command:
        command.read_until("OUT/s")
        command.shown = ""
        assert "OUT/s" in command.read_until("OUT/s")
        command.process.send_signal(signal.SIGINT)
        assert command.end() == 0
    assert "Traceback" not in command.shown
    assert "error" not in command.shown


def test_a_bulk_enqueue_shows_its_progress_on_a_terminal(database_url, tmp_path):
    """The progress bar is removed at the end."""
    meshhook("queue", "create", "jobs", url=database_url)
    file = tmp_path / "jobs.jsonl"
    file.write_text("1\n" * 5_000)
    with OnTerminal(database_url, "enqueue", "jobs", "--file", str(file)) as command:
        assert command.end() == 0
    assert re.search(r"[\d,]+ jobs .*━", command.shown)
    assert "enqueued 5,000 jobs in jobs" in command.shown


@pytest.fixture
def embedded() -> Iterator[Path]:
    """A directory for an embedded server, which is stopped at the end."""
    with server_directory() as directory:
        yield directory / "meshhook"
        EmbeddedPostgres(directory / "meshhook").stop()


async def test_the_embedded_server_is_made_migrated_and_stopped(embedded):
    """Commands share its data; a connected client keeps it running."""
    settings = {"MESHHOOK_EMBEDDED_DIRECTORY": str(embedded)}
    server = EmbeddedPostgres(embedded)
    created = await asyncio.to_thread(
        meshhook, "--embedded", "queue", "create", "jobs", env=settings
    )
    assert created.returncode == 0, created.stderr
    assert created.stdout == "created queue jobs\n"
    assert server.pid is None
    settings["MESHHOOK_EMBEDDED"] = "1"
    url = await asyncio.to_thread(server.start)
    await asyncio.to_thread(meshhook, "enqueue", "jobs", "1", env=settings)
    assert server.pid is not None, "a command stopped a server that it had not started"
    await asyncio.to_thread(server.stop)

    command = [sys.executable, "-m", "meshhook", "enqueue", "jobs"]
    first = await asyncio.create_subprocess_exec(
        *command, env=environment(None, **settings), stdin=asyncio.subprocess.PIPE
    )
    assert first.stdin is not None
    await eventually(lambda: server.pid)
    await asyncio.to_thread(meshhook, "queue", "list", env=settings)
    assert server.pid is not None, "a command stopped a server that another one uses"
    connection = await eventually(lambda: _connected(server))
    first.stdin.write(b"2\n")
    first.stdin.close()
    assert await first.wait() == 0
    assert server.pid is not None, "a command stopped a server that some client uses"
    assert await connection.fetchval("select count(*) from pgmq.q_jobs") == 2
    await connection.close()
    await asyncio.to_thread(meshhook, "queue", "list", env=settings)
    assert server.pid is None, "the last command did not stop the server"
    assert url


async def _connected(server: EmbeddedPostgres) -> Any:
    try:
        return await asyncpg.connect(server.url())
    except (OSError, asyncpg.PostgresError):
        return None


async def test_a_worker_serves_metrics_and_health(database_url, queue_name, tmp_path):
    """Port 0 picks a free one and logs it; all three paths answer there."""
    async with worker(
        tmp_path, database_url, "quick", "--metrics-port", "0", "--metrics-address", "127.0.0.1"
    ) as process:
        port = None
        while port is None:
            record = json.loads(await asyncio.wait_for(process.stderr.readline(), 60))
            port = record.get("port")
        await eventually(lambda: ask(port, "/readyz").status == 200)
        assert ask(port, "/healthz").status == 200
        text = ask(port, "/metrics").text
        assert 'meshhook_worker_concurrency_limit{queue="jobs"} 50.0' in text
        assert "process_resident_memory_bytes" in text
        assert "_created" not in text


def test_a_metrics_port_that_is_taken(database_url, queue_name, tmp_path):
    """The worker does not start; the message names the port and what to do."""
    (tmp_path / "handlers.py").write_text(HANDLERS)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = meshhook(
            *("worker", queue_name, "--handler", "handlers:quick"),
            url=database_url,
            cwd=tmp_path,
            env={"MESHHOOK_METRICS_PORT": str(port), "MESHHOOK_METRICS_ADDRESS": "127.0.0.1"},
        )
    assert done.returncode == 1
    assert f"error: metrics port {port} on 127.0.0.1: Address already in use" in done.stderr


async def test_an_exporter_shows_queues_without_workers(database_url, queue_name, tmp_path):
    """It logs its port, exports the queues, is alive and ready, and ends with 0 at SIGTERM."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "meshhook", "exporter", "--metrics-port", "0"),
        *("--metrics-address", "127.0.0.1", "--interval-seconds", "0.2"),
        env=environment(database_url),
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        port = None
        while port is None:
            assert process.stderr is not None
            record = json.loads(await asyncio.wait_for(process.stderr.readline(), 60))
            port = record.get("port")
        await eventually(lambda: ask(port, "/readyz").status == 200)
        assert ask(port, "/healthz").status == 200
        assert (
            'meshhook_queue_messages{queue="jobs",state="ready"} 0.0' in ask(port, "/metrics").text
        )
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 60) == 0
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
