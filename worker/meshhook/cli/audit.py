"""`meshhook audit`: who changed what."""

from __future__ import annotations

import csv
import dataclasses
import json
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

import typer

from meshhook.audit import MAX_ENTRIES, AuditEntry, list_audit_entries, sum_operations
from meshhook.cli.connecting import with_database
from meshhook.cli.moments import past_moment
from meshhook.cli.options import JsonOption, command_app, example
from meshhook.cli.output import Column, moment_with_age, note, print_json, print_table
from meshhook.escaping import spreadsheet_json, spreadsheet_text
from meshhook.names import validate_queue_name
from meshhook.postgres.database import Database

app = command_app(
    help="Show and export the audit log: who changed what.",
    no_args_is_help=True,
    epilog=example("meshhook audit list --since 1d"),
)

QueueOption = Annotated[
    str | None, typer.Option("--queue", "-q", help="Only changes of this queue.")
]
ActionOption = Annotated[
    str | None,
    typer.Option(help="Only this action, or all of a group: settings.changed, dead_letters."),
]
ActorOption = Annotated[str | None, typer.Option(help="Only changes by this person or program.")]
SinceOption = Annotated[
    str | None, typer.Option(metavar="TIME", help="Only from then on: 2h ago, or a time.")
]
UntilOption = Annotated[
    str | None, typer.Option(metavar="TIME", help="Only before then: 2h ago, or a time.")
]

_FIELDS = tuple(each.name for each in dataclasses.fields(AuditEntry))


@app.command(
    "list",
    epilog=example(
        "meshhook audit list --queue workflow_jobs --since 1d",
        "meshhook audit list --action dead_letters",
    ),
)
def list_(
    context: typer.Context,
    *,
    queue: QueueOption = None,
    action: ActionOption = None,
    actor: ActorOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    before: Annotated[
        int | None, typer.Option(metavar="ID", help="Only ids below this one, for paging.")
    ] = None,
    limit: Annotated[int, typer.Option(help=f"The most to show, 1 to {MAX_ENTRIES}.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """List changes, the newest first.

    A change that was made in chunks is one row, with their sum. ROLE is the database role that had
    logged in; WHO is what the program said.
    """
    filters = _filters(queue, action, actor, since, until)
    found = with_database(
        context,
        lambda database: list_audit_entries(database, before=before, limit=limit, **filters),
    )
    if as_json:
        print_json(found)
        return
    if not found:
        note("There is no such change in the audit log.")
        return
    _print(sum_operations(found))
    if len(found) == limit:
        note(f"For earlier ones: --before {found[-1].id}")


@app.command(
    "export",
    epilog=example(
        "meshhook audit export > audit.jsonl", "meshhook audit export --format csv --since 30d"
    ),
)
def export(
    context: typer.Context,
    *,
    queue: QueueOption = None,
    action: ActionOption = None,
    actor: ActorOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    format_: Annotated[
        Literal["jsonl", "csv"], typer.Option("--format", help="JSON lines, or CSV with a header.")
    ] = "jsonl",
) -> None:
    """Write all changes that fit to standard output, the newest first, one a line.

    In CSV a cell that a spreadsheet would take for a formula has an apostrophe before it.
    """
    filters = _filters(queue, action, actor, since, until)
    write = _csv_writer() if format_ == "csv" else _write_json_line

    async def work(database: Database) -> None:
        async for entry in _every(database, filters):
            write(entry)

    with_database(context, work)


async def _every(database: Database, filters: dict[str, Any]) -> AsyncIterator[AuditEntry]:
    before: int | None = None
    while True:
        page = await list_audit_entries(database, before=before, limit=MAX_ENTRIES, **filters)
        for entry in page:
            yield entry
        if len(page) < MAX_ENTRIES:
            return
        before = page[-1].id


def _write_json_line(entry: AuditEntry) -> None:
    values = {name: getattr(entry, name) for name in _FIELDS} | {"at": entry.at.isoformat()}
    # Only ASCII, so that a terminal obeys nothing in it.
    sys.stdout.write(json.dumps(values) + "\n")


def _csv_writer() -> Callable[[AuditEntry], None]:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(_FIELDS)

    def write(entry: AuditEntry) -> None:
        writer.writerow([_cell(getattr(entry, name)) for name in _FIELDS])

    return write


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        return spreadsheet_json(value)
    return spreadsheet_text(value.isoformat() if isinstance(value, datetime) else str(value))


def _filters(
    queue: str | None, action: str | None, actor: str | None, since: str | None, until: str | None
) -> dict[str, Any]:
    return {
        "queue": None if queue is None else validate_queue_name(queue),
        "action": action,
        "actor": actor,
        "since": None if since is None else past_moment("--since", since),
        "until": None if until is None else past_moment("--until", until),
    }


def _print(entries: Sequence[AuditEntry]) -> None:
    print_table(
        [
            Column("ID", is_number=True),
            Column("WHEN"),
            Column("WHO", shrinks=True),
            Column("ROLE", shrinks=True, is_optional=True),
            Column("WITH", is_optional=True),
            Column("ACTION"),
            Column("QUEUE", shrinks=True, is_optional=True),
            Column("COUNT", is_number=True, is_optional=True),
            Column("WHAT", shrinks=True, is_optional=True),
        ],
        [
            [
                str(each.id),
                moment_with_age(each.at),
                each.actor,
                each.database_role if each.database_role != each.actor else "",
                each.source,
                each.action,
                each.queue or "",
                "" if each.count is None else f"{each.count:,}",
                what(each),
            ]
            for each in entries
        ],
    )


def what(entry: AuditEntry) -> str:
    """Return what was changed, and how, in one line."""
    parts = [f"{name}={_short(value)}" for name, value in (entry.filter or {}).items()]
    for name, value in (entry.details or {}).items():
        if isinstance(value, dict) and value.keys() == {"old", "new"}:
            parts.append(f"{name} {_short(value['old'])} -> {_short(value['new'])}")
        elif entry.action != "queue.created":
            parts.append(f"{name}={_short(value)}")
    return ", ".join(parts)


def _short(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
