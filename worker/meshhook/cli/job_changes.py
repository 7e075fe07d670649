"""`meshhook jobs cancel`, `reschedule`, `run-now` and `delete`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from meshhook.cli.connecting import with_database
from meshhook.cli.failures import (
    JobsNotFoundError,
    JobsUnchangedError,
    SearchIncompleteError,
    UsageError,
)
from meshhook.cli.moments import exact_moment
from meshhook.cli.options import JsonOption, QueueArgument, YesOption, example, priority_from
from meshhook.cli.output import age, counted, moment_with_age, note, print_json, say
from meshhook.cli.standard_input import confirm
from meshhook.job_changes import CHANGE_SECONDS, ChangeResult, JobChange, JobChanges
from meshhook.names import validate_queue_name
from meshhook.postgres.database import Database
from meshhook.queue_config import LOOKUP_IDS
from meshhook.queues import QueueService
from meshhook.store.job_rows import LIVE_STATES

IdsArgument = Annotated[list[int] | None, typer.Argument(metavar="ID", help="The jobs' msg_ids.")]
RunOption = Annotated[str | None, typer.Option(help="All jobs of this run.")]
WorkflowOption = Annotated[str | None, typer.Option(help="All jobs of this workflow.")]
ProjectOption = Annotated[str | None, typer.Option(help="All jobs of this project.")]
KeyOption = Annotated[str | None, typer.Option(help="All jobs of this key.")]
StateOption = Annotated[
    str | None,
    typer.Option(help="Only jobs in this state: ready, scheduled, running, retrying or lost."),
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Change nothing; say what would be changed.")
]
SearchOption = Annotated[
    float,
    typer.Option(metavar="SECONDS", help="How long to search for jobs that fit, 0.1 to 86400."),
]

_SHOWN_JOBS = 20
_ENDS = {
    "succeeded": "has already succeeded",
    "dead_lettered": "is already a dead letter",
    "cancelled": "is already cancelled",
    "archived": "is already archived",
    "expired": "has already expired",
    "replayed": "was a dead letter and has been replayed",
}


@dataclass(frozen=True, slots=True)
class _Action:
    """One of the commands, in words."""

    verb: str
    """As in: cancel 3 jobs."""
    done: str
    """As in: cancelled 3 jobs."""
    asks_for_ids: bool = False
    """Whether it asks for confirmation even if jobs are named one by one."""


_CANCEL = _Action("cancel", "cancelled")
_RESCHEDULE = _Action("reschedule", "rescheduled")
_RUN_NOW = _Action("run at once", "made ready")
_PRIORITIZE = _Action("set the priority of", "given the priority")
_DELETE = _Action("delete", "deleted", asks_for_ids=True)


def add_to(app: typer.Typer) -> None:
    """Add the commands to `meshhook jobs`."""
    app.command(
        "cancel",
        epilog=example(
            "meshhook jobs cancel workflow_jobs 17 --reason 'the order was withdrawn'",
            "meshhook jobs cancel workflow_jobs --run-id 7f8c0d3e --dry-run",
        ),
    )(cancel)
    app.command(
        "reschedule",
        epilog=example(
            "meshhook jobs reschedule workflow_jobs 17 --delay 3600",
            "meshhook jobs reschedule workflow_jobs --key tenant-7 --at 2030-01-31T08:00Z",
        ),
    )(reschedule)
    app.command("run-now", epilog=example("meshhook jobs run-now workflow_jobs --state retrying"))(
        run_now
    )
    app.command(
        "set-priority",
        epilog=example(
            "meshhook jobs set-priority workflow_jobs 17 --priority urgent",
            "meshhook jobs set-priority workflow_jobs --run-id 7f8c0d3e --priority low",
        ),
    )(set_priority)
    app.command("delete", epilog=example("meshhook jobs delete workflow_jobs 17 --yes"))(delete)


def cancel(
    context: typer.Context,
    queue: QueueArgument,
    ids: IdsArgument = None,
    *,
    run_id: RunOption = None,
    workflow_id: WorkflowOption = None,
    project_id: ProjectOption = None,
    key: KeyOption = None,
    state: StateOption = None,
    reason: Annotated[str, typer.Option(help="Why, for the history and the handler.")] = "",
    search_seconds: SearchOption = CHANGE_SECONDS,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Cancel jobs: waiting ones at once, running ones through their workers.

    A waiting job leaves its queue, and the history says `cancelled`. The worker of a running job
    stops its handler within about a second; if the handler ends first, its outcome counts.
    """
    chosen = _chosen(
        ids,
        search_seconds,
        state,
        run_id=run_id,
        workflow_id=workflow_id,
        project_id=project_id,
        key=key,
    )

    async def work(service: QueueService[Any], **options: Any) -> JobChanges:
        return await service.cancel(reason=reason, **options)

    _change(context, queue, _CANCEL, chosen, work, dry_run=dry_run, yes=yes, as_json=as_json)


