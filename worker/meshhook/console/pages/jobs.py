"""One job's life: its attempts, its message; mend and replay it, cancel it, run it now."""

from __future__ import annotations

from dataclasses import dataclass
from json import JSONDecodeError
from typing import TYPE_CHECKING, Any

from meshhook.console import parameters
from meshhook.console.confirmations import question_before
from meshhook.console.context import Console, console_of, form_of, user_of
from meshhook.console.exact_json import parsed, written
from meshhook.console.rendering import safe_text
from meshhook.dead_letters import DLQService
from meshhook.encryption.envelope import is_sealed
from meshhook.errors import (
    DatabaseError,
    DatabaseUnavailableError,
    DuplicateJobError,
    InvalidJobError,
    InvalidSettingError,
    JobNotFoundError,
    MeshHookError,
    QueueNotFoundError,
    UncertainCommitError,
)
from meshhook.escaping import shown_json
from meshhook.job_changer import JobChanger
from meshhook.job_changes import ChangeResult
from meshhook.job_choice import JobChoice
from meshhook.names import validate_queue_name
from meshhook.store.job_rows import LIVE_STATES, JobLife
from meshhook.tracking import get_job

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from meshhook.store.dead_letter_rows import DeadLetterJob

MAX_SHOWN_CHARACTERS = 65_536
"""How much of a body is shown; a longer one cannot be edited here."""
MAX_PARSED_CHARACTERS = 1_048_576
"""Longer bodies are shown as they are stored."""
CHANGE_SECONDS = 10.0
"""How long a request looks for jobs to change."""


@dataclass(frozen=True, slots=True)
class ShownText:
    """A body or headers for people."""

    text: str
    is_cut: bool = False
    """Whether it goes on."""
    is_editable: bool = False
    length: int = 0
    """How many characters the whole has as it is stored."""


async def show_job(request: Request) -> Response:
    """Show a job; one that is a dead letter by its dead letter."""
    console = console_of(request)
    queue = validate_queue_name(request.path_params["queue"])
    msg_id = parameters.number(request.path_params["id"], "id")
    life = await get_job(console.database, queue, msg_id)
    dead = None
    if life.dead_letter_id is not None:
        dead = await _dead_letter_of(console, queue, life.dead_letter_id)
    return _page(console, request, queue, life=life, dead=dead)


async def show_dead_letter(request: Request) -> Response:
    """Show a dead letter with the life of its job."""
    console = console_of(request)
    queue = validate_queue_name(request.path_params["queue"])
    dead_letter_id = parameters.number(request.path_params["id"], "id")
    dead = await DLQService(console.database, queue).get_dead_letter_job(dead_letter_id)
    return _page(console, request, queue, life=await _life_of(console, queue, dead), dead=dead)


async def replay(request: Request) -> Response:
    """Replay a dead letter, with an edited body if the form has one."""
    console = console_of(request)
    form = form_of(request)
    queue = validate_queue_name(request.path_params["queue"])
    dead_letter_id = parameters.number(request.path_params["id"], "id")
    service = DLQService(console.database, queue)
    edited = form.get("body")
    body: str | None = None
    if isinstance(edited, str):
        dead = await service.get_dead_letter_job(dead_letter_id)
        try:
            body = _edited_body(console, dead, edited)
            msg_id = await service.replay_dead_letter_job(dead_letter_id, body=body)
        except UncertainCommitError:
            raise
        except (InvalidJobError, DuplicateJobError, DatabaseUnavailableError) as error:
            # What was written is not lost.
            return _page(
                console,
                request,
                queue,
                life=await _life_if_known(console, queue, dead),
                dead=dead,
                edited=edited,
                fault=str(error),
            )
    else:
        msg_id = await service.replay_dead_letter_job(dead_letter_id)
    said = f"Dead letter {dead_letter_id} was replayed as job {msg_id}"
    said += " with the new body." if body is not None else "."
    return console.redirect(request, f"/queues/{queue}/jobs/{msg_id}", said=said)


async def delete(request: Request) -> Response:
    """Delete a dead letter."""
    console = console_of(request)
    queue = validate_queue_name(request.path_params["queue"])
    dead_letter_id = parameters.number(request.path_params["id"], "id")
    question = question_before(
        request,
        question=f"Delete dead letter {dead_letter_id} of {queue}?",
        consequence="It is gone for good, with its message. The history keeps its attempts.",
        button="Delete",
        back=f"/queues/{queue}/dead-letters/{dead_letter_id}",
    )
    if question is not None:
        return question
    is_gone = await DLQService(console.database, queue).delete_dead_letter_job(dead_letter_id)
    said = (
        f"Dead letter {dead_letter_id} was deleted."
        if is_gone
        else f"Dead letter {dead_letter_id} was not there any more."
    )
    return console.redirect(request, f"/queues/{queue}/dead-letters", said=said)


async def cancel(request: Request) -> Response:
    """Cancel a job."""
    console, queue, msg_id, changer = changer_of(request)
    question = question_before(
        request,
        question=f"Cancel job {msg_id} of {queue}?",
        consequence="It leaves the queue and does not run. If it runs now, its worker is asked to "
        "stop it. The history keeps its attempts.",
        button="Cancel job",
        back=f"/queues/{queue}/jobs/{msg_id}",
    )
    if question is not None:
        return question
    reason = parameters.text(form_of(request), "reason") or "cancelled in the console"
    changes = await changer.cancel(reason=reason, requested_by=user_of(request).name)
    result = changes.jobs[0].result
    said = {
        ChangeResult.CANCELLED: f"Job {msg_id} was cancelled.",
        ChangeResult.REQUESTED: f"Job {msg_id} is running; its worker was asked to cancel it.",
    }.get(result, f"Job {msg_id} was not cancelled: it has ended, or is gone.")
    return console.redirect(request, f"/queues/{queue}/jobs/{msg_id}", said=said)


