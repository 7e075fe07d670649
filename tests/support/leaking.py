"""Handlers that put the URL of the database wherever a handler can, for `meshhook worker`."""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import logging
import os
import sys
import threading
import warnings
from typing import Any

import asyncpg
import structlog

from meshhook import DeadLetter, Job, RetryAfter
from meshhook.known_secrets import known_secrets
from meshhook.postgres.connecting import connect
from support.marked import no_database


def url() -> str:
    """The URL."""
    return os.environ["MESHHOOK_DATABASE_URL"]


def password() -> str:
    """The password in it."""
    return os.environ["MARKED_PASSWORD"]


class HoldingError(Exception):
    """Shows the password in whatever way it is shown."""

    def __init__(self) -> None:
        super().__init__(f"cannot use {password()!r} of {url()}", {"dsn": url()}, password())
        self.add_note(f"with {json.dumps({'p': password()})}")

    def __repr__(self) -> str:
        return f"HoldingError({password()!r})"


async def leak(job: Job[Any]) -> None:
    """Log the URL in every way, and do what the payload says."""
    log = structlog.get_logger("shop")
    log.warning("using", where=url(), key=password(), nested=[{"x": (password().encode(),)}])
    logging.getLogger("shop").warning("using %s %r", url(), password())
    warnings.warn(f"odd: {password()}", stacklevel=1)
    await KINDS[job.payload["kind"]]()


async def fail() -> None:
    """Raise an error with the URL in it."""
    raise HoldingError


async def fail_as_group() -> None:
    """Raise several."""
    try:
        await fail()
    except HoldingError as error:
        raise ExceptionGroup(url(), [error, ValueError(password())]) from error


async def bury() -> None:
    """Ask for the dead letters."""
    raise DeadLetter(f"refused by {url()}")


async def retry() -> None:
    """Ask for another attempt."""
    raise RetryAfter(0.05, f"later: {base64.b64encode(url().encode()).decode()}")


async def connect_by_driver() -> None:
    """Fail in the driver, whose frames hold the password among their variables."""
    await asyncpg.connect(no_database(url()))


async def connect_by_us() -> None:
    """Fail in ours."""
    await connect(no_database(url()))


async def fail_in_thread() -> None:
    """Let a thread of the handler's own fail."""
    thread = threading.Thread(target=lambda: asyncio.run(fail()), name="aside")
    thread.start()
    thread.join()


async def fail_in_task() -> None:
    """Let a task of the handler's own fail, and a callback."""
    task = asyncio.create_task(fail(), name=f"aside {password()}")
    asyncio.get_running_loop().call_soon(int, password())
    await asyncio.sleep(0.05)
    del task
    gc.collect()


async def print_it() -> None:
    """Print the URL, which nothing hides: to see that tests find it."""
    sys.stderr.write(f"{url()}\n")
    sys.stderr.flush()


async def forget() -> None:
    """Let the library forget what it knows: to see that tests find what it then logs."""
    known_secrets._secrets.clear()
    structlog.get_logger("shop").warning("using", key=f"<{password()}>")


KINDS = {
    "raise": fail,
    "group": fail_as_group,
    "bury": bury,
    "retry": retry,
    "driver": connect_by_driver,
    "ours": connect_by_us,
    "thread": fail_in_thread,
    "task": fail_in_task,
    "print": print_it,
    "forget": forget,
}
