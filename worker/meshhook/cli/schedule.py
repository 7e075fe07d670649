"""`meshhook schedule`: jobs that workers enqueue at due times."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import Annotated, Any

import typer

from meshhook.cli.connecting import with_database
from meshhook.cli.deletion import Deleted, delete_for_good
from meshhook.cli.encryption_keys import key_ring
from meshhook.cli.failures import UsageError
from meshhook.cli.json_lines import open_lines
from meshhook.cli.moments import length_of_time
from meshhook.cli.options import (
    ExpiresInOption,
    JsonOption,
    PriorityOption,
    QueueArgument,
    RetryOption,
    YesOption,
    command_app,
    example,
    priority_from,
    retry_from,
)
from meshhook.cli.output import (
    Column,
    duration,
    moment_with_age,
    note,
    print_json,
    print_table,
    say,
)
from meshhook.due_times import Missed, Overlap
from meshhook.names import validate_queue_name, validate_schedule_name
from meshhook.postgres.database import Database
from meshhook.schedules import (
    MAX_HISTORY,
    MAX_SCHEDULES,
    Schedule,
    ScheduleFiring,
    add_schedule,
    delete_schedule,
    get_schedule,
    list_schedule_firings,
    list_schedules,
    pause_schedule,
    resume_schedule,
    run_schedule,
)

app = command_app(
    help="Enqueue jobs at due times: add, pause, run and delete schedules.",
    no_args_is_help=True,
    epilog=example("meshhook schedule add reports daily --cron '0 9 * * *' --tz Europe/Berlin"),
)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The name of the schedule.")]


@app.command("list", epilog=example("meshhook schedule list --queue reports"))
def list_(
    context: typer.Context,
    *,
    queue: Annotated[
        str | None, typer.Option("--queue", "-q", help="Only schedules of this queue.")
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, max=MAX_SCHEDULES, help="The most to show.")
    ] = MAX_SCHEDULES,
    as_json: JsonOption = False,
) -> None:
    """List schedules: when they are due, their last job, and what is wrong with them."""
    of_queue = None if queue is None else validate_queue_name(queue)
    found = with_database(context, lambda database: list_schedules(database, of_queue, limit=limit))
    if as_json:
        print_json(found)
    elif found:
        _print(found)
    else:
        note("There is no schedule.")


@app.command(
    "add",
    epilog=example(
        "meshhook schedule add reports daily --cron '0 9 * * 1-5' --tz Europe/Berlin",
        "meshhook schedule add feeds poll '{\"feed\": 7}' --every 15m --overlap skip",
    ),
)
def add(
    context: typer.Context,
    queue: QueueArgument,
    name: NameArgument,
    payload: Annotated[
        str | None,
        typer.Argument(metavar="JSON", help="What the handler receives. Default: {}."),
    ] = None,
    *,
    cron: Annotated[
        str | None,
        typer.Option(
            metavar="'M H DOM MON DOW'",
            help="Minute, hour, day of the month, month, day of the week; or @daily and the like.",
        ),
    ] = None,
    every: Annotated[
        str | None, typer.Option(metavar="TIME", help="The interval: 90s, 15m, 2h or 1d.")
    ] = None,
    tz: Annotated[
        str, typer.Option(metavar="ZONE", help="The time zone of --cron, such as Europe/Berlin.")
    ] = "UTC",
    key: Annotated[
        str | None, typer.Option(help="Whose jobs they are, such as a tenant; see: keyed queues.")
    ] = None,
    priority: PriorityOption = None,
    retry: RetryOption = None,
    expires_in: ExpiresInOption = None,
    missed: Annotated[
        Missed,
        typer.Option(
            help="Due times that pass while no worker runs get one job in all, a job each, or none."
        ),
    ] = Missed.ONCE,
    overlap: Annotated[
        Overlap, typer.Option(help="skip: no job while an earlier one is in the queue.")
    ] = Overlap.ALLOW,
    as_json: JsonOption = False,
) -> None:
    """Add a schedule, or change the one of that name. Repeating the command is safe.

    Workers enqueue a job at each due time: exactly one, however many workers there are.
    """
    queue_name, schedule_name = validate_queue_name(queue), validate_schedule_name(name)
    interval = None if every is None else length_of_time("--every", every)
    urgency, policy = priority_from(priority), retry_from(retry)
    body: Any = {}
    if payload is not None:
        with open_lines(payload, None) as lines:
            found_lines = list(islice(lines, 2))
        if len(found_lines) > 1:
            raise UsageError("a schedule has one payload, got several lines; add one for each")
        body = found_lines[0].value

    async def work(database: Database) -> tuple[bool, Schedule]:
        is_changed = await add_schedule(
            database,
            queue_name,
            schedule_name,
            cron,
            every=interval,
            tz=tz,
            payload=body,
            key=key,
            priority=urgency,
            missed=missed,
            overlap=overlap,
            encryption=key_ring(),
            retry=policy,
            expires_in=expires_in,
        )
        return is_changed, await get_schedule(database, queue_name, schedule_name)

    is_changed, found = with_database(context, work)
    if as_json:
        print_json({"changed": is_changed, "schedule": found})
    else:
        done = "stored" if is_changed else "is unchanged:"
        say(f"schedule {name} of queue {queue} {done}, next at {moment_with_age(found.next_at)}")


@app.command("pause", epilog=example("meshhook schedule pause reports daily"))
def pause(
    context: typer.Context, queue: QueueArgument, name: NameArgument, as_json: JsonOption = False
) -> None:
    """Let due times pass without a job, until the schedule is resumed."""
    found = _changed(context, queue, name, pause_schedule)
    if as_json:
        print_json(found)
    else:
        say(f"paused schedule {name}; resume it: meshhook schedule resume {queue} {name}")


@app.command("resume", epilog=example("meshhook schedule resume reports daily"))
def resume(
    context: typer.Context, queue: QueueArgument, name: NameArgument, as_json: JsonOption = False
) -> None:
    """Let a schedule go on at its first due time from now on."""
    found = _changed(context, queue, name, resume_schedule)
    if as_json:
        print_json(found)
    else:
        say(f"resumed schedule {name}, next at {moment_with_age(found.next_at)}")


@app.command("run", epilog=example("meshhook schedule run reports daily"))
def run(
    context: typer.Context, queue: QueueArgument, name: NameArgument, as_json: JsonOption = False
) -> None:
    """Enqueue the job of a schedule now; its due times stay as they are."""
    queue_name = validate_queue_name(queue)
    msg_id = with_database(context, lambda database: run_schedule(database, queue_name, name))
    if as_json:
        print_json({"queue": queue_name, "schedule": name, "msg_id": msg_id})
    else:
        say(f"enqueued job {msg_id} in {queue_name}")


@app.command("delete", epilog=example("meshhook schedule delete reports daily --yes"))
def delete(
    context: typer.Context,
    queue: QueueArgument,
    name: NameArgument,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Delete a schedule with its history; jobs that it has enqueued stay."""
    schedule_name = validate_schedule_name(name)

    async def question(database: Database, queue_name: str) -> str:
        found = await get_schedule(database, queue_name, schedule_name)
        return f"Delete schedule {found.name!r} of queue {queue_name!r} with its history?"

    async def carry_out(database: Database, queue_name: str) -> Deleted:
        await delete_schedule(database, queue_name, schedule_name)
        sentence = f"deleted schedule {schedule_name} of queue {queue_name}"
        return Deleted("deleted", value=True, sentence=sentence)

    delete_for_good(context, queue, question=question, delete=carry_out, yes=yes, as_json=as_json)


