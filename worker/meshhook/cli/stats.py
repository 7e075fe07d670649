"""`meshhook stats`: all queues, or one, now and over the last 24 hours; or live."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated

import typer

from meshhook import administration
from meshhook.administration import QueueSnapshot
from meshhook.cli.connecting import with_database
from meshhook.cli.failures import UsageError
from meshhook.cli.options import JsonOption, command_app, example
from meshhook.cli.output import Column, duration, note, print_json, print_table, say
from meshhook.cli.snapshots import print_priorities, print_snapshots
from meshhook.names import validate_queue_name
from meshhook.postgres.database import Database
from meshhook.priority_statistics import PriorityStatistics, get_priority_statistics
from meshhook.statistics import HourStatistics, job_statistics

app = command_app()


@app.command(
    "stats",
    epilog=example("meshhook stats", "meshhook stats workflow_jobs --watch"),
)
def stats(
    context: typer.Context,
    queue: Annotated[
        str | None, typer.Argument(metavar="QUEUE", help="The queue. Default: all.")
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Show the queues live, until Ctrl-C.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show messages by state now, and the outcomes of the attempts of the last 24 hours.

    For the latter it reads every attempt, about 1.5 seconds per million. --watch does not. Of a
    queue with priorities, if it is named, it also shows what is due by priority.
    """
    name = None if queue is None else validate_queue_name(queue)
    if watch:
        if as_json:
            raise UsageError("--watch is for people; for programs, repeat: meshhook stats --json")
        if not sys.stdout.isatty():
            raise UsageError("--watch needs a terminal; for programs: meshhook stats --json")
        from meshhook.cli.watching import (  # noqa: PLC0415 - rich is slow to load
            watch as watch_queues,
        )

        with suppress(KeyboardInterrupt):  # which is how it ends
            with_database(context, lambda database: watch_queues(database, name))
        return
    snapshots, bands, hours = with_database(context, lambda database: _read(database, name))
    if as_json:
        print_json({"queues": snapshots, "priorities": bands, "hours": hours})
    else:
        _print(snapshots, bands, hours)


async def _read(
    database: Database, name: str | None
) -> tuple[list[QueueSnapshot], list[PriorityStatistics], list[HourStatistics]]:
    bands: list[PriorityStatistics] = []
    if name is None:
        snapshots = await administration.list_queues(database)
    else:
        snapshots = [await administration.get_queue_snapshot(database, name)]
        bands = await get_priority_statistics(database, name)
    return snapshots, bands, await job_statistics(database, name)


def _print(
    snapshots: Sequence[QueueSnapshot],
    bands: Sequence[PriorityStatistics],
    hours: Sequence[HourStatistics],
) -> None:
    print_snapshots(snapshots)
    if bands:
        say("")
        print_priorities(bands)
    if hours:
        say("")
        _print_hours(hours)
    elif snapshots:
        note("No attempt has ended in the last 24 hours.")


def _print_hours(hours: Sequence[HourStatistics]) -> None:
    print_table(
        [
            Column("HOUR (UTC)"),
            Column("QUEUE", shrinks=True),
            Column("ATTEMPTS", is_number=True),
            Column("DONE", is_number=True),
            Column("RETRIED", is_number=True),
            Column("DEAD", is_number=True),
            Column("LOST", is_number=True),
            Column("P50", is_number=True),
            Column("P95", is_number=True),
        ],
        [
            [
                f"{each.hour:%d %b %H:%M}",
                each.queue,
                f"{each.attempts:,}",
                f"{each.succeeded:,}",
                f"{each.retried:,}",
                f"{each.dead_lettered:,}",
                f"{each.lost:,}",
                duration(each.p50_run_seconds),
                duration(each.p95_run_seconds),
            ]
            for each in hours
        ],
    )