def reschedule(
    context: typer.Context,
    queue: QueueArgument,
    ids: IdsArgument = None,
    *,
    at: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="When, as 2030-01-31T08:00Z or with another offset."),
    ] = None,
    delay: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Or in how many seconds, up to 366 days."),
    ] = None,
    run_id: RunOption = None,
    workflow_id: WorkflowOption = None,
    project_id: ProjectOption = None,
    key: KeyOption = None,
    state: StateOption = None,
    search_seconds: SearchOption = CHANGE_SECONDS,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Let waiting jobs run at another time: ready, scheduled, or waiting for a retry."""
    chosen = _chosen(
        ids,
        search_seconds,
        state,
        run_id=run_id,
        workflow_id=workflow_id,
        project_id=project_id,
        key=key,
    )
    if (at is None) == (delay is None):
        raise UsageError("say when: --at TIME or --delay SECONDS (one of them)")
    moment = None if at is None else exact_moment("--at", at)

    async def work(service: QueueService[Any], **options: Any) -> JobChanges:
        return await service.reschedule(at=moment, delay_seconds=delay, **options)

    _change(context, queue, _RESCHEDULE, chosen, work, dry_run=dry_run, yes=yes, as_json=as_json)


def run_now(
    context: typer.Context,
    queue: QueueArgument,
    ids: IdsArgument = None,
    *,
    run_id: RunOption = None,
    workflow_id: WorkflowOption = None,
    project_id: ProjectOption = None,
    key: KeyOption = None,
    state: StateOption = None,
    search_seconds: SearchOption = CHANGE_SECONDS,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Let jobs run now that are scheduled or wait for a retry."""
    chosen = _chosen(
        ids,
        search_seconds,
        state,
        run_id=run_id,
        workflow_id=workflow_id,
        project_id=project_id,
        key=key,
    )

    async def work(service: QueueService[Any], **options: Any) -> JobChanges:
        return await service.run_now(**options)

    _change(context, queue, _RUN_NOW, chosen, work, dry_run=dry_run, yes=yes, as_json=as_json)


