"""`meshhook groups`."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from meshhook import FollowUp, QueueService
from meshhook.postgres.database import Database


@pytest.fixture
def groups(cli, database_url):
    """A group that goes on, and one that has ended."""

    async def make(url):
        database = await Database.connect(url)
        async with QueueService[Any](database, "imports") as queue:
            callback = FollowUp("imports", {"all": 1})
            await queue.enqueue_many([{}] * 3, group="import-7", on_complete=callback)
            await queue.enqueue_many([], group="empty\x1b", on_complete=callback)
        await database.close()

    cli.ok("queue", "create", "imports")
    asyncio.run(make(database_url))


def test_groups_are_listed(cli, groups):
    """The newest first; nothing of a name reaches the terminal raw."""
    ended = cli.ok("groups", "list")
    lines = ended.out.splitlines()
    assert lines[0].split()[:4] == ["QUEUE", "GROUP", "JOBS", "PENDING"]
    assert lines[2].split()[:5] == ["imports", "import-7", "3", "3", "0"]
    assert "\x1b" not in ended.out
    found = cli.ok("groups", "list", "--queue", "imports", "--unfinished", "--json").json
    assert [(each["name"], each["total"]) for each in found] == [("import-7", 3)]
    assert "for more" in cli.ok("groups", "list", "--limit", "1").err
    assert "no such group" in cli.ok("groups", "list", "--queue", "other").err


def test_a_group_is_shown_and_repaired(cli, groups):
    """It says what was lost, and which job is the callback."""
    shown = cli.ok("groups", "show", "imports", "import-7").out
    assert "pending" in shown
    assert "imports" in shown
    cli.ok("queue", "purge", "imports", "--yes")
    assert "3 lost" not in cli.ok("groups", "show", "imports", "import-7").out
    shown = cli.ok("groups", "show", "imports", "import-7", "--repair").out
    assert "3 (3 lost: their messages were deleted)" in shown
    found = cli.ok("groups", "show", "imports", "import-7", "--json").json
    assert (found["failed"], found["callback_queue"]) == (3, "imports")
    assert f"imports/{found['callback_id']}" in shown


def test_mistakes_are_explained(cli, groups):
    """What is not there, and the command that lists what is."""
    assert "groups list --queue imports" in cli.fails(3, "groups", "show", "imports", "other")
    assert "does not exist" in cli.fails(3, "groups", "show", "other", "import-7")
