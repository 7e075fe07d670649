"""`meshhook queue bind`, `unbind` and `bindings`: which topics PGMQ routes to a queue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from meshhook.cli.connecting import with_database
from meshhook.cli.options import JsonOption, QueueArgument
from meshhook.cli.output import Column, age, note, print_json, print_table, say
from meshhook.names import validate_queue_name
from meshhook.topics import TopicBinding, bind_topic, list_topic_bindings, unbind_topic

if TYPE_CHECKING:
    from collections.abc import Sequence

PatternArgument = Annotated[
    str,
    typer.Argument(
        metavar="PATTERN", help="Topics, such as 'orders.*' (one name) or 'orders.#' (any text)."
    ),
]


def bind(
    context: typer.Context,
    queue: QueueArgument,
    pattern: PatternArgument,
    as_json: JsonOption = False,
) -> None:
    """Let PGMQ route to a queue what is sent to matching topics; needs PGMQ 1.11."""
    name = validate_queue_name(queue)
    is_new = with_database(context, lambda database: bind_topic(database, name, pattern))
    if as_json:
        print_json({"queue": name, "pattern": pattern, "is_new": is_new})
    else:
        say(f"bound {pattern} to queue {name}" + ("" if is_new else "; it was bound already"))


def unbind(
    context: typer.Context,
    queue: QueueArgument,
    pattern: PatternArgument,
    as_json: JsonOption = False,
) -> None:
    """Route no more messages to a queue for a pattern; messages in the queue stay."""
    name = validate_queue_name(queue)
    was_bound = with_database(context, lambda database: unbind_topic(database, name, pattern))
    if as_json:
        print_json({"queue": name, "pattern": pattern, "was_bound": was_bound})
    elif was_bound:
        say(f"unbound {pattern} from queue {name}")
    else:
        note(f"{pattern} was not bound to queue {name}; see: meshhook queue bindings {name}")


def bindings(
    context: typer.Context,
    queue: Annotated[
        str | None, typer.Argument(metavar="[QUEUE]", help="The queue. Default: all of them.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the topics that are bound to a queue, or to each queue."""
    name = None if queue is None else validate_queue_name(queue)
    found = with_database(context, lambda database: list_topic_bindings(database, name))
    if as_json:
        print_json(found)
    elif found:
        _print(found)
    else:
        note("no topic is bound" + ("" if name is None else f" to queue {name}"))


def _print(found: Sequence[TopicBinding]) -> None:
    print_table(
        [Column("QUEUE"), Column("PATTERN", shrinks=True), Column("AGE", is_number=True)],
        [[each.queue, each.pattern, age(each.bound_at)] for each in found],
    )
