"""`meshhook roles`: what its commands print, and their exit codes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from urllib.parse import quote

import asyncpg
import pytest

from support.roles import url_of

PASSWORD = "pa$$w0rd-of-a-worker"


NAMES = ("meshhook_worker_jobs", "meshhook_reader", "test_login", "test_other")


@pytest.fixture(autouse=True)
def _dropped(database_url: str) -> Iterator[None]:
    """Drops the roles that the commands created."""
    yield

    for name in NAMES:
        run_sql(
            database_url,
            f"do $$ begin if exists (select from pg_roles where rolname = '{name}') then "
            f"reassign owned by {name} to current_user; drop owned by {name} cascade; "
            f"drop role {name}; end if; end $$",
        )


def test_roles_are_made_checked_and_listed(cli, jobs, monkeypatch):
    """A role with a login from a variable, a group role, and a check of all."""
    monkeypatch.setenv("WORKER_URL", f"postgresql://test_login:{quote(PASSWORD)}@elsewhere/x")
    arguments = ("roles", "create", "worker", "--queue", jobs)
    ended = cli.ok(*arguments, "--login-from-env", "WORKER_URL")
    assert ended.out == "created role test_login: worker of jobs\n"
    again = cli.ok(*arguments, "--login-from-env", "WORKER_URL")
    assert again.out == "granted to role test_login: worker of jobs\n"
    assert "was not changed" in again.err
    cli.ok(*arguments, "--login-from-env", "WORKER_URL", "--reset-password")
    assert cli.ok("roles", "create", "reader", "--json").json == {
        "role": "meshhook_reader",
        "kind": "reader",
        "queues": [],
        "created": True,
        "password": None,
        "missing_queues": [],
    }
    checks = cli.ok("roles", "check", "--all", "--json").json
    assert [(each["role"], each["lacks"]) for each in checks] == [
        ("meshhook_reader", []),
        ("test_login", []),
    ]
    table = cli.ok("roles", "check", "test_login").out
    assert table.split() == [
        "ROLE",
        "KIND",
        "FOUND",
        "WHAT",
        "test_login",
        "worker",
        "of",
        "jobs",
        "ok",
    ]
    for shown in (ended, again):
        assert PASSWORD not in shown.out + shown.err


def test_a_role_that_may_do_more_is_an_error(cli, jobs, database_url):
    """The exit code is 1, for scheduled checks; the table says which right is beyond."""
    cli.ok("roles", "create", "worker", "--queue", jobs)
    run_sql(database_url, "grant delete on meshhook.job_attempts to meshhook_worker_jobs")
    ended = cli("roles", "check", "--all")
    assert ended.code == 1
    assert "delete on meshhook.job_attempts" in ended.out
    assert ended.err.startswith("error: 1 of 1 roles does not have exactly the rights")


def test_a_queue_that_is_not_there_is_said(cli, jobs, database_url):
    """The role gets its rights once the queue is created."""
    ended = cli.ok("roles", "create", "worker", "--name", "test_other", "--queue", "orders")
    assert "Queue orders does not exist yet" in ended.err
    cli.ok("queue", "create", "orders")
    assert cli.ok("roles", "check", "test_other").out.split()[-1] == "ok"


def test_a_role_that_lacks_something_is_an_error(cli, jobs, database_url):
    """The exit code is 1, and the table says what is missing."""
    cli.ok("roles", "create", "worker", "--queue", jobs)
    cli.ok("queue", "drop", jobs, "--yes")
    ended = cli("roles", "check", "--all")
    assert ended.code == 1
    assert "pgmq.q_jobs is not there" in ended.out
    assert "error: 1 of 1 roles does not have" in ended.err


def test_the_script_needs_no_database(bare_cli):
    """It has the same grants as the command, and no password."""
    out = bare_cli.ok("roles", "sql", "worker", "--queue", "jobs").out
    assert 'create role "meshhook_worker_jobs" nologin' in out
    assert "('queue', 'update', array['vt', 'read_ct', 'headers', 'last_read_at']" in out
    assert "\\password ROLE" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("create", "nobody"), "'nobody' is not one of"),
        (("create", "worker", "--reset-password"), "--reset-password needs --login-from-env"),
        (("create", "worker", "--login-from-env", "UNSET_URL"), "'UNSET_URL' is not set"),
        (("create", "worker", "--queue", "No Name"), "queue name 'No Name'"),
        (("create", "owner", "--queue", "jobs"), "is for all queues"),
        (("create", "reader", "--name", "pg_x"), "role name 'pg_x'"),
        (("grant", "reader", "--name", "nobody_such"), "does not exist; make it"),
        (("check", "nobody_such"), "'nobody_such' does not exist"),
        (("check", "--all", "x"), "--all goes with neither"),
        (("check", "--queue", "jobs"), "--queue needs --kind"),
    ],
)
def test_wrong_usage(cli, monkeypatch, arguments, message):
    """Each message names the problem and what to do; no role is created."""
    monkeypatch.delenv("UNSET_URL", raising=False)
    assert message in cli.fails(2, "roles", *arguments)


def test_who_may_not_make_roles_is_told_who_may(cli, monkeypatch, database_url):
    """The message names the script for an administrator."""
    monkeypatch.setenv("READER_URL", f"postgresql://test_login:{quote(PASSWORD)}@elsewhere/x")
    cli.ok("roles", "create", "reader", "--login-from-env", "READER_URL")
    cli.use(url_of(database_url, "test_login", PASSWORD))
    assert "meshhook roles sql reader" in cli.fails(1, "roles", "create", "reader", "--name", "x")
    assert cli.ok("roles", "check").out.split()[-1] == "ok"


@pytest.mark.parametrize(
    ("kind", "other", "command"),
    [
        ("reader", "producer", "queue list"),
        ("reader", "producer", "queue show jobs"),
        ("reader", "producer", "jobs list"),
        ("reader", "producer", "jobs show jobs 1"),
        ("reader", "producer", "stats"),
        ("reader", "producer", "workers"),
        ("reader", "producer", "dlq list jobs"),
        ("reader", "producer", "dlq show jobs 1"),
        ("reader", "producer", "dlq errors jobs"),
        ("producer", "reader", "enqueue jobs {}"),
        ("oncall", "reader", "queue pause jobs"),
        ("oncall", "worker", "queue set jobs max_retry_attempts=3"),
        ("oncall", "worker", "dlq replay jobs 1"),
        ("oncall", "reader", "dlq delete jobs 1 --yes"),
        ("oncall", "reader", "dlq purge jobs --yes"),
        ("operator", "worker", "queue create made"),
        ("operator", "worker", "queue set jobs max_retry_attempts=3"),
        ("operator", "oncall", "queue bind jobs shop.#"),
        ("operator", "reader", "queue bindings"),
        ("owner", "operator", "queue drop jobs --yes"),
        ("oncall", "reader", "queue purge jobs --yes"),
        ("owner", "operator", "roles grant reader --name test_other"),
        ("owner", "reader", "roles create reader --name test_other"),
    ],
)
def test_a_command_is_for_its_role(  # noqa: PLR0917 - pytest passes them by name
    cli, jobs, database_url, monkeypatch, kind, other, command
):
    """It works for the role that needs it; for another, the database's refusal is passed on."""
    cli.ok("enqueue", jobs, "{}")
    run_sql(database_url, "select pgmq.send('jobs_dlq', '{}')")
    for name, each in (("test_login", kind), ("test_other", other)):
        monkeypatch.setenv("ROLE_URL", f"postgresql://{name}:secret@elsewhere/x")
        by_queue = [] if each in {"owner", "operator"} else ["--queue", jobs]
        cli.ok("roles", "create", each, *by_queue, "--login-from-env", "ROLE_URL")
    cli.use(url_of(database_url, "test_other", "secret"))
    assert "permission denied" in cli.fails(1, *command.split())
    cli.use(url_of(database_url, "test_login", "secret"))
    cli.ok(*command.split())


def run_sql(url: str, sql: str) -> None:
    """Run statements as a superuser."""

    async def run() -> None:
        connection = await asyncpg.connect(url)
        await connection.execute(sql)
        await connection.close()

    asyncio.run(run())
