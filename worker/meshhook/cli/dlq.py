"""`meshhook dlq`: show, replay and delete dead letters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

import typer

from meshhook.cli.bodies import print_body, print_text
from meshhook.cli.connecting import with_database
from meshhook.cli.deletion import Deleted, delete_for_good
from meshhook.cli.encryption_keys import (
    DecryptOption,
    KeyFileOption,
    encryption_of,
    ring_to_decrypt,
    shown_body,
)
from meshhook.cli.failures import DeadLettersNotFoundError, UsageError
from meshhook.cli.options import (
    DefaultQueueArgument,
    JsonOption,
    QueueArgument,
    YesOption,
    command_app,
    example,
)
from meshhook.cli.output import (
    Column,
    age,
    count,
    counted,
    moment_with_age,
    note,
    print_fields,
    print_json,
    print_table,
    say,
)
from meshhook.cli.replaying import Choice, Replay
from meshhook.cli.standard_input import confirm
from meshhook.dead_letters import DLQService
from meshhook.errors import DeadLetterNotFoundError
from meshhook.names import DEFAULT_QUEUE_NAME, validate_queue_name
from meshhook.postgres.database import Database
from meshhook.store.dead_letter_rows import DeadLetterJob, ErrorGroup

app = command_app(
    help="Show, replay and delete dead letters: the jobs that failed for good.",
    no_args_is_help=True,
    epilog=example("meshhook dlq errors workflow_jobs"),
)

_SHOWN_PAIRS = 20


@app.command("list", epilog=example("meshhook dlq list workflow_jobs --error-type TimeoutError"))
def list_(
    context: typer.Context,
    queue: DefaultQueueArgument = DEFAULT_QUEUE_NAME,
    *,
    error_type: Annotated[str | None, typer.Option(help="Only those with this error type.")] = None,
    before: Annotated[
        int | None, typer.Option(metavar="ID", help="Only ids below this one, for paging.")
    ] = None,
    limit: Annotated[int, typer.Option(help="The most to show, 1 to 1000.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """List dead letters, newest first."""
    name = validate_queue_name(queue)

    async def work(database: Database) -> list[DeadLetterJob]:
        return await DLQService(database, name).list_dead_letter_jobs(
            limit, before_id=before, error_type=error_type
        )

    found = with_database(context, work)
    if as_json:
        print_json(found)
        return
    if not found:
        note(
            f"Queue {name} has no such dead letter."
            if error_type or before is not None
            else f"Queue {name} has no dead letters."
        )
        return
    print_table(
        [
            Column("ID", is_number=True),
            Column("JOB", is_number=True),
            Column("DEAD", is_number=True),
            Column("TRIES", is_number=True),
            Column("ERROR", shrinks=True),
            Column("MESSAGE", shrinks=True),
            Column("RUN", shrinks=True, is_optional=True),
        ],
        [
            [
                str(dead.id),
                "-" if dead.msg_id is None else str(dead.msg_id),
                age(dead.dead_at),
                "-" if dead.attempts is None else str(dead.attempts),
                dead.error_type or "-",
                dead.error_message or "",
                dead.run_id or "-",
            ]
            for dead in found
        ],
    )
    if len(found) == limit:
        note(f"These are the newest {limit}; for more: --before {found[-1].id}")


@app.command("show", epilog=example("meshhook dlq show workflow_jobs 3"))
def show(
    context: typer.Context,
    queue: QueueArgument,
    dead_letter_id: Annotated[int, typer.Argument(metavar="ID", help="The dead letter.")],
    *,
    decrypt: DecryptOption = False,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one dead letter: its error, stack trace and message."""
    name = validate_queue_name(queue)
    ring = ring_to_decrypt(key_file, decrypt=decrypt)

    async def work(database: Database) -> DeadLetterJob:
        return await DLQService(database, name).get_dead_letter_job(dead_letter_id)

    dead = with_database(context, work)
    if ring is not None and dead.body is not None:
        dead = replace(dead, body=shown_body(dead.body, ring, name))
    if as_json:
        print_json(dead)
    else:
        _print_dead_letter(dead)


