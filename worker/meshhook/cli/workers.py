"""`meshhook workers`: the workers that are alive."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from meshhook.cli.connecting import with_database
from meshhook.cli.options import JsonOption, command_app, example
from meshhook.cli.output import Column, age, duration, note, print_json, print_table
from meshhook.live_workers import LiveWorker, list_workers
from meshhook.names import validate_queue_name

app = command_app()


@app.command(
    "workers",
    epilog=example("meshhook workers", "meshhook workers workflow_jobs --json"),
)
def workers(
    context: typer.Context,
    queue: Annotated[
        str | None, typer.Argument(metavar="QUEUE", help="The queue. Default: all.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the workers that reported in the last 30 seconds; each does so every 5.

    A worker of several queues is listed once per queue. OLDEST is how long its oldest running job
    has run. DONE counts the attempts whose outcome it recorded. BUSY is how many of its slots have
    been in use on average since it started. In the state "cordoned", it claims no jobs and finishes
    what it runs, because the operator has more workers than it needs. SCHEMA is the newest
    migration that its version of the library has, and "-" of a version that does not say.
    """
    name = None if queue is None else validate_queue_name(queue)
    found = with_database(context, lambda database: list_workers(database, name))
    if as_json:
        print_json(found)
    elif found:
        _print(found)
    else:
        whose = "" if name is None else f" of queue {name!r}"
        note(
            f"There are no workers{whose}. Start one: "
            "meshhook worker QUEUE --handler MODULE:FUNCTION"
        )


def _print(found: Sequence[LiveWorker]) -> None:
    print_table(
        [
            Column("QUEUE", shrinks=True),
            Column("WORKER", shrinks=True),
            Column("HOST", shrinks=True, is_optional=True),
            Column("RUNNING", is_number=True),
            Column("OLDEST", is_number=True, is_optional=True),
            Column("DONE", is_number=True),
            Column("BUSY", is_number=True),
            Column("SINCE", is_number=True),
            Column("SEEN", is_number=True, is_optional=True),
            Column("STATE", is_optional=True),
            Column("SCHEMA", is_optional=True),
        ],
        [
            [
                each.queue,
                each.worker,
                each.host,
                f"{each.running:,}/{each.concurrency:,}",
                duration(each.oldest_running_seconds) if each.running else "",
                f"{each.processed:,}",
                _busy(each),
                age(each.started_at),
                age(each.seen_at),
                _state(each),
                "-" if each.schema_version is None else f"{each.schema_version:04}",
            ]
            for each in found
        ],
    )


def _state(worker: LiveWorker) -> str:
    if worker.draining:
        return "stopping"
    return "cordoned" if worker.cordoned else ""


def _busy(worker: LiveWorker) -> str:
    seconds = (worker.seen_at - worker.started_at).total_seconds()
    return f"{worker.busy_seconds / seconds:,.1f}" if seconds >= 1 else "-"