@app.command("history", epilog=example("meshhook schedule history reports daily --limit 10"))
def history(
    context: typer.Context,
    queue: QueueArgument,
    name: NameArgument,
    limit: Annotated[int, typer.Option(min=1, max=MAX_HISTORY, help="The most to show.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """Show the due times of a schedule that have passed, the newest first, and their jobs."""
    queue_name = validate_queue_name(queue)
    found = with_database(
        context, lambda database: list_schedule_firings(database, queue_name, name, limit=limit)
    )
    if as_json:
        print_json(found)
    elif found:
        _print_history(found)
    else:
        note(f"schedule {name} of queue {queue_name} has not been due yet")


def _changed(
    context: typer.Context,
    queue: str,
    name: str,
    change: Callable[[Database, str, str], Awaitable[None]],
) -> Schedule:
    queue_name = validate_queue_name(queue)

    async def work(database: Database) -> Schedule:
        await change(database, queue_name, name)
        return await get_schedule(database, queue_name, name)

    return with_database(context, work)


def _print(found: Sequence[Schedule]) -> None:
    print_table(
        [
            Column("QUEUE"),
            Column("SCHEDULE", shrinks=True),
            Column("WHEN"),
            Column("ZONE", is_optional=True),
            Column("NEXT"),
            Column("LAST JOB", is_optional=True),
            Column("STATE", shrinks=True),
        ],
        [
            [
                each.queue,
                each.name,
                each.cron or f"every {duration(each.every_seconds)}",
                each.time_zone if each.cron else "",
                "-" if each.next_at is None else f"{each.next_at:%Y-%m-%d %H:%M:%S}",
                "" if each.last_msg_id is None else str(each.last_msg_id),
                _state(each),
            ]
            for each in found
        ],
    )


def _state(schedule: Schedule) -> str:
    if schedule.paused:
        return "paused"
    if schedule.error:
        return f"error: {schedule.error}"
    if schedule.late_seconds >= 1:
        return f"late by {duration(schedule.late_seconds)}"
    return "active"


def _print_history(found: Sequence[ScheduleFiring]) -> None:
    print_table(
        [
            Column("DUE"),
            Column("FIRED", is_number=True),
            Column("OUTCOME"),
            Column("JOB", is_number=True, is_optional=True),
            Column("MISSED", is_number=True, is_optional=True),
        ],
        [
            [
                f"{each.due_at:%Y-%m-%d %H:%M:%S}",
                f"+{duration((each.fired_at - each.due_at).total_seconds())}",
                "by hand" if each.is_manual else each.outcome,
                "" if each.msg_id is None else str(each.msg_id),
                f"{each.missed:,}" if each.missed else "",
            ]
            for each in found
        ],
    )
