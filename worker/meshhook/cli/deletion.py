"""Deleting everything of one kind from a queue: ask, delete, and report what was deleted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import typer

from meshhook.cli.connecting import with_database
from meshhook.cli.output import print_json, say
from meshhook.cli.standard_input import confirm
from meshhook.names import validate_queue_name
from meshhook.postgres.database import Database


@dataclass(frozen=True, slots=True)
class Deleted:
    """What was deleted, for programs and for people."""

    field: str
    """The name in the JSON document."""
    value: int | bool
    sentence: str


def delete_for_good(
    context: typer.Context,
    queue: str,
    *,
    question: Callable[[Database, str], Awaitable[str]],
    delete: Callable[[Database, str], Awaitable[Deleted]],
    yes: bool,
    as_json: bool,
) -> None:
    """Ask `question`, then `delete`, and print what was deleted.

    Args:
        context: of the command.
        queue: the queue's name, not validated yet.
        question: returns what to ask, given the database and the name; says how much would go.
        delete: deletes it, given the same.
        yes: whether the user has confirmed already.
        as_json: whether to print JSON.

    Raises:
        InvalidQueueNameError: if no queue can have that name.
        UsageError, DeclinedError: as `confirm` does; nothing was deleted.
        MeshHookError: as `question` and `delete` do.
    """
    name = validate_queue_name(queue)

    async def work(database: Database) -> Deleted:
        # Built even if it is not asked: it finds out whether the queue exists.
        confirm(await question(database, name), yes=yes)
        return await delete(database, name)

    deleted = with_database(context, work)
    if as_json:
        print_json({"queue": name, deleted.field: deleted.value})
    else:
        say(deleted.sentence)