@app.command("errors", epilog=example("meshhook dlq errors workflow_jobs"))
def errors(
    context: typer.Context,
    queue: DefaultQueueArgument = DEFAULT_QUEUE_NAME,
    limit: Annotated[int, typer.Option(help="The most types to show, 1 to 1000.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Group the newest 10,000 dead letters by error type, most frequent first."""
    name = validate_queue_name(queue)

    async def work(database: Database) -> list[ErrorGroup]:
        return await DLQService(database, name).get_jobs_by_error_type(limit)

    groups = with_database(context, work)
    if as_json:
        print_json(groups)
        return
    if not groups:
        note(f"Queue {name} has no dead letters.")
        return
    print_table(
        [
            Column("COUNT", is_number=True),
            Column("ERROR", shrinks=True),
            Column("FIRST", is_number=True, is_optional=True),
            Column("LAST", is_number=True),
            Column("NEWEST", is_number=True),
            Column("ITS MESSAGE", shrinks=True),
        ],
        [
            [
                f"{group.count:,}",
                group.error_type or "-",
                age(group.first_dead_at),
                age(group.last_dead_at),
                str(group.sample_id),
                group.sample_message or "",
            ]
            for group in groups
        ],
    )
    if groups[0].capped:
        note("There are more dead letters; only the newest 10,000 are counted.")


@app.command(
    "replay",
    epilog=example(
        "meshhook dlq replay workflow_jobs 3 4",
        "meshhook dlq replay workflow_jobs --error-type TimeoutError --limit 10",
    ),
)
def replay(
    context: typer.Context,
    queue: QueueArgument,
    ids: Annotated[list[int] | None, typer.Argument(metavar="ID", help="The dead letters.")] = None,
    *,
    error_type: Annotated[
        str | None, typer.Option(help="All with this error type, oldest first.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All, oldest first.")] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="With --error-type or --all: at most this many.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(metavar="QUEUE", help="Another queue to send them to.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Turn dead letters back into jobs, ready now and with all attempts ahead of them.

    Each is replayed once, even if somebody else replays at the same time. Jobs that die in the
    meantime are left for another replay.
    """
    name = validate_queue_name(queue)
    target_name = None if target is None else validate_queue_name(target)
    if [bool(ids), error_type is not None, everything].count(True) != 1:
        raise UsageError("say which to replay: ids, --error-type TYPE or --all (one of them)")
    if ids and limit is not None:
        raise UsageError("--limit goes with --error-type or --all, not with ids")
    chosen = Choice(tuple(dict.fromkeys(ids or ())), error_type, limit)
    work = Replay(name, target_name, chosen)
    with_database(context, work.run)
    if as_json:
        print_json(
            {
                "queue": name,
                "target_queue": target_name or name,
                "replayed": [
                    {"dead_letter_id": dead, "msg_id": msg_id} for dead, msg_id in work.replayed
                ],
                "not_found": work.not_found,
            }
        )
    else:
        _print_replayed(work.replayed, name, target_name or name)
    _refuse_missing(name, work.not_found)


@app.command("delete", epilog=example("meshhook dlq delete workflow_jobs 3 4 --yes"))
def delete(
    context: typer.Context,
    queue: QueueArgument,
    ids: Annotated[list[int], typer.Argument(metavar="ID", help="The dead letters.")],
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Delete dead letters for good."""
    name = validate_queue_name(queue)
    chosen = list(dict.fromkeys(ids))
    confirm(f"Delete {counted(len(chosen), 'dead letter')} of queue {name!r} for good?", yes=yes)

    async def work(database: Database) -> list[int]:
        service = DLQService(database, name)
        return [each for each in chosen if await service.delete_dead_letter_job(each)]

    deleted = with_database(context, work)
    missing = [each for each in chosen if each not in set(deleted)]
    if as_json:
        print_json({"queue": name, "deleted": deleted, "not_found": missing})
    elif deleted:
        say(f"deleted {counted(len(deleted), 'dead letter')} of queue {name}")
    _refuse_missing(name, missing)


@app.command("purge", epilog=example("meshhook dlq purge workflow_jobs --yes"))
def purge(
    context: typer.Context,
    queue: QueueArgument,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Delete all dead letters of a queue for good."""

    async def question(database: Database, name: str) -> str:
        metrics = await DLQService(database, name).get_dlq_metrics()
        dead = count(metrics.dead_letters, capped=metrics.capped)
        return f"Delete all dead letters of queue {name!r} ({dead}) for good?"

    async def delete(database: Database, name: str) -> Deleted:
        purged = await DLQService(database, name).purge_dlq()
        sentence = f"deleted {counted(purged, 'dead letter')} of queue {name}"
        return Deleted("purged", purged, sentence)

    delete_for_good(context, queue, question=question, delete=delete, yes=yes, as_json=as_json)


def _print_dead_letter(dead: DeadLetterJob) -> None:
    fields: list[tuple[str, Any]] = [
        ("dead letter", str(dead.id)),
        ("job", None if dead.msg_id is None else f"{dead.msg_id} of queue {dead.queue}"),
        ("error", dead.error_type),
        ("message", dead.error_message),
        ("attempts", None if dead.attempts is None else str(dead.attempts)),
        ("encrypted", encryption_of(dead.body)),
        ("worker", dead.worker),
        ("run", dead.run_id),
        ("workflow", dead.workflow_id),
        ("project", dead.project_id),
        ("enqueued", dead.first_enqueued_at and moment_with_age(dead.first_enqueued_at)),
        ("last attempt", dead.last_started_at and moment_with_age(dead.last_started_at)),
        ("dead", moment_with_age(dead.dead_at)),
    ]
    fields += [(f"header {key}", str(value)) for key, value in dead.headers.items()]
    print_fields([(name, value) for name, value in fields if value is not None])
    if dead.error_stack:
        say("\nstack")
        print_text(dead.error_stack)
    say("")
    if dead.body is None:
        say("body\n  more than 16 MiB of JSON: not shown")
    else:
        print_body(dead.body)


def _print_replayed(pairs: Sequence[tuple[int, int]], queue: str, target: str) -> None:
    where = "" if target == queue else f" in queue {target}"
    if not pairs:
        say(f"queue {queue} had no dead letters to replay")
    elif len(pairs) > _SHOWN_PAIRS:
        say(f"replayed {counted(len(pairs), 'dead letter')} of queue {queue}{where}")
    else:
        for dead, msg_id in pairs:
            say(f"replayed dead letter {dead} as job {msg_id}{where}")


def _refuse_missing(queue: str, missing: Sequence[int]) -> None:
    if len(missing) == 1:
        raise DeadLetterNotFoundError(queue, missing[0])
    if missing:
        raise DeadLettersNotFoundError(queue, missing)
