"""Waiting for something to become true, instead of sleeping for a while and hoping."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any

import pytest


async def eventually(
    condition: Callable[[], Any],
    timeout: float = 60,  # noqa: ASYNC109 - the failure must say what the condition last gave
    *,
    message: str = "",
) -> Any:
    """Wait until `condition()` is true, and return what it gave.

    Args:
        condition: called again and again; a plain function, or one that returns an awaitable.
            An AssertionError that it raises counts as not yet true.
        timeout: for how many seconds at most.
        message: what the test waited for, for the message when it fails.
    """
    last: object = None
    deadline = time.monotonic() + timeout
    pause_seconds = 0.002
    while True:
        try:
            value = condition()
            value = await value if inspect.isawaitable(value) else value
        except AssertionError as error:
            last = f"AssertionError: {error}"
        else:
            if value:
                return value
            last = repr(value)
        if time.monotonic() > deadline:
            what = message or inspect.getsource(condition).strip()
            pytest.fail(f"not true within {timeout} s, last: {last}; waited for: {what}")
        await asyncio.sleep(pause_seconds)
        pause_seconds = min(pause_seconds * 1.5, 0.05)


async def lock_waiters(connection: Any) -> int:
    """Return how many sessions of a database wait for a lock, also asked inside a transaction.

    There, `pg_stat_activity` stays as it was when the transaction first looked at it.
    """
    await connection.execute("select pg_stat_clear_snapshot()")
    waiters: int = await connection.fetchval(
        "select count(*) from pg_stat_activity "
        "where datname = current_database() and wait_event_type = 'Lock'"
    )
    return waiters
