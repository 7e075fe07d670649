"""The guard in front of every page: hosts, users, roles, origins, tokens, and headers.

Whatever is no GET or HEAD changes something, so it needs an operator, the console's own origin and
a token. No page can forget to ask.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from starlette.datastructures import FormData, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request

from meshhook.actors import Source, acting_as
from meshhook.console.authentication import Authentication, RefusedError
from meshhook.console.headers import PAGE_CACHE, SECURITY_HEADERS
from meshhook.console.origins import is_allowed_host, is_same_origin
from meshhook.console.users import Role, User
from meshhook.observability.loggers import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from meshhook.console.settings import ConsoleSettings
    from meshhook.console.tokens import Tokens

MAX_FORM_BYTES = 1_048_576
"""The longest form that is read."""
MAX_FORM_FIELDS = 1_100
FORM_SECONDS = 30.0
"""How long a form may take to arrive."""
TOKEN_FIELD = "form_token"  # noqa: S105 - the field's name

_log = get_logger("meshhook.console")

_READS = frozenset({"GET", "HEAD"})
_FORM = "application/x-www-form-urlencoded"


class Guard:
    """Lets requests through to the pages, or refuses them."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: ConsoleSettings,
        authentication: Authentication,
        tokens: Tokens,
        refuse: Callable[[Request, RefusedError], Response],
    ) -> None:
        """Take the pages, what to check requests with, and how to show a refusal."""
        self._app = app
        self._settings = settings
        self._authentication = authentication
        self._tokens = tokens
        self._refuse = refuse
        self._cookie = "__Host-meshhook-console" if settings.is_secure else "meshhook-console"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            raise RuntimeError("the console has no websockets")
        scope = self._placed(scope)
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        request = Request(scope, receive)
        session, is_new = self._session_of(request)
        state: dict[str, Any] = scope.setdefault("state", {})
        state |= {"user": None, "form": None, "session": session}
        is_public = path == "/healthz" or path.startswith("/static/")
        has_started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                sets_cookie = is_new and state["user"] is not None
                self._add_headers(MutableHeaders(scope=message), session if sets_cookie else None)
            await send(message)

        try:
            if not is_public:
                await self._check(request, state, session)
            with _acting(state["user"]):
                await self._app(scope, receive, send_with_headers)
        except RefusedError as error:
            await self._refuse(request, error)(scope, receive, send_with_headers)
        except Exception:
            _log.exception("a page of the console failed", path=path)
            if has_started:
                raise
            failure = RefusedError(500, "This is a fault of the console. Its log says more.")
            await self._refuse(request, failure)(scope, receive, send_with_headers)

    def _placed(self, scope: Scope) -> Scope:
        """Return a request with the path of the public address as its root, unless it has one.

        The proxy may have passed the path on, or taken it off.
        """
        root, path = self._settings.public_path, scope["path"]
        if not root or scope.get("root_path"):
            return scope
        if path == root:
            path += "/"
        elif not path.startswith(f"{root}/"):
            path = root + path
        return {**scope, "root_path": root, "path": path}

    async def _check(self, request: Request, state: dict[str, Any], session: str) -> None:
        """Find the user of a request, and check whether it may be answered.

        Raises:
            RefusedError: if it may not.
        """
        if not is_allowed_host(request.headers.get("host", ""), self._settings):
            raise RefusedError(
                421,
                "This is not a name of the console. Names are allowed with "
                "MESHHOOK_CONSOLE_ALLOWED_HOSTS and MESHHOOK_CONSOLE_PUBLIC_URL.",
            )
        user = await self._authentication.user_of(request)
        if self._settings.read_only:
            user = replace(user, role=Role.VIEWER)
        state["user"] = user
        if request.method not in _READS:
            await self._check_change(request, state, user, session)

    async def _check_change(
        self, request: Request, state: dict[str, Any], user: User, session: str
    ) -> None:
        if not user.may_change:
            raise RefusedError(403, "You may look, but not change anything: you are a viewer.")
        if not is_same_origin(request.headers, self._settings):
            raise RefusedError(
                403,
                "This request came from another site. Nothing was changed. If this is the console "
                "itself, behind a proxy: set MESHHOOK_CONSOLE_PUBLIC_URL to its address in the "
                "browser.",
            )
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
            raise RefusedError(415, "The console takes forms only. Nothing was changed.")
        try:
            async with asyncio.timeout(FORM_SECONDS):
                form = await _limited(request).form(max_fields=MAX_FORM_FIELDS)
        except HTTPException as error:
            raise RefusedError(error.status_code, f"{error.detail} Nothing was changed.") from None
        except TimeoutError:
            raise RefusedError(
                408,
                f"The form did not arrive within {FORM_SECONDS:g} seconds. Nothing was changed.",
                {"connection": "close"},
            ) from None
        token = form.get(TOKEN_FIELD)
        if not isinstance(token, str) or not self._tokens.is_form_token(token, session, user.name):
            raise RefusedError(
                403,
                "This form is too old, or was made for somebody else. Nothing was changed: "
                "load its page again.",
                kept=_text_of(form, "body"),
            )
        state["form"] = _exact(form)

    def _session_of(self, request: Request) -> tuple[str, bool]:
        """Return what the browser is known again by, and whether that is new."""
        found = request.cookies.get(self._cookie)
        if found is not None and self._tokens.is_session(found):
            return found, False
        return self._tokens.new_session(), True

    def _add_headers(self, headers: MutableHeaders, new_session: str | None) -> None:
        for name, value in SECURITY_HEADERS.items():
            headers[name] = value
        headers.setdefault("cache-control", PAGE_CACHE)
        if new_session is not None:
            secure = "; Secure" if self._settings.is_secure else ""
            # Not Strict: whoever follows a link from a chat to the console would get a new one, and
            # the forms that are open elsewhere would be refused. It authenticates nobody.
            headers.append(
                "set-cookie",
                f"{self._cookie}={new_session}; Path=/; HttpOnly; SameSite=Lax{secure}",
            )


def _exact(form: FormData) -> FormData:
    """Return a form in which fields named `NAME*` are decoded, as the macro `hidden` writes them.

    Browsers send every line break in a form as CR LF, whatever it was in the page.
    """
    return FormData(
        [
            (name.removesuffix("*"), unquote(value))
            if name.endswith("*") and isinstance(value, str)
            else (name, value)
            for name, value in form.multi_items()
        ]
    )


def _text_of(form: FormData, name: str) -> str | None:
    value = form.get(name)
    return value if isinstance(value, str) else None


def _acting(user: User | None) -> AbstractContextManager[None]:
    """Have the audit log name the user for what a request changes."""
    return nullcontext() if user is None else acting_as(user.name, source=Source.CONSOLE)


def _limited(request: Request) -> Request:
    """Return a request whose body ends in an error if it is too long."""
    too_long = RefusedError(413, "This form is too long. Nothing was changed.")
    try:
        length = int(request.headers.get("content-length", "0"))
    except ValueError:
        length = 0
    if length > MAX_FORM_BYTES:
        raise too_long
    seen = 0

    async def receive() -> Message:
        nonlocal seen
        message = await request.receive()
        seen += len(message.get("body", b""))
        if seen > MAX_FORM_BYTES:
            raise too_long
        return message

    return Request(request.scope, receive)
