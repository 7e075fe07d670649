"""Lists and views of jobs work whatever other clients have left in the tables."""

from __future__ import annotations

import asyncio
import io
import json
import re
import sys
from typing import Any

import asyncpg
import pytest

from support import odd_rows

CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]")


@pytest.fixture
def odd(cli, jobs: str, database_url: str) -> dict[str, list[int]]:
    """The queue `jobs` full of odd rows; returns the ids in each table."""

    async def fill() -> dict[str, list[int]]:
        connection = await asyncpg.connect(database_url)
        try:
            for table in ("q_jobs", "q_jobs_dlq"):
                for statement, arguments in odd_rows.statements(table):
                    await connection.execute(statement, *arguments)
            await connection.execute(odd_rows.HISTORY, list(odd_rows.MOMENTS))
            await connection.execute(odd_rows.WORKERS)
            return {
                table: [row[0] for row in await connection.fetch(f"select msg_id from {table}")]
                for table in ("pgmq.q_jobs", "pgmq.q_jobs_dlq", "meshhook.job_attempts")
            }
        finally:
            await connection.close()

    return asyncio.run(fill())


def shown_to_people(cli: Any, *arguments: str) -> str:
    """Run a command, check that its output has no control characters, and return it."""
    text: str = cli.ok(*arguments).out
    assert not CONTROLS.search(text)
    return text


def shown(cli: Any, *arguments: str) -> Any:
    """Run a command for people and for programs, and return its JSON."""
    assert shown_to_people(cli, *arguments)
    # NaN and Infinity are not JSON, though Python reads them.
    return json.loads(cli.ok(*arguments, "--json").out, parse_constant=pytest.fail)


@pytest.mark.usefixtures("odd")
def test_figures_of_odd_rows(cli):
    """Queues, statistics and workers are shown as far as the rows allow."""
    assert [each["queue"] for each in shown(cli, "queue", "list")] == ["jobs"]
    assert shown(cli, "queue", "show", "jobs")["snapshot"]["queue"] == "jobs"
    assert shown(cli, "stats")["hours"][0]["queue"] == "jobs"
    assert {each["worker"] for each in shown(cli, "workers")} == {"one", "two"}


def test_lists_of_odd_rows(cli, odd):
    """Every row is listed."""
    listed = shown(cli, "jobs", "list", "--queue", "jobs", "--limit", "1000")
    assert {each["msg_id"] for each in listed} == {
        *odd["pgmq.q_jobs"],
        *odd["meshhook.job_attempts"],
    }
    for state in ("ready", "scheduled", "lost"):
        assert {each["state"] for each in shown(cli, "jobs", "list", "--state", state)} == {state}
    dead = shown(cli, "dlq", "list", "jobs", "--limit", "1000")
    assert sorted(each["id"] for each in dead) == odd["pgmq.q_jobs_dlq"]
    assert sum(group["count"] for group in shown(cli, "dlq", "errors", "jobs")) == len(dead)


def test_an_odd_job_can_be_looked_at(cli, odd):
    """Each odd job can be shown by itself."""
    for msg_id in (*odd["pgmq.q_jobs"], *odd["meshhook.job_attempts"]):
        assert f"{msg_id} of queue jobs" in shown_to_people(
            cli, "jobs", "show", "jobs", str(msg_id)
        )
    assert shown(cli, "jobs", "show", "jobs", str(odd["pgmq.q_jobs"][0]))["enqueued_at"]


def test_an_odd_dead_letter_can_be_looked_at(cli, odd):
    """Each odd dead letter can be shown by itself."""
    for dead in odd["pgmq.q_jobs_dlq"]:
        first, *_ = shown_to_people(cli, "dlq", "show", "jobs", str(dead)).splitlines()
        assert first.split() == ["dead", "letter", str(dead)]
    assert shown(cli, "dlq", "show", "jobs", str(odd["pgmq.q_jobs_dlq"][0]))["dead_at"]


@pytest.mark.usefixtures("odd")
def test_a_job_of_a_long_run_is_found_by_it(cli):
    """IDs are stored cut to 200 characters; the filter cuts its value likewise."""
    found = cli.ok("jobs", "list", "--run-id", "r" * 250, "--json").json
    assert [len(each["run_id"]) for each in found] == [200]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_terminal_of_one_script_shows_them_all(cli, odd, monkeypatch, encoding):
    """Characters that its encoding lacks are escaped."""
    commands = [
        ["queue", "list"],
        ["stats"],
        ["jobs", "list", "--limit", "1000"],
        ["dlq", "list", "jobs"],
        ["dlq", "errors", "jobs"],
        ["workers"],
        *(["jobs", "show", "jobs", str(msg_id)] for msg_id in odd["pgmq.q_jobs"][-9:]),
        *(["dlq", "show", "jobs", str(dead)] for dead in odd["pgmq.q_jobs_dlq"][-12:]),
    ]
    shown = ""
    for command in commands:
        output = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr(sys, "stdout", output)
        cli.ok(*command)
        output.flush()
        shown += output.buffer.getvalue().decode(encoding)
    assert "\\u65e5\\u672c" in shown
