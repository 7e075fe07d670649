"""`meshhook doctor`."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from meshhook.doctor import CHECKS, Severity, server


@pytest.fixture(autouse=True)
def _fast_server(monkeypatch):
    """The server of the tests is as fast as it can be, and not as safe."""
    monkeypatch.setattr(server, "_MUST_BE_ON", {})


def _execute(url, sql):
    async def run():
        connection = await asyncpg.connect(url)
        await connection.execute(sql)
        await connection.close()

    asyncio.run(run())


def test_a_healthy_database_exits_with_0(cli, database_url):
    """And each check says what is fine."""
    cli.ok("queue", "create", "jobs")
    lines = cli.ok("doctor", "--strict").out.splitlines()
    assert [line.split(":")[0] for line in lines[:-1]] == [f"ok {each.name}" for each in CHECKS]
    assert lines[-1] == f"0 critical findings, 0 warning findings, {len(CHECKS)} checks without one"


def test_what_is_found_is_said_with_its_way_out(cli, database_url):
    """Warnings exit with 0 unless asked otherwise, and critical findings with 1."""
    cli.ok("queue", "create", "jobs")
    cli.ok("queue", "create", "mails")
    cli.ok("queue", "set", "jobs", "job_timeout_seconds=none")
    ended = cli.ok("doctor")
    assert ended.out.startswith("WARNING settings: queue jobs: jobs have no time limit")
    assert "    -> meshhook queue set jobs job_timeout_seconds=3600\n" in ended.out
    ended = cli("doctor", "--strict")
    assert (ended.code, ended.err) == (
        1,
        "error: 1 warning finding; what is printed names the way out of each\n",
    )
    cli.ok("doctor", "mails", "--strict")
    _execute(database_url, "drop index pgmq.q_mails_vt_idx")
    ended = cli("doctor")
    assert ended.code == 1
    assert ended.err.startswith("error: 1 critical finding; ")
    assert ended.out.startswith("CRITICAL indexes: pgmq.q_mails_vt_idx: is missing")


def test_json_has_the_same_fields_for_every_finding(cli, database_url):
    """The worst first, and those that found nothing last."""
    cli.ok("queue", "create", "jobs")
    cli.ok("queue", "set", "jobs", "job_timeout_seconds=none")
    found = cli.ok("doctor", "--json").json
    fields = {"check", "severity", "subject", "message", "remedy"}
    assert all(each.keys() == fields for each in found)
    assert all(isinstance(value, str) for each in found for value in each.values())
    assert [each["severity"] for each in found] == ["warning"] + ["ok"] * (len(CHECKS) - 1)
    assert {each["severity"] for each in found} <= set(Severity)


def test_a_database_without_the_schema_is_examined(cli, database_url):
    """It says what is missing, and judges the server all the same."""
    _execute(database_url, "drop schema meshhook cascade")
    ended = cli("doctor")
    assert ended.code == 1
    assert ended.out.startswith("CRITICAL schema: ")
    assert "-> meshhook migrate" in ended.out
    assert "ok wraparound:" in ended.out
    assert "queue name" in cli.fails(2, "doctor", "NO QUEUE")
