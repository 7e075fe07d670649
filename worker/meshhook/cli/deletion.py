"""Deleting all that a queue has of something, for good: ask, delete, and say what went."""

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
    """What went, for programs and for people."""

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
    """Ask `question` of a database and the name of a queue, then `delete`, and print what went.

    Args:
        context: of the command.
        queue: the name as it was given.
        question: returns what to ask, with how much would go.
        delete: deletes it.
        yes: whether the answer is given already.
        as_json: whether to print for programs.

    Raises:
        InvalidQueueNameError: if the name is none.
        UsageError, DeclinedError: as `confirm` says; nothing was deleted.
        MeshHookError: as `question` and `delete` do.
    """
    name = validate_queue_name(queue)

    async def work(database: Database) -> Deleted:
        # Made even where it is not asked: it finds out whether there is such a queue.
        confirm(await question(database, name), yes=yes)
        return await delete(database, name)

    deleted = with_database(context, work)
    if as_json:
        print_json({"queue": name, deleted.field: deleted.value})
    else:
        say(deleted.sentence)
