"""The runbooks: complete, and every command in them works as it stands."""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest
from markdown_it import MarkdownIt

from meshhook import DLQService, QueueService, add_schedule, set_queue_config
from meshhook.cli.app import run
from meshhook.schema import migrate
from support.databases import Databases
from support.logging_setup import logging_as_before
from support.rule_files import ALERTS, GRAFANA

RUNBOOKS = GRAFANA / "runbooks"
SECTIONS = ["Meaning", "Impact", "Diagnosis", "Mitigation"]
KUBECTL_VERBS = {
    *("get", "describe", "logs", "exec", "delete", "top", "events"),
    *("rollout", "scale", "patch"),
}

with_each_runbook = pytest.mark.parametrize("stem", ALERTS)


@with_each_runbook
def test_runbook_has_its_four_sections(stem):
    """A runbook says what the alert means, what it does to users, where to look, what to do."""
    tokens = MarkdownIt().parse(_text(stem))
    heads = [
        (token.tag, tokens[index + 1].content)
        for index, token in enumerate(tokens)
        if token.type == "heading_open"
    ]

    assert heads == [("h1", stem), *(("h2", section) for section in SECTIONS)]
    assert any(
        command.startswith(("meshhook ", "psql ", "kubectl ")) for command in _commands(stem)
    )


@with_each_runbook
def test_links_lead_somewhere(stem):
    """A runbook sends people only to runbooks that there are."""
    links = re.findall(r"\]\(([^)]+)\)", _text(stem))

    assert all((RUNBOOKS / link.partition("#")[0]).is_file() for link in links)


@with_each_runbook
def test_variables_are_set_before_use(stem):
    """What a command needs is exported in the block before, so that it can be pasted."""
    known = {"MESHHOOK_DATABASE_URL"}
    for command in _commands(stem):
        words = shlex.split(command, comments=True)
        if words and words[0] == "export":
            known |= {word.partition("=")[0] for word in words[1:]}
        else:
            assert set(re.findall(r"\$(\w+)", command)) <= known, command


@with_each_runbook
def test_kubectl_commands_are_whole(stem):
    """A kubectl command has a verb that there is, and says in which namespace."""
    for words in _words(stem, "kubectl"):
        options = words[1:]
        everywhere = {"-A", "--raw"} & set(options)
        assert everywhere or options[0] == "-n", words
        verb = options[2] if options[0] == "-n" else options[0]
        assert verb in KUBECTL_VERBS


@with_each_runbook
def test_meshhook_commands_work(stem, databases, troubled, monkeypatch, capsys):
    """Each `meshhook` command of the runbook works on a queue that is in trouble."""
    for words in _words(stem, "meshhook"):
        url = databases.create(template=troubled)
        monkeypatch.setenv("MESHHOOK_DATABASE_URL", url)
        code = run(_ending(words[1:]))
        captured = capsys.readouterr()
        databases.drop(url)
        # The doctor finds that the server of the tests is fast rather than safe.
        worst = 1 if words[1] == "doctor" else 0
        assert code <= worst, f"{shlex.join(words)}: {captured.err}"


@with_each_runbook
def test_sql_works(stem, databases, troubled):
    """Each statement that the runbook gives to `psql` works."""
    url = databases.create(template=troubled)
    for words in _words(stem, "psql"):
        assert words[1:3] == ["$MESHHOOK_DATABASE_URL", "-c"]
        asyncio.run(_execute(url, words[3]))
    databases.drop(url)


def test_runbook_finds_the_transaction_that_locks_a_message(databases, troubled):
    """The first statement on outcomes that wait names the session with the lock, and no other."""
    url = databases.create(template=troubled)
    [_, _, _, statement], *_ = _words("MeshHookOutcomesNotRecorded", "psql")
    assert asyncio.run(_found_while_locked(url, statement)) == [("holder", "RowShareLock")]
    databases.drop(url)


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """A command configures the logging of its process; that is this one here."""
    with logging_as_before():
        yield


@pytest.fixture(scope="session")
def troubled(databases: Databases) -> str:
    """The name of a database to clone, whose keyed queue `orders` has dead letters and messages."""

    async def prepare(connection: asyncpg.Connection[Any]) -> None:
        await migrate(connection)
        await connection.execute("select meshhook.create_queue('orders')")
        await set_queue_config(connection, "orders", keyed=True)
        await add_schedule(connection, "orders", "daily", "@daily")
        await connection.execute(
            "select pgmq.send('orders', '{}'::jsonb) from generate_series(1, 30)"
        )
        for error_type in ["TimeoutError"] * 5:
            job = await QueueService[Any](connection, "orders").dequeue()
            assert job is not None
            await DLQService(connection, "orders").move_to_dead_letter(
                job, "too slow", "Traceback: ...", error_type=error_type
            )

    return databases.create_template(prepare)


def _ending(arguments: list[str]) -> list[str]:
    """Return a command that ends by itself and asks nobody."""
    if arguments[0] in {"worker", "exporter"} or "--watch" in arguments:
        return [arguments[0], "--help"]
    if arguments[:2] in (["dlq", "delete"], ["dlq", "purge"]):
        return [*arguments, "--yes"]
    return arguments


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def _found_while_locked(url: str, statement: str) -> list[tuple[str, str]]:
    """Return the application and locks of each session that a statement finds."""
    connection = await asyncpg.connect(url)
    holder = await asyncpg.connect(url, server_settings={"application_name": "holder"})
    try:
        await connection.fetch("select * from pgmq.q_orders")
        await holder.execute("begin; select from pgmq.q_orders where msg_id = 10 for update")
        rows = await connection.fetch(statement)
        return [(row["application_name"], row["locks"]) for row in rows]
    finally:
        await holder.close()
        await connection.close()


def _text(stem: str) -> str:
    return (RUNBOOKS / f"{stem}.md").read_text()


def _commands(stem: str) -> list[str]:
    """Return the lines of the blocks marked `sh`, and commands of ours within sentences."""
    tokens = MarkdownIt().parse(_text(stem))
    blocks = [token.content for token in tokens if token.type == "fence" and token.info == "sh"]
    inline = [
        child.content
        for token in tokens
        for child in token.children or ()
        if child.type == "code_inline" and re.match(r"(meshhook|kubectl) \S+ \S", child.content)
    ]
    return [line for block in blocks for line in block.splitlines() if line.strip()] + inline


def _words(stem: str, program: str) -> list[list[str]]:
    """Return the commands of a program, split into words, with queue and key filled in."""
    found = []
    for command in _commands(stem):
        filled = (
            command.replace("$QUEUE", "orders")
            .replace("$KEY", "tenant-7")
            .replace("$SCHEDULE", "daily")
        )
        words = shlex.split(filled, comments=True)
        if words and words[0] == program:
            found.append(words)
    return found
