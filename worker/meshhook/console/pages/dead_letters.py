"""Dead letters: by error, filtered, and replayed or deleted, some or all that fit."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from meshhook.console import parameters
from meshhook.console.confirmations import question_before
from meshhook.console.context import Console, console_of, form_of, user_of
from meshhook.console.list_places import place_by_id
from meshhook.console.operations import Action
from meshhook.console.pages.overview import read_overview
from meshhook.dead_letter_search import (
    find_dead_letters,
    list_error_groups,
    match_dead_letters,
)
from meshhook.dead_letters import MAX_DEAD_LETTERS, DLQService
from meshhook.errors import InvalidSettingError
from meshhook.escaping import quoted
from meshhook.names import validate_queue_name

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from meshhook.store.dead_letter_rows import ErrorGroup

PAGE_ROWS = 50
_GROUPS = 20
_PREVIEW_SECONDS = 3.0
_SHORT_SECONDS = 1.0
_MAX_QUEUES_READ = 50


async def show_errors(request: Request) -> Response:
    """Show the errors of all queues."""
    console = console_of(request)
    overview = await read_overview(console)
    failed = [each.queue for each in overview.lines if each.queue.dead_letters]
    failed.sort(key=lambda each: -each.dead_letters)
    read = failed[:_MAX_QUEUES_READ]
    groups = await asyncio.gather(
        *(_groups(console, each.queue, together=len(read)) for each in read)
    )
    return console.page(
        request,
        "errors.html",
        queues=list(zip(failed, groups, strict=False)),
        unread=len(failed) - len(groups),
        is_live=True,
    )


async def show_list(request: Request) -> Response:
    """Show the dead letters of a queue that fit."""
    console = console_of(request)
    queue = validate_queue_name(request.path_params["queue"])
    wanted = parameters.filter_of(request.query_params)
    place = place_by_id(request.query_params)
    found = await find_dead_letters(
        console.database, queue, wanted, before_id=place.id, limit=PAGE_ROWS
    )
    fields = parameters.filter_fields(request.query_params)
    fixed = parameters.filter_fields(request.query_params, is_fixed=True)
    here = f"/queues/{queue}/dead-letters"
    return console.page(
        request,
        "dead_letters.html",
        queue=queue,
        groups=await _groups(console, queue),
        found=found,
        fields=fields,
        is_filtered=bool(fields),
        links=place.links(here, fixed, found.next_before),
        replay_all_url=f"{here}/confirm" + parameters.query({"action": "replay"} | fixed),
        delete_all_url=f"{here}/confirm" + parameters.query({"action": "delete"} | fixed),
    )


async def confirm(request: Request) -> Response:
    """Show how many dead letters fit, before all of them are changed."""
    console = console_of(request)
    queue = validate_queue_name(request.path_params["queue"])
    action = _action(parameters.text(request.query_params, "action"))
    wanted = parameters.filter_of(request.query_params)
    newest = (await DLQService(console.database, queue).list_dead_letter_jobs(1))[:1]
    up_to_id = newest[0].id if newest else 0
    given = parameters.optional_number(request.query_params, "up_to_id")
    if given is not None:
        up_to_id = min(up_to_id, given)
    found = await match_dead_letters(
        console.database, queue, wanted, up_to_id=up_to_id, search_seconds=_PREVIEW_SECONDS
    )
    return console.page(
        request,
        "confirm.html",
        queue=queue,
        action=action,
        count=len(found.ids),
        is_complete=found.is_complete,
        up_to_id=up_to_id,
        fields=parameters.filter_fields(request.query_params, is_fixed=True),
    )


async def change_matching(request: Request) -> Response:
    """Start to change all dead letters that fit and were there when it was confirmed."""
    console = console_of(request)
    form = form_of(request)
    queue = validate_queue_name(request.path_params["queue"])
    action = _action(parameters.text(form, "action"))
    up_to_id = parameters.number(parameters.text(form, "up_to_id") or "", "up_to_id")
    operation = console.operations.start(
        action,
        queue,
        parameters.filter_of(form),
        up_to_id=up_to_id,
        user=user_of(request).name,
    )
    # A short one is over before its page is shown.
    await console.operations.wait(operation, _SHORT_SECONDS)
    # The address says what it is about, for a console that does not know it: one started anew.
    about: dict[str, object] = {"queue": queue, "action": action, "up_to_id": up_to_id}
    about |= parameters.filter_fields(form, is_fixed=True)
    return console.redirect(request, f"/operations/{operation.id}" + parameters.query(about))


async def change_chosen(request: Request) -> Response:
    """Replay or delete the dead letters that were ticked."""
    console = console_of(request)
    form = form_of(request)
    queue = validate_queue_name(request.path_params["queue"])
    action = _action(parameters.text(form, "action"))
    ids = [parameters.number(str(each), "id") for each in form.getlist("id")]
    here = f"/queues/{queue}/dead-letters" + parameters.query(parameters.filter_fields(form))
    if not ids:
        return console.redirect(request, here, said="Nothing was ticked, so nothing was changed.")
    if len(ids) > MAX_DEAD_LETTERS:
        raise InvalidSettingError(f"at most {MAX_DEAD_LETTERS} dead letters, got {len(ids)}")
    if action is Action.DELETE:
        number = "1 dead letter" if len(set(ids)) == 1 else f"{len(set(ids)):,} dead letters"
        question = question_before(
            request,
            question=f"Delete {number} of {queue}?",
            consequence="What was ticked is gone for good, with its messages. The history keeps "
            "the attempts.",
            button=f"Delete {number}",
            back=here,
        )
        if question is not None:
            return question
    service = DLQService(console.database, queue)
    if action is Action.REPLAY:
        changed = len(await service.replay_multiple_jobs(ids))
    else:
        changed = len(await service.delete_multiple_jobs(ids))
    said = f"{_counted(changed)} {action.done}."
    if left := len(set(ids)) - changed:
        said += (
            f" {_counted(left)} left alone: gone, being changed by somebody else, or another job "
            "has the unique key."
        )
    return console.redirect(request, here, said=said)


async def _groups(console: Console, queue: str, *, together: int = 1) -> list[ErrorGroup]:
    return await console.snapshots.get(
        ("groups", queue),
        lambda: list_error_groups(console.database, queue, limit=_GROUPS),
        for_seconds=console.kept_seconds(together),
    )


def _action(text: str | None) -> Action:
    if text not in list(Action):
        raise InvalidSettingError(f"action is replay or delete, got {quoted(text)}")
    return Action(text)


def _counted(count: int) -> str:
    return "1 dead letter was" if count == 1 else f"{count:,} dead letters were"
