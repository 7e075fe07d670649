"""`meshhook jobs`: lists of jobs, and the whole history of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import typer

from meshhook.cli import job_changes, job_replays
from meshhook.cli.bodies import print_body
from meshhook.cli.connecting import with_database
from meshhook.cli.encryption_keys import (
    DecryptOption,
    KeyFileOption,
    encryption_of,
    ring_to_decrypt,
    shown_body,
    shown_result,
)
from meshhook.cli.failures import SearchIncompleteError
from meshhook.cli.moments import past_moment
from meshhook.cli.options import (
    JsonOption,
    QueueArgument,
    command_app,
    example,
    priority_from,
)
from meshhook.cli.output import (
    Column,
    age,
    duration,
    moment_with_age,
    note,
    print_fields,
    print_json,
    print_table,
    say,
)
from meshhook.encryption.key_ring import KeyRing
from meshhook.names import validate_queue_name
from meshhook.postgres.database import Database
from meshhook.store.job_rows import Attempt, JobLife, JobSummary
from meshhook.tracking import FoundJobs, find_jobs, get_job

app = command_app(
    help="Find, cancel, reschedule and replay jobs, and show the whole history of one.",
    no_args_is_help=True,
    epilog=example("meshhook jobs list --queue workflow_jobs --state retrying"),
)


@app.command(
    "list",
    epilog=example(
        "meshhook jobs list --queue workflow_jobs --state retrying",
        "meshhook jobs list --run-id 7f8c0d3e",
        "meshhook jobs list --state dead_lettered --since 2h",
    ),
)
def list_(
    context: typer.Context,
    *,
    queue: Annotated[
        str | None, typer.Option("--queue", "-q", help="Only jobs of this queue.")
    ] = None,
    run_id: Annotated[str | None, typer.Option(help="Only jobs of this run.")] = None,
    workflow_id: Annotated[str | None, typer.Option(help="Only jobs of this workflow.")] = None,
    project_id: Annotated[str | None, typer.Option(help="Only jobs of this project.")] = None,
    state: Annotated[
        str | None,
        typer.Option(
            help=(
                "Only jobs in this state: ready, scheduled, running, retrying or lost; or "
                "succeeded, dead_lettered, cancelled, archived, expired or replayed."
            )
        ),
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="Only jobs of this key that are in the queue.")
    ] = None,
    priority: Annotated[
        str | None,
        typer.Option(help="Only jobs of this priority that are in the queue, as urgent, or 0."),
    ] = None,
    error_type: Annotated[
        str | None, typer.Option(help="Only jobs whose last attempt had this error type.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help=(
                "Only jobs that ended in the last 30m, 2h or 3d, or since a time, as "
                "2030-01-31T08:00Z; of those in their queue the ones enqueued since."
            ),
        ),
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="The same, but before this time.")
    ] = None,
    before: Annotated[
        int | None, typer.Option(metavar="ID", help="Only ids below this one, for paging.")
    ] = None,
    limit: Annotated[int, typer.Option(help="The most to show, 1 to 1000.")] = 50,
    search_seconds: Annotated[
        float, typer.Option(metavar="SECONDS", help="How long to search, 0.1 to 3600.")
    ] = 10,
    as_json: JsonOption = False,
) -> None:
    """List jobs in every state, finished ones included, the last enqueued first.

    Jobs that have had an attempt are found by an index for --run-id, --error-type and every final
    --state but succeeded; those in a queue for the ids of its setting lookup_by, and the few of a
    --priority. For all others it reads messages and attempts from the newest down, about 500,000
    short ones a second. If time runs out before it has read them all or found as many as --limit,
    it says so and exits with 1.
    """
    name = None if queue is None else validate_queue_name(queue)
    from_time = None if since is None else past_moment("--since", since)
    to_time = None if until is None else past_moment("--until", until)
    band = priority_from(priority)

    async def work(database: Database) -> FoundJobs:
        return await find_jobs(
            database,
            queue=name,
            run_id=run_id,
            workflow_id=workflow_id,
            project_id=project_id,
            state=state,
            key=key,
            error_type=error_type,
            since=from_time,
            until=to_time,
            before_id=before,
            limit=limit,
            search_seconds=search_seconds,
            priority=band,
        )

    found = with_database(context, work)
    if as_json:
        print_json(found)
    elif found:
        _print_list(found, with_queue=name is None)
        if len(found) == limit:
            lowest = min(job.msg_id for job in found)
            page = "" if name is None else f", or --before {lowest}"
            note(f"These are the newest {limit}; for more: --limit, up to 1000{page}.")
    elif found.is_complete:
        note("No such job was found.")
    if not found.is_complete and len(found) < limit:
        wanted = {"run_id": run_id, "workflow_id": workflow_id, "project_id": project_id}
        raise SearchIncompleteError(
            len(found),
            found.seen,
            search_seconds,
            queue=name,
            ids=[each for each, value in wanted.items() if value is not None],
            unread_below=None if name is None else found.unread_below.get(name),
        )


@app.command("show", epilog=example("meshhook jobs show workflow_jobs 17"))
def show(
    context: typer.Context,
    queue: QueueArgument,
    msg_id: Annotated[int, typer.Argument(metavar="ID", help="The job's msg_id.")],
    *,
    decrypt: DecryptOption = False,
    key_file: KeyFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the whole history of a job: its attempts, their outcomes, and its replays."""
    name = validate_queue_name(queue)
    ring = ring_to_decrypt(key_file, decrypt=decrypt)
    life = with_database(context, lambda database: get_job(database, name, msg_id))
    if ring is not None:
        life = _decrypted(life, ring)
    if as_json:
        print_json(life)
    else:
        _print_life(life)


