"""What the pages share: the database, the settings, the templates and the running operations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.responses import HTMLResponse, RedirectResponse

from meshhook.console.guard import TOKEN_FIELD
from meshhook.console.users import User

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jinja2 import Environment
    from starlette.datastructures import FormData
    from starlette.requests import Request
    from starlette.responses import Response

    from meshhook.console.arrivals import Arrivals
    from meshhook.console.minute_counts import MinuteCounts
    from meshhook.console.operations import Operations
    from meshhook.console.redactions import Redactions
    from meshhook.console.settings import ConsoleSettings
    from meshhook.console.snapshots import Snapshots
    from meshhook.console.tokens import Tokens
    from meshhook.postgres.database import Database

NOTICE = "notice"
QUEUES_PER_SECOND = 4
"""How many queues are read a second at the most, at about 2 ms of the database each; beyond, the
figures of all queues are read less often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Console:
    """One console."""

    database: Database
    settings: ConsoleSettings
    templates: Environment
    tokens: Tokens
    snapshots: Snapshots
    operations: Operations
    redactions: Redactions
    arrivals: Arrivals
    minute_counts: MinuteCounts

    def read_every_seconds(self, queues: int = 1) -> float:
        """Return how often so many queues are read together while somebody looks."""
        return max(self.settings.refresh_seconds, queues / QUEUES_PER_SECOND)

    def kept_seconds(self, queues: int = 1) -> float:
        """Return for how long viewers share what was read of so many queues together.

        A little less than until the refresh after which it is read again.
        """
        return self.read_every_seconds(queues) * 0.9

    def page(
        self,
        request: Request,
        template: str,
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        **values: Any,
    ) -> Response:
        """Return a page."""
        user: User | None = request.state.user
        notice = request.query_params.get(NOTICE)
        html = self.templates.get_template(template).render(
            base=request.scope.get("root_path", ""),
            path=request.scope["path"].removeprefix(request.scope.get("root_path", "")),
            user=user,
            may_change=user is not None and user.may_change,
            token_field=TOKEN_FIELD,
            token="" if user is None else self.tokens.form_token(request.state.session, user.name),
            notice=None if notice is None else self.tokens.notice(notice),
            **values,
        )
        return HTMLResponse(html, status, dict(headers or {}))

    def redirect(
        self, request: Request, path: str, *, said: str | None = None, link: str | None = None
    ) -> Response:
        """Return the way to the next page after a change, which shows what was said.

        Args:
            request: the change.
            path: the next page, within the console.
            said: what was done. Default: nothing.
            link: a page to look at next, within the console. Default: none.
        """
        base = request.scope.get("root_path", "")
        url = base + path
        if said is not None:
            notice = {"text": said} | ({"link": base + link} if link is not None else {})
            url += ("&" if "?" in url else "?") + f"{NOTICE}={self.tokens.signed_notice(notice)}"
        # What was changed is to be seen on that page.
        self.snapshots.forget_all()
        return RedirectResponse(url, 303)


def console_of(request: Request) -> Console:
    """Return the console that a request is for."""
    console: Console = request.app.state.console
    return console


def form_of(request: Request) -> FormData:
    """Return the form of a change, which the guard has read and checked."""
    form: FormData = request.state.form
    return form


def user_of(request: Request) -> User:
    """Return who sent a request."""
    user: User = request.state.user
    return user
