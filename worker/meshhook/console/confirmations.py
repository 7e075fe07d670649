"""A question before a change that cannot be taken back, as a page of its own.

It works without JavaScript, and asks in the same way with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshhook.console.context import console_of, form_of
from meshhook.console.guard import TOKEN_FIELD

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

CONFIRMED_FIELD = "confirmed"


def is_confirmed(request: Request) -> bool:
    """Return whether the form says that the question was asked and answered."""
    return form_of(request).get(CONFIRMED_FIELD) == "yes"


def question_before(
    request: Request, *, question: str, consequence: str, button: str, back: str
) -> Response | None:
    """Return the page that asks before a change; None if the form says that it was asked.

    The arguments are those of `question_page`.
    """
    if is_confirmed(request):
        return None
    return question_page(
        request, question=question, consequence=consequence, button=button, back=back
    )


def question_page(
    request: Request, *, question: str, consequence: str, button: str, back: str
) -> Response:
    """Return the page that asks before a change. It sends the same form again, with all its fields.

    Args:
        request: the change.
        question: the heading.
        consequence: what happens then, in a sentence.
        button: what the button says that does it.
        back: the page to go back to, within the console.
    """
    fields = [
        (name, value)
        for name, value in form_of(request).multi_items()
        if name not in (TOKEN_FIELD, CONFIRMED_FIELD) and isinstance(value, str)
    ]
    return console_of(request).page(
        request,
        "question.html",
        question=question,
        consequence=consequence,
        button=button,
        fields=fields,
        confirmed_field=CONFIRMED_FIELD,
        action=request.scope["path"],
        back=back,
    )
