"""`meshhook jobs replay`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from meshhook.cli.connecting import with_database
from meshhook.cli.failures import (
    JobsNotFoundError,
    JobsUnchangedError,
    SearchIncompleteError,
    UsageError,
)
from meshhook.cli.moments import past_moment
from meshhook.cli.options import JsonOption, QueueArgument, YesOption, example
from meshhook.cli.output import age, counted, note, print_json, say
from meshhook.cli.standard_input import confirm
from meshhook.job_changes import CHANGE_SECONDS, ChangeResult, JobChange, JobChanges
from meshhook.names import validate_queue_name
from meshhook.postgres.database import Database
from meshhook.queues import QueueService
from meshhook.store.job_rows import LIVE_STATES

_SHOWN_JOBS = 20


def add_to(app: typer.Typer) -> None:
    """Add the command to `meshhook jobs`."""
    app.command(
        "replay",
        epilog=example(
            "meshhook jobs replay workflow_jobs 17",
            "meshhook jobs replay workflow_jobs --since 2h --dry-run",
        ),
    )(replay)


def replay(
    context: typer.Context,
    queue: QueueArgument,
    ids: Annotated[list[int] | None, typer.Argument(metavar="ID", help="The jobs' ids.")] = None,
    *,
    run_id: Annotated[str | None, typer.Option(help="All jobs of this run.")] = None,
    workflow_id: Annotated[str | None, typer.Option(help="All jobs of this workflow.")] = None,
    project_id: Annotated[str | None, typer.Option(help="All jobs of this project.")] = None,
    key: Annotated[str | None, typer.Option(help="All jobs of this key.")] = None,
    state: Annotated[
        str | None,
        typer.Option(help="How they ended: succeeded, which is the default, or cancelled."),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Only jobs that ended in the last 30m, 2h or 3d, or since 2030-01-31T08:00Z.",
        ),
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="The same, but before this time.")
    ] = None,
    delay: Annotated[
        float, typer.Option(metavar="SECONDS", help="In how many seconds, up to 366 days.")
    ] = 0,
    again: Annotated[
        bool, typer.Option("--again", help="Replay also those that were replayed before.")
    ] = False,
    search_seconds: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="How long to search for jobs that fit."),
    ] = CHANGE_SECONDS,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Change nothing; say what would be replayed.")
    ] = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Enqueue finished jobs again, in queues that keep their bodies.

    Jobs that succeeded or were cancelled while the queue's setting keep_bodies_days was on. Each is
    replayed once unless --again is given, so an interrupted command can be repeated. Dead letters
    are replayed by: meshhook dlq replay
    """
    name = validate_queue_name(queue)
    chosen: dict[str, Any] = {
        "run_id": run_id,
        "workflow_id": workflow_id,
        "project_id": project_id,
        "key": key,
        "state": state,
        "since": None if since is None else past_moment("--since", since),
        "until": None if until is None else past_moment("--until", until),
    }
    _check_chosen(ids, chosen)

    async def work(database: Database) -> JobChanges:
        service = QueueService[Any](database, name)
        options: dict[str, Any] = {
            **chosen,
            "delay_seconds": delay,
            "again": again,
            "search_seconds": search_seconds,
        }
        if not dry_run and not yes and not ids:
            tried = await service.replay_jobs(dry_run=True, **options)
            if not tried.changed:
                return tried
            more = "" if tried.is_complete else " at least"
            jobs = counted(tried.changed, "job")
            confirm(f"Replay{more} {jobs} of queue {name!r}?", yes=False)
        return await service.replay_jobs(ids or None, dry_run=dry_run, **options)

    done = with_database(context, work)
    _print(done, name, by_id=bool(ids), dry_run=dry_run, as_json=as_json)
    if not done.is_complete:
        raise SearchIncompleteError(done.matched, done.seen, search_seconds, queue=name, ids=[])
    if ids and done.not_found:
        missing = [job.msg_id for job in done.jobs if job.result is ChangeResult.NOT_FOUND]
        raise JobsNotFoundError(name, missing, done.not_found)
    if ids and (left_alone := done.unchanged + done.not_kept + done.key_taken):
        raise JobsUnchangedError(name, left_alone)


def _check_chosen(ids: list[int] | None, filters: dict[str, Any]) -> None:
    """Check that jobs are named, by ids or otherwise.

    Raises:
        UsageError: if they are not, or by both.
    """
    is_filtered = any(value is not None for value in filters.values())
    if ids and is_filtered:
        raise UsageError("name jobs by id or by --run-id, --since and the like, not by both")
    if not ids and not is_filtered:
        raise UsageError(
            "say which jobs: ids, --run-id, --workflow-id, --project-id, --key, --state, --since "
            "or --until"
        )


def _print(done: JobChanges, queue: str, *, by_id: bool, dry_run: bool, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "queue": queue,
                "dry_run": dry_run,
                "counts": {each.value: done.counts[each] for each in sorted(done.counts)},
                "jobs": done.jobs,
                "is_complete": done.is_complete,
            }
        )
    elif by_id and len(done.jobs) <= _SHOWN_JOBS:
        for job in done.jobs:
            _print_job(job, queue, dry_run=dry_run)
    else:
        _print_counts(done, queue, dry_run=dry_run)


def _print_job(job: JobChange, queue: str, *, dry_run: bool) -> None:
    if job.result is ChangeResult.NOT_FOUND:
        return
    if job.result is ChangeResult.NOT_KEPT:
        text = (
            f"{job.was}, and its body was not kept, or not any longer; for jobs to come: "
            f"meshhook queue set {queue} keep_bodies_days=7"
        )
    elif job.result is ChangeResult.KEY_TAKEN:
        text = "is left alone: another job has its unique key"
    elif job.result is ChangeResult.UNCHANGED:
        text = _why_unchanged(job, queue)
    elif dry_run:
        text = "would be replayed"
    else:
        text = f"replayed as job {job.replayed_as}"
    say(f"job {job.msg_id} {text}")


def _why_unchanged(job: JobChange, queue: str) -> str:
    if job.was in LIVE_STATES:
        return f"is {job.was}: it has not ended"
    if job.was == "dead_lettered":
        return f"is a dead letter; to replay it: meshhook dlq replay {queue} ID"
    if job.was == "replayed":
        when = "" if job.at is None else f" {age(job.at)} ago"
        as_job = "" if job.replayed_as is None else f" as job {job.replayed_as}"
        return f"was replayed{when}{as_job}; once more: --again"
    return "is being replayed by another transaction: it is left alone"


def _print_counts(done: JobChanges, queue: str, *, dry_run: bool) -> None:
    if dry_run:
        note(f"Looked at {counted(done.seen, 'attempt')} in the history.")
    if not done.matched:
        note(f"Queue {queue} has no such job.")
        return
    would = "would have " if dry_run else ""
    say(f"{would}replayed {counted(done.changed, 'job')} of queue {queue}")
    if done.unchanged:
        note(f"{counted(done.unchanged, 'job')} left alone; once more: --again")
    if done.key_taken:
        note(f"{counted(done.key_taken, 'job')} left alone: another job has the unique key.")
    if done.not_kept:
        note(f"{counted(done.not_kept, 'job')} left alone, because the body was not kept.")