job_changes.add_to(app)
job_replays.add_to(app)


def _decrypted(life: JobLife, ring: KeyRing) -> JobLife:
    """Return a job's life with its message and its results decrypted."""
    return replace(
        life,
        body=None if life.body is None else shown_body(life.body, ring, life.queue),
        attempts=tuple(
            each
            if each.result is None
            else replace(each, result=shown_result(each.result, ring, life.queue, life.msg_id))
            for each in life.attempts
        ),
        replayed_as=None if life.replayed_as is None else _decrypted(life.replayed_as, ring),
    )


def _print_list(jobs: Sequence[JobSummary], *, with_queue: bool) -> None:
    columns = [
        Column("ID", is_number=True),
        Column("STATE"),
        Column("TRIES", is_number=True),
        Column("AGE", is_number=True),
        Column("RUN", shrinks=True),
        Column("WORKFLOW", shrinks=True, is_optional=True),
        Column("ERROR", shrinks=True, is_optional=True),
    ]
    rows = [
        [
            str(job.msg_id),
            job.state,
            str(job.attempts),
            age(job.enqueued_at),
            job.run_id or "-",
            job.workflow_id or "-",
            job.error_type or "",
        ]
        for job in jobs
    ]
    if any(job.priority not in (None, "normal") for job in jobs):
        columns.insert(4, Column("PRIORITY"))
        for row, job in zip(rows, jobs, strict=True):
            row.insert(4, job.priority or "-")
    if with_queue:
        columns.insert(0, Column("QUEUE", shrinks=True))
        rows = [[job.queue, *row] for job, row in zip(jobs, rows, strict=True)]
    print_table(columns, rows)


def _print_life(life: JobLife) -> None:
    fields = [("job", f"{life.msg_id} of queue {life.queue}"), ("state", life.state)]
    fields += [
        (name, value)
        for name, value in (
            ("run", life.run_id),
            ("workflow", life.workflow_id),
            ("project", life.project_id),
            ("priority", life.priority),
            ("unique key", life.unique_key),
            ("group", life.group),
            ("encrypted", encryption_of(life.body)),
            ("replay of", None if life.replay_of_id is None else f"job {life.replay_of_id}"),
        )
        if value is not None
    ]
    fields.append(("enqueued", moment_with_age(life.enqueued_at)))
    if life.ready_at is not None:
        title = "lease ends" if life.state in {"running", "lost"} else "ready"
        fields.append((title, moment_with_age(life.ready_at)))
    fields.append(("attempts", str(life.attempts_made)))
    if life.cancellation is not None:
        asked = life.cancellation
        fields.append(("to be cancelled", f"asked {moment_with_age(asked.requested_at)}"))
        fields.append(("asked by", asked.requested_by))
        if asked.reason:
            fields.append(("reason", asked.reason))
    if life.dead_letter_id is not None:
        fields.append(
            (
                "dead letter",
                f"{life.dead_letter_id}  (meshhook dlq show {life.queue} {life.dead_letter_id})",
            )
        )
    if life.replayed_as_id is not None:
        fields.append(("replayed", moment_with_age(life.replayed_at)))
        fields.append(("as job", str(life.replayed_as_id)))
    print_fields(fields)
    if life.attempts:
        say("")
        _print_attempts(life.attempts)
    result = life.attempts[-1].result if life.attempts else None
    if result is not None:
        say("")
        print_body(result, "result")
    if life.body is not None:
        say("")
        print_body(life.body)
    if life.replayed_as is not None:
        say("\nreplayed as:\n")
        _print_life(life.replayed_as)


def _print_attempts(attempts: Sequence[Attempt]) -> None:
    for attempt in attempts:
        is_of_waiting = attempt.outcome == "cancelled" and attempt.worker is None
        title = "while it waited" if is_of_waiting else f"attempt {attempt.attempt}"
        say(f"{title}: {attempt.outcome}")
        fields = [("ended", moment_with_age(attempt.finished_at))]
        if attempt.started_at is not None:
            ran = (attempt.finished_at - attempt.started_at).total_seconds()
            fields.append(("ran", duration(ran)))
        if attempt.worker is not None:
            fields.append(("worker", attempt.worker))
        if attempt.error_type is not None:
            message = f"{attempt.error_type}: {attempt.error_message or ''}".rstrip(": ")
            fields.append(("error", message))
        elif attempt.error_message:
            fields.append(("reason", attempt.error_message))
        if attempt.retry_at is not None:
            wait = (attempt.retry_at - attempt.finished_at).total_seconds()
            fields.append(("then", f"waited {duration(wait)}"))
        if attempt.trace_id is not None:
            fields.append(("trace", attempt.trace_id))
        print_fields(fields, indent=2)
