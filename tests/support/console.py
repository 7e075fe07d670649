"""The console for tests: asked directly, or served to a browser; and dead letters to look at."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
from playwright.async_api import Page, async_playwright, expect

from meshhook.console.app import console_app
from meshhook.console.server import address_of, listening_socket, server_of
from meshhook.console.settings import ConsoleSettings
from meshhook.postgres.database import Database
from support.skipping import skip

CHROMIUM = "/usr/bin/chromium"
ORIGIN = "http://127.0.0.1:8080"
_PATIENCE_MS = 60_000
_TOKEN = re.compile(r'name="form_token" value="([^"]+)"')


def need_chromium() -> str:
    """Return the browser's path, or skip the test; in CI, fail it."""
    if not os.access(CHROMIUM, os.X_OK):
        skip(f"there is no {CHROMIUM}: make packages")
    return CHROMIUM


class Visitor:
    """Asks the console directly, as one browser would."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client

    async def get(self, path: str, **options: Any) -> httpx.Response:
        """Return a page."""
        return await self.client.get(path, **options)

    async def token(self, path: str = "/queues/jobs") -> str:
        """Return the token of a page's forms."""
        found = _TOKEN.search((await self.client.get(path)).text)
        assert found is not None
        return found[1]

    async def post(
        self,
        path: str,
        fields: Mapping[str, Any] | None = None,
        *,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Send a form, with the token that a page has and from the console's own origin."""
        if token is None:
            token = await self.token()
        return await self.client.post(
            path,
            data={"form_token": token, **(fields or {})},
            headers={"origin": ORIGIN, **(headers or {})},
        )


@asynccontextmanager
async def visiting(
    database: Any,
    *,
    address: str = "127.0.0.1",
    headers: Mapping[str, str] | None = None,
    **settings: Any,
) -> AsyncIterator[Visitor]:
    """Yield a visitor from an address of a console over a database."""
    app = console_app(database, settings=ConsoleSettings.of(**settings))
    transport = httpx.ASGITransport(app, client=(address, 50_000))
    async with httpx.AsyncClient(
        transport=transport, base_url=ORIGIN, headers=dict(headers or {})
    ) as client:
        try:
            yield Visitor(client)
        finally:
            await app.state.close()


@asynccontextmanager
async def served(database_url: str, **settings: Any) -> AsyncIterator[str]:
    """Serve a console over a database, and yield its address without a slash at the end."""
    checked = ConsoleSettings.of(**{"refresh_seconds": 1} | settings)
    database = await Database.connect(database_url, min_size=0, max_size=4)
    with listening_socket(checked, "127.0.0.1", 0) as listener:
        server = server_of(console_app(database, settings=checked))
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield address_of(listener).rstrip("/")
        finally:
            server.should_exit = True
            await task


async def add_dead_letters(
    connection: Any,
    count: int,
    *,
    queue: str = "jobs",
    error_type: str = "TimeoutError",
    error_message: str = "no answer within 5 s",
    body: Any = None,
    headers: Mapping[str, Any] | None = None,
) -> list[int]:
    """Put dead letters into a queue as workers leave them, and return their ids."""
    body = {"run_id": "run-1", "payload": {"order": 7}} if body is None else body
    rows = await connection.fetch(
        f"""
        insert into pgmq."q_{queue}_dlq" (vt, message, headers)
        select now(), $2::jsonb, $5::jsonb || jsonb_build_object('meshhook-dead-letter',
            jsonb_build_object('queue', $1::text, 'msg_id', 1000000 + n, 'attempts', 5,
                'error_type', $3::text, 'error_message', $4::text,
                'first_enqueued_at', '2026-01-01T00:00:00.000000+00:00'))
        from generate_series(1, $6::int) n
        returning msg_id
        """,
        queue,
        json.dumps(body),
        error_type,
        error_message,
        json.dumps(dict(headers or {})),
        count,
    )
    return [row["msg_id"] for row in rows]


async def bytes_of(page: Page) -> int:
    """Return how large a page is with all that it asks for, without what it was refreshed with."""
    size: int = await page.evaluate(
        "performance.getEntries().filter((e) => e.name.indexOf('/events') < 0 && "
        "e.initiatorType !== 'fetch').reduce((n, e) => n + (e.decodedBodySize || 0), 0)"
    )
    return size


@asynccontextmanager
async def browsing(
    *, is_allowed_to_miss: bool = False, allowed: tuple[str, ...] = (), **options: Any
) -> AsyncIterator[Any]:
    """Yield a function that opens a page in a browser of its own; what goes wrong in it fails.

    Errors of scripts, errors in the browser's console and whatever the policy forbids count; pages
    that are not found only unless that is allowed, and messages with a text in `allowed` never.
    """
    path = need_chromium()
    expect.set_options(timeout=_PATIENCE_MS)  # instead of five seconds
    wrong: list[str] = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])

        async def open_page(**more: Any) -> Page:
            context = await browser.new_context(**{**options, **more})
            page = await context.new_page()
            page.set_default_timeout(_PATIENCE_MS)
            page.on("pageerror", lambda error: wrong.append(str(error)))
            page.on(
                "console",
                lambda message: (
                    wrong.append(message.text) if message.type in {"error", "warning"} else None
                ),
            )
            page.on("dialog", lambda dialog: wrong.append(f"dialog: {dialog.message}"))
            return page

        try:
            yield open_page
        finally:
            await browser.close()
    allowed += (" 404 ",) if is_allowed_to_miss else ()
    assert [each for each in wrong if not any(text in each for text in allowed)] == []
