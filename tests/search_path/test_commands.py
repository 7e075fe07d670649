"""Every command, run by a superuser on a database of hostile objects: none of these runs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from meshhook import Database, DLQService, FollowUp, QueueService
from meshhook.cli.app import all_commands, run
from support.hostile_objects import Way, what_ran

COMMANDS = """
migrate
migrate --dry-run
migrate sql --pgmq-sql
queue create made max_retry_attempts=3
queue list
queue show jobs
queue set jobs retry_backoff_base_ms=10
queue set jobs keyed=true
queue set jobs lookup_by=run_id,workflow_id
queue set jobs retry_backoff=list retry_delays_ms=10,20 job_expiry_seconds=60
queue set jobs keep_bodies_days=7
queue set made prioritized=true
schedule add jobs s --cron @daily
schedule add jobs t --every 1s --overlap skip
schedule list
schedule run jobs s
schedule history jobs s
schedule pause jobs s
schedule resume jobs s
schedule delete jobs s --yes
groups list
groups show jobs g
groups show jobs g --repair
keys set jobs a max_running=2
keys list jobs
keys show jobs a
keys hold jobs b --for 60
keys resume jobs b
queue bind jobs shop.#
queue bindings
queue bindings jobs
publish shop.a {"a":1} --key k --header h=1
queue unbind jobs shop.#
queue pause jobs
queue resume jobs
enqueue jobs {"a":1} --run-id r1 --workflow-id w --project-id p --header h=1
enqueue jobs {"a":2} --delay 60
stats
stats jobs
workers
workers jobs
jobs list
jobs list --queue jobs --state ready
jobs list --queue jobs --state dead_lettered --workflow-id w
jobs list --run-id r1
jobs show jobs 1
jobs show jobs 6
jobs reschedule jobs 6 --delay 60
jobs set-priority jobs 6 --priority low
jobs run-now jobs --state scheduled --yes
jobs cancel jobs 6
jobs cancel jobs --run-id r1 --dry-run
jobs replay jobs --since 1h --yes
jobs delete jobs 6 --yes
dlq list jobs
dlq list jobs --error-type E1
dlq show jobs 1
dlq errors jobs
dlq replay jobs 1
dlq replay jobs --error-type E1 --limit 1
dlq replay jobs --all --limit 1 --target other
dlq delete jobs 4 --yes
dlq purge jobs --yes
encryption new-key KEYS --id k1
encryption use-key KEYS k1
encryption status jobs
encryption rotate jobs --waiting --archive --plain --encryption-key-file KEYS
roles sql reader
roles create worker --name ROLE --queue jobs
roles grant producer --name ROLE --queue jobs
roles check ROLE
roles check --all
audit list
audit export
doctor
queue purge jobs --yes
queue drop made --yes
"""
"""One a line. `dead` of the messages of queue `jobs` are dead letters when they run."""

OTHERS = {"demo", "serve-postgres", "worker", "exporter", "console"}
"""Commands that bring a database of their own, or run until they are stopped."""

DEAD = 5


def command_names(group: Any, *above: str) -> Iterator[str]:
    """Yield the name of each command, with that of the group that it is in."""
    for name, command in getattr(group, "commands", {}).items():
        if hasattr(command, "commands"):
            if getattr(command, "invoke_without_command", False):
                yield " ".join([*above, name])
            yield from command_names(command, *above, name)
        else:
            yield " ".join([*above, name])


async def prepare(url: str) -> None:
    """Make dead letters, and one job that waits."""
    database = await Database.connect(url)
    try:
        queue, dlq = QueueService[Any](database, "jobs"), DLQService(database, "jobs")
        await queue.enqueue_many([{"workflow_id": "w", "payload": n} for n in range(DEAD + 1)])
        await queue.enqueue_many([], group="g", on_complete=FollowUp("jobs", {"all": 1}))
        for n in range(DEAD):
            job = await queue.dequeue()
            assert job is not None
            await dlq.move_to_dead_letter(job, "broken", error_type=f"E{n % 2}")
        await queue.close()
    finally:
        await database.close()


@pytest.fixture
def url_of_commands(way: Way, hostile_queues_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL for commands, with dead letters and a job in the database."""
    asyncio.run(prepare(hostile_queues_url))
    if way.is_pooled:
        monkeypatch.setenv("MESHHOOK_POOLED", "true")
    return way.url


def test_every_command_is_run_here() -> None:
    """A new command belongs into the list above."""
    names = set(command_names(all_commands()))
    run_here = {
        max((name for name in names if line.startswith(name)), key=len, default=line)
        for line in COMMANDS.split("\n")
        if line
    }
    assert names - run_here - OTHERS == set()
    assert run_here <= names


def test_commands_of_a_superuser_run_nothing_hostile(
    url_of_commands: str,
    hostile_queues_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """Whether the session has a path of ours or not, only PostgreSQL's own functions run."""
    monkeypatch.setenv("MESHHOOK_DATABASE_URL", url_of_commands)
    role = f"path_{os.urandom(4).hex()}"
    try:
        for line in filter(None, COMMANDS.split("\n")):
            words = line.replace("ROLE", role).replace("KEYS", str(tmp_path / "keys"))
            code = run(words.split(" "))
            captured = capsys.readouterr()
            is_check = line.startswith(("roles check", "doctor"))
            assert code == 0 or is_check, f"meshhook {line}: {captured.err}"
            assert asyncio.run(what_ran(hostile_queues_url)) == [], f"meshhook {line}"
    finally:

        async def drop_role() -> None:
            connection = await asyncpg.connect(hostile_queues_url)
            try:
                await connection.execute("set search_path = pg_catalog")
                await connection.execute(f"drop owned by {role}; drop role {role}")
            finally:
                await connection.close()

        asyncio.run(drop_role())


def test_a_first_migration_runs_nothing_hostile(
    hostile_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does `meshhook migrate` on a database without MeshHook, whose path is everybody's."""
    monkeypatch.setenv("MESHHOOK_DATABASE_URL", f'{hostile_url}?search_path="$user",public')
    assert run(["migrate", "--dry-run"]) == 0
    assert run(["migrate"]) == 0
    assert asyncio.run(what_ran(hostile_url)) == []