def set_priority(
    context: typer.Context,
    queue: QueueArgument,
    ids: IdsArgument = None,
    *,
    priority: Annotated[
        str, typer.Option(metavar="PRIORITY", help="urgent, high, normal or low, or 0 to 3.")
    ],
    run_id: RunOption = None,
    workflow_id: WorkflowOption = None,
    project_id: ProjectOption = None,
    key: KeyOption = None,
    state: StateOption = None,
    search_seconds: SearchOption = CHANGE_SECONDS,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Change the priority of jobs that wait, and of dead letters that are named by id.

    In a queue with priorities, a job that is ready counts as waiting from now on. Running jobs are
    left alone. A dead letter keeps its priority when it is replayed.
    """
    chosen = _chosen(
        ids,
        search_seconds,
        state,
        run_id=run_id,
        workflow_id=workflow_id,
        project_id=project_id,
        key=key,
    )
    wanted: Any = priority_from(priority)

    async def work(service: QueueService[Any], **options: Any) -> JobChanges:
        return await service.set_priority(priority=wanted, **options)

    _change(context, queue, _PRIORITIZE, chosen, work, dry_run=dry_run, yes=yes, as_json=as_json)


def delete(
    context: typer.Context,
    queue: QueueArgument,
    ids: IdsArgument = None,
    *,
    run_id: RunOption = None,
    workflow_id: WorkflowOption = None,
    project_id: ProjectOption = None,
    key: KeyOption = None,
    state: StateOption = None,
    search_seconds: SearchOption = CHANGE_SECONDS,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Delete jobs for good, with their dead letters and history; not those that run.

    Nothing is left of them. To keep the history, cancel them. Only the owner of the schema may.
    """
    chosen = _chosen(
        ids,
        search_seconds,
        state,
        run_id=run_id,
        workflow_id=workflow_id,
        project_id=project_id,
        key=key,
    )

    async def work(service: QueueService[Any], **options: Any) -> JobChanges:
        return await service.delete_jobs(**options)

    _change(context, queue, _DELETE, chosen, work, dry_run=dry_run, yes=yes, as_json=as_json)


def _chosen(
    ids: list[int] | None, search_seconds: float, state: str | None, **filters: str | None
) -> dict[str, Any]:
    """Return which jobs, as the methods of `QueueService` take it.

    Raises:
        UsageError: if none are named, or by ids and otherwise.
    """
    is_filtered = any(each is not None for each in filters.values())
    if ids and is_filtered:
        raise UsageError("name jobs by id or by --run-id and the like, not by both")
    if not ids and not is_filtered and state is None:
        raise UsageError(
            "say which jobs: ids, --run-id, --workflow-id, --project-id, --key or --state"
        )
    return {"msg_ids": ids or None, **filters, "state": state, "search_seconds": search_seconds}


def _change(
    context: typer.Context,
    queue: str,
    action: _Action,
    chosen: dict[str, Any],
    work: Callable[..., Awaitable[JobChanges]],
    *,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Ask if need be, change the jobs, and print what became of them."""
    name = validate_queue_name(queue)
    by_id = chosen["msg_ids"] is not None

    async def run(database: Database) -> JobChanges:
        service = QueueService[Any](database, name)
        if not dry_run and not yes and (action.asks_for_ids or not by_id):
            tried = await work(service, dry_run=True, **chosen)
            if not tried.changed and not tried.requested:
                return tried
            confirm(_question(action, tried, name), yes=False)
        return await work(service, dry_run=dry_run, **chosen)

    done = with_database(context, run)
    if as_json:
        print_json(
            {
                "queue": name,
                "dry_run": dry_run,
                "counts": {each.value: done.counts[each] for each in sorted(done.counts)},
                "jobs": done.jobs,
                "is_complete": done.is_complete,
            }
        )
    elif by_id and len(done.jobs) <= _SHOWN_JOBS:
        for job in done.jobs:
            is_any = chosen["state"] is None
            _print_job(job, action, dry_run=dry_run, is_any_state=is_any)
    else:
        _print_counts(done, action, name, dry_run=dry_run)
    if not done.is_complete:
        raise SearchIncompleteError(
            done.matched,
            done.seen,
            chosen["search_seconds"],
            queue=name,
            ids=[each for each in LOOKUP_IDS if chosen[each] is not None],
        )
    if by_id and done.not_found:
        missing = [job.msg_id for job in done.jobs if job.result is ChangeResult.NOT_FOUND]
        raise JobsNotFoundError(name, missing, done.not_found)
    if by_id and done.unchanged:
        raise JobsUnchangedError(name, done.unchanged)


def _question(action: _Action, tried: JobChanges, queue: str) -> str:
    total = tried.changed + tried.requested
    running = f", {tried.requested:,} of them running," if tried.requested else ""
    more = "" if tried.is_complete else " at least"
    verb = action.verb.capitalize()
    return f"{verb}{more} {counted(total, 'job')}{running} of queue {queue!r}?"


def _print_job(job: JobChange, action: _Action, *, dry_run: bool, is_any_state: bool) -> None:
    would = "would be " if dry_run else ""
    if job.result is ChangeResult.NOT_FOUND:
        return
    if job.result is ChangeResult.REQUESTED:
        asked = "would be asked" if dry_run else "is asked"
        text = f"runs: its worker {asked} to stop it"
    elif job.result is ChangeResult.UNCHANGED:
        is_in_use = action is _DELETE and is_any_state and job.was == "dead_lettered"
        in_use = "is a dead letter that another transaction has locked: it is left alone"
        text = in_use if is_in_use else _why_unchanged(job)
    else:
        when = f", ready {moment_with_age(job.at)}" if job.at is not None and not dry_run else ""
        text = f"{would}{action.done}{when}; it was {job.was}"
    say(f"job {job.msg_id} {text}")


def _why_unchanged(job: JobChange) -> str:
    if job.was == "running":
        return "runs: it is left alone"
    if job.was == "lost":
        return "was lost by its worker, and is claimed next: it is left alone"
    if job.was in LIVE_STATES:
        return f"is {job.was}: there is nothing to change"
    when = "" if job.at is None else f", {age(job.at)} ago"
    return f"{_ENDS.get(str(job.was), 'has ended')}{when}"


def _print_counts(done: JobChanges, action: _Action, queue: str, *, dry_run: bool) -> None:
    would = "would have " if dry_run else ""
    if dry_run:
        by = (
            "read from the newest down" if done.lookup is None else f"by the index of {done.lookup}"
        )
        note(f"Looked at {counted(done.seen, 'message')}, {by}.")
    if not done.matched:
        note(f"Queue {queue} has no such job.")
        return
    say(f"{would}{action.done} {counted(done.changed, 'job')} of queue {queue}")
    if done.requested:
        asked = "would be asked" if dry_run else "are asked"
        say(f"{counted(done.requested, 'job')} of it run: their workers {asked} to stop them")
    if done.unchanged:
        note(f"{counted(done.unchanged, 'job')} left alone, because of the state it is in.")
