"""Commands run in this process, with their exit code and what they printed."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest

from meshhook import DLQService, QueueService
from meshhook.cli.app import run
from support.logging_setup import logging_as_before


@dataclass(frozen=True)
class Ended:
    """The exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its output, parsed; it must be one JSON document."""
        return json.loads(self.out)


class Cli:
    """Runs commands on one database."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], url: str | None
    ) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        for name in ("MESHHOOK_EMBEDDED", "MESHHOOK_LOG_LEVEL", "MESHHOOK_LOG_FORMAT"):
            monkeypatch.delenv(name, raising=False)
        self.use(url)

    def use(self, url: str | None) -> None:
        """Use another database from now on, or none."""
        if url is None:
            self._monkeypatch.delenv("MESHHOOK_DATABASE_URL", raising=False)
        else:
            self._monkeypatch.setenv("MESHHOOK_DATABASE_URL", url)

    def __call__(self, *arguments: str, stdin: str | bytes = b"") -> Ended:
        """Run a command; its standard input is no terminal."""
        data = stdin.encode() if isinstance(stdin, str) else stdin
        self._monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        self._capsys.readouterr()
        code = run(arguments)
        captured = self._capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    def ok(self, *arguments: str, stdin: str | bytes = b"") -> Ended:
        """Run a command that must succeed."""
        ended = self(*arguments, stdin=stdin)
        assert ended.code == 0, ended.err
        return ended

    def fails(self, code: int, *arguments: str, stdin: str | bytes = b"") -> str:
        """Run a command that must fail with `code` and print no data; return its error message."""
        ended = self(*arguments, stdin=stdin)
        assert ended.code == code, ended
        assert not ended.out
        assert ended.err.startswith("error: ")
        assert "Traceback" not in ended.err
        return ended.err


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    with logging_as_before():
        yield


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], database_url: str
) -> Cli:
    """Runs commands on a migrated database without queues."""
    return Cli(monkeypatch, capsys, database_url)


@pytest.fixture
def bare_cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs commands with no database set."""
    return Cli(monkeypatch, capsys, None)


@pytest.fixture
def jobs(cli: Cli) -> str:
    """The name of a new queue: `jobs`."""
    cli.ok("queue", "create", "jobs")
    return "jobs"


class Sql:
    """Runs statements on the database of the test."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __call__(self, statement: str, *arguments: Any) -> Any:
        """Run a statement, and return the first value of its first row."""

        async def execute() -> Any:
            connection = await asyncpg.connect(self._url)
            try:
                return await connection.fetchval(statement, *arguments)
            finally:
                await connection.close()

        return asyncio.run(execute())


@pytest.fixture
def sql(database_url: str) -> Sql:
    """Runs statements on the database of the test."""
    return Sql(database_url)


@pytest.fixture
def dead_letters(cli: Cli, jobs: str, sql: Sql) -> list[int]:
    """The ids of five dead letters of `jobs`: three of TimeoutError, then two of KeyError."""
    errors = ["TimeoutError", "TimeoutError", "TimeoutError", "KeyError", "KeyError"]
    cli.ok("enqueue", jobs, stdin="\n".join(f'{{"n": {n}}}' for n in range(5)))

    async def bury() -> None:
        async with asyncpg.create_pool(sql._url, min_size=1, max_size=2) as pool:
            queue = QueueService[Any](pool, jobs)
            for error in errors:
                job = await queue.dequeue()
                assert job is not None
                message = f"{error} of \x1b[31mjob {job.msg_id}"
                await DLQService(pool, jobs).move_to_dead_letter(
                    job, message, "Traceback: ...", error_type=error
                )

    asyncio.run(bury())
    return [dead["id"] for dead in reversed(cli.ok("dlq", "list", jobs, "--json").json)]