async def run_now(request: Request) -> Response:
    """Let a job run now that would run later."""
    console, queue, msg_id, changer = changer_of(request)
    changes = await changer.reschedule(None, None)
    said = (
        f"Job {msg_id} is ready to run now."
        if changes.jobs[0].result is ChangeResult.RESCHEDULED
        else f"Job {msg_id} was left as it is: it does not wait for a later time."
    )
    return console.redirect(request, f"/queues/{queue}/jobs/{msg_id}", said=said)


def changer_of(request: Request) -> tuple[Console, str, int, JobChanger]:
    """Return the console, the queue and the id of a request, and what changes that one job."""
    console = console_of(request)
    queue = validate_queue_name(request.path_params["queue"])
    msg_id = parameters.number(request.path_params["id"], "id")
    choice = JobChoice.of(msg_id)
    return console, queue, msg_id, JobChanger(console.database, queue, choice, CHANGE_SECONDS)


async def _dead_letter_of(
    console: Console, queue: str, dead_letter_id: int
) -> DeadLetterJob | None:
    try:
        return await DLQService(console.database, queue).get_dead_letter_job(dead_letter_id)
    except DatabaseError:
        raise
    except MeshHookError:
        return None  # replayed or deleted meanwhile


async def _life_of(console: Console, queue: str, dead: DeadLetterJob) -> JobLife | None:
    if dead.msg_id is None or dead.queue != queue:
        return None
    try:
        life = await get_job(console.database, queue, dead.msg_id)
    except (JobNotFoundError, QueueNotFoundError):
        return None
    # A job of the same id, of a queue that was made again.
    return life if life.dead_letter_id == dead.id else None


async def _life_if_known(console: Console, queue: str, dead: DeadLetterJob) -> JobLife | None:
    try:
        return await _life_of(console, queue, dead)
    except DatabaseError:
        return None


def _page(
    console: Console,
    request: Request,
    queue: str,
    *,
    life: JobLife | None,
    dead: DeadLetterJob | None,
    edited: str | None = None,
    fault: str | None = None,
) -> Response:
    body = dead.body if dead is not None else life.body if life is not None else None
    lives = []
    after = life.replayed_as if life is not None else None
    while after is not None:
        lives.append(after)
        after = after.replayed_as
    return console.page(
        request,
        "job.html",
        status=200 if fault is None else 400,
        queue=queue,
        life=life,
        dead=dead,
        later_lives=lives,
        state="dead_lettered" if life is None else life.state,
        is_in_queue=_is_in_queue(life),
        body=None if body is None else shown_body(console, body),
        is_too_long=body is None and (dead is not None or _is_in_queue(life)),
        shown_headers=None if dead is None else _shown_headers(console, dead.headers),
        edited=edited,
        fault=fault,
        is_live=dead is None and life is not None and life.last.state in LIVE_STATES,
    )


def _is_in_queue(life: JobLife | None) -> bool:
    return life is not None and life.state in LIVE_STATES


def shown_body(console: Console, body: str) -> ShownText:
    """Return a body with its lines, without what is hidden."""
    if len(body) > MAX_PARSED_CHARACTERS:
        if console.redactions.hide_bodies:
            return ShownText("(too long to be shown with places hidden)", length=len(body))
        return _cut(body, len(body))
    try:
        text = written(console.redactions.hidden("body", parsed(body)), is_indented=True)
    except (ValueError, RecursionError):
        if console.redactions.hide_bodies:
            return ShownText(
                "(cannot be parsed, so that places in it stay hidden)", length=len(body)
            )
        return _cut(body, len(body))
    if len(text) > MAX_SHOWN_CHARACTERS:
        return _cut(text, len(body))
    # What is not seen is written as JSON writes it, so that it can be edited; ciphertext cannot.
    return ShownText(shown_json(text), is_editable=not is_sealed(body), length=len(body))


def _cut(text: str, length: int) -> ShownText:
    is_cut = len(text) > MAX_SHOWN_CHARACTERS
    return ShownText(safe_text(text[:MAX_SHOWN_CHARACTERS]), is_cut=is_cut, length=length)


def _shown_headers(console: Console, headers: dict[str, Any]) -> ShownText:
    try:
        text = written(console.redactions.hidden("headers", headers), is_indented=True)
    except RecursionError:
        return ShownText("(nested too deeply to be shown)")
    return _cut(text, 0)


def _edited_body(console: Console, dead: DeadLetterJob, edited: str) -> str | None:
    """Return the new body; None if it says what the old one says.

    Raises:
        InvalidJobError: if it is not JSON, or misplaces what is hidden.
    """
    if dead.body is None:
        raise InvalidSettingError("this body is too long to be edited here")
    if is_sealed(dead.body):
        raise InvalidSettingError(
            "this body is encrypted, and cannot be edited here: replay it as it is, or with "
            "DLQService(..., encryption=...).replay_dead_letter_job(..., body=...)"
        )
    try:
        old = parsed(dead.body)
        restored = console.redactions.restored(parsed(edited), old)
        # Without the blanks that make it readable: its length is limited.
        return None if restored == old else written(restored)
    except JSONDecodeError as error:
        raise InvalidJobError(f"the body is not JSON: {error}") from None
    except RecursionError:
        raise InvalidJobError("the body is nested too deeply to be edited here") from None
