"""`meshhook audit`."""

from __future__ import annotations

import asyncio
import csv
import io
import json

import pytest

from meshhook import acting_as, set_queue_config
from meshhook.actors import process_actor


@pytest.fixture
def changes(cli):
    """Some changes by commands."""
    cli.ok("queue", "create", "jobs")
    cli.ok("queue", "set", "jobs", "max_retry_attempts=7")
    cli.ok("queue", "pause", "jobs")


def test_changes_are_listed(cli, changes):
    """The newest first, with who made them and the old and new values."""
    header, *rows = cli.ok("audit", "list").out.splitlines()
    assert header.split()[:3] == ["ID", "WHEN", "WHO"]
    assert "queue.paused" in rows[0]
    assert "max_retry_attempts 5 -> 7" in rows[1]
    found = cli.ok("audit", "list", "--json").json
    assert [each["action"] for each in found] == [
        "queue.paused",
        "settings.changed",
        "queue.created",
    ]
    assert {(each["actor"], each["source"]) for each in found} == {(process_actor(), "cli")}


def test_a_list_is_filtered_and_paged(cli, changes):
    """And says so if nothing fits."""
    found = cli.ok("audit", "list", "--queue", "jobs", "--action", "queue", "--limit", "1")
    assert "--before" in found.err
    newest = cli.ok("audit", "list", "--json").json[0]["id"]
    rest = cli.ok("audit", "list", "--before", str(newest), "--since", "1h", "--json").json
    assert [each["action"] for each in rest] == ["settings.changed", "queue.created"]
    assert "no such change" in cli.ok("audit", "list", "--actor", "nobody").err
    assert "--since" in cli.fails(2, "audit", "list", "--since", "soon")


def test_the_log_is_exported(cli, changes, database_url):
    """As JSON lines or CSV; nothing in it is obeyed by a terminal or a spreadsheet."""
    with acting_as("=cmd()\x1b"):
        asyncio.run(set_queue_config(database_url, "jobs", paused=False))
    lines = cli.ok("audit", "export").out.splitlines()
    actions = [json.loads(line)["action"] for line in lines]
    assert actions == ["queue.resumed", "queue.paused", "settings.changed", "queue.created"]
    rows = list(csv.DictReader(io.StringIO(cli.ok("audit", "export", "--format", "csv").out)))
    assert [row["action"] for row in rows] == actions
    assert rows[0]["actor"] == "'=cmd()\\x1b"
    assert json.loads(rows[2]["details"]) == {"max_retry_attempts": {"old": 5, "new": 7}}
