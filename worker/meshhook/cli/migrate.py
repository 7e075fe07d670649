"""`meshhook migrate`: install PGMQ and the tables of MeshHook, or bring them up to date."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import typer

from meshhook.cli.connecting import with_database
from meshhook.cli.options import JsonOption, command_app, example
from meshhook.cli.output import counted, note, print_json, say
from meshhook.postgres.database import Database
from meshhook.schema import (
    Migration,
    MigrationPlan,
    MigrationReport,
    PgmqVersion,
    migrate,
    plan,
    script,
)
from meshhook.store import queries

app = command_app(
    help=(
        "Install PGMQ if it is missing, and run pending migrations. "
        "Safe to repeat, and to run from several places at once."
    ),
    invoke_without_command=True,
    epilog=example("meshhook migrate --dry-run", "meshhook migrate"),
)


@app.callback()
def _migrate(
    context: typer.Context,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done, and change nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    if context.invoked_subcommand is None:
        if dry_run:
            _show_plan(context, as_json)
        else:
            _run(context, as_json)


@app.command("sql", epilog=example("meshhook migrate sql > meshhook.sql"))
def sql(
    pgmq_sql: Annotated[
        bool,
        typer.Option(
            "--pgmq-sql",
            help=(
                "Install PGMQ as plain SQL. Otherwise the script uses the PGMQ that the database "
                "has, or creates the extension."
            ),
        ),
    ] = False,
) -> None:
    """Print an SQL script that does the same on a fresh database, for its administrator.

    It needs no connection to a database.
    """
    typer.echo(script(pgmq_sql=pgmq_sql), nl=False)


def _show_plan(context: typer.Context, as_json: bool) -> None:
    async def work(database: Database) -> MigrationPlan:
        return await plan(database)

    found = with_database(context, work, needs_schema=False)
    if as_json:
        print_json(
            {
                "pgmq": found.pgmq,
                "applied": found.applied,
                "pending": _named(found.pending),
            }
        )
        return
    if found.pgmq.to_install is not None:
        say(f"would install PGMQ {found.pgmq.to_install}")
    for migration in found.pending:
        say(f"would run {migration.file_name}")
    if found.pgmq.to_install is None and not found.pending:
        say(f"up to date: PGMQ {found.pgmq.found}, {_migrations(len(found.applied))}")
    _tell_newer(found.pgmq.newer, found.pgmq.found)


def _run(context: typer.Context, as_json: bool) -> None:
    async def work(database: Database) -> tuple[MigrationReport, bool]:
        async with database.acquire() as connection:
            report = await migrate(connection)
        return report, bool(await database.fetch(queries.load("list_queue_names")))

    report, has_queues = with_database(context, work, needs_schema=False)
    if as_json:
        print_json(
            {
                "pgmq": report.pgmq,
                "pgmq_before": report.pgmq_before,
                "pgmq_newer": report.pgmq_newer,
                "applied_before": report.applied_before,
                "applied": _named(report.applied),
            }
        )
        return
    if report.pgmq_before is None:
        say(f"installed PGMQ {report.pgmq}")
    for migration in report.applied:
        say(f"ran {migration.file_name}")
    total = len(report.applied_before) + len(report.applied)
    say(f"up to date: PGMQ {report.pgmq}, {_migrations(total)}")
    _tell_newer(report.pgmq_newer, report.pgmq)
    if not has_queues:
        note(
            "There are no queues yet. Create the default one, workflow_jobs: meshhook queue create;"
            " or one of your own: meshhook queue create NAME"
        )


def _named(migrations: Iterable[Migration]) -> list[dict[str, Any]]:
    return [
        {"version": each.version, "name": each.name, "checksum": each.checksum}
        for each in migrations
    ]


def _migrations(number: int) -> str:
    return counted(number, "migration")


def _tell_newer(newer: str | None, current: PgmqVersion | None) -> None:
    if newer is not None and current is not None:
        note(
            f"PGMQ {newer} is available; the database keeps {current.version} until you update it."
        )
