"""Django's connections in handlers: a job is to them what a request is to a web server."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

from asgiref.sync import sync_to_async
from django.db import close_old_connections

if TYPE_CHECKING:
    from collections.abc import Callable


def with_job_connections(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a handler around which connections are closed that are too old or broken.

    Without it a thread that runs handlers would keep a broken connection for ever.
    """
    if inspect.iscoroutinefunction(function):
        close = sync_to_async(close_old_connections)

        @functools.wraps(function)
        async def run_async(job: Any) -> Any:
            await close()
            try:
                return await function(job)
            finally:
                await close()

        return run_async

    @functools.wraps(function)
    def run(job: Any) -> Any:
        close_old_connections()
        try:
            return function(job)
        finally:
            close_old_connections()

    return run
