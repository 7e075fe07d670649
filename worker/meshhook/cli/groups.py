"""`meshhook groups`: how far groups of jobs have come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from meshhook.cli.connecting import with_database
from meshhook.cli.options import JsonOption, QueueArgument, command_app, example
from meshhook.cli.output import (
    Column,
    age,
    moment_with_age,
    note,
    print_fields,
    print_json,
    print_table,
)
from meshhook.groups import MAX_GROUPS, JobGroup, get_group, list_groups, repair_group
from meshhook.names import validate_queue_name

app = command_app(
    help="Show groups of jobs, and how far each has come.",
    no_args_is_help=True,
    epilog=example("meshhook groups list --unfinished"),
)


@app.command("list", epilog=example("meshhook groups list --queue deliveries --unfinished"))
def list_(
    context: typer.Context,
    *,
    queue: Annotated[
        str | None, typer.Option("--queue", "-q", help="Only groups of this queue.")
    ] = None,
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Only groups that have not finished.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=MAX_GROUPS, help="The most to show.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """List groups of jobs, the newest first."""
    name = None if queue is None else validate_queue_name(queue)
    found = with_database(
        context,
        lambda database: list_groups(database, name, unfinished=unfinished, limit=limit),
    )
    if as_json:
        print_json(found)
    elif found:
        _print_list(found, with_queue=name is None)
        if len(found) == limit:
            note(f"These are the newest {limit}; for more: --limit, up to {MAX_GROUPS}.")
    else:
        note("There is no such group.")


@app.command(
    "show",
    epilog=example(
        "meshhook groups show deliveries import-7",
        "meshhook groups show deliveries import-7 --repair",
    ),
)
def show(
    context: typer.Context,
    queue: QueueArgument,
    name: Annotated[str, typer.Argument(metavar="GROUP", help="The name of the group.")],
    *,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help=(
                "Finish the group if none of its messages is left, and enqueue a callback that "
                "was refused. Workers of the queue do so every minute."
            ),
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show one group of jobs: how its jobs ended, and its callback."""
    queue_name = validate_queue_name(queue)
    read = repair_group if repair else get_group
    found = with_database(context, lambda database: read(database, queue_name, name))
    if as_json:
        print_json(found)
    else:
        _print_one(found)


def _print_list(found: Sequence[JobGroup], *, with_queue: bool) -> None:
    print_table(
        [
            *([Column("QUEUE")] if with_queue else []),
            Column("GROUP", shrinks=True),
            Column("JOBS", is_number=True),
            Column("PENDING", is_number=True),
            Column("SUCCEEDED", is_number=True),
            Column("FAILED", is_number=True, is_optional=True),
            Column("CANCELLED", is_number=True, is_optional=True),
            Column("CREATED"),
            Column("CALLBACK", is_optional=True),
        ],
        [
            [
                *([each.queue] if with_queue else []),
                each.name,
                f"{each.total:,}",
                f"{each.pending:,}",
                f"{each.succeeded:,}",
                f"{each.failed:,}" if each.failed else "",
                f"{each.cancelled:,}" if each.cancelled else "",
                age(each.created_at),
                _callback(each),
            ]
            for each in found
        ],
    )


def _print_one(found: JobGroup) -> None:
    lost = f" ({found.lost:,} lost: their messages were deleted)" if found.lost else ""
    print_fields(
        [
            ("queue", found.queue),
            ("group", found.name),
            ("jobs", f"{found.total:,}"),
            ("pending", f"{found.pending:,}"),
            ("succeeded", f"{found.succeeded:,}"),
            ("failed", f"{found.failed:,}{lost}"),
            ("cancelled", f"{found.cancelled:,}"),
            ("created", moment_with_age(found.created_at)),
            ("finished", moment_with_age(found.finished_at) if found.finished_at else "-"),
            ("callback", _callback(found) or "none"),
            *([("refused", found.callback_error)] if found.callback_error else []),
        ]
    )


def _callback(group: JobGroup) -> str:
    if group.callback_queue is None:
        return ""
    if group.callback_id is not None:
        return f"{group.callback_queue}/{group.callback_id}"
    if group.callback_error is not None:
        return f"{group.callback_queue}: refused"
    return group.callback_queue
