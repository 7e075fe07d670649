"""Queues and their handlers, given by name or as an app declares them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, overload

from meshhook.application import App, QueueHandler
from meshhook.application.queue_options import create_if_missing
from meshhook.errors import InvalidHandlerError, InvalidSettingError
from meshhook.testing.queues import DatabaseQueues

if TYPE_CHECKING:
    from meshhook.postgres.database import Database
    from meshhook.testing.draining import Handlers

Queue: TypeAlias = str | QueueHandler[Any]
"""A queue: its name, or the handler that an app declares for it."""


def check_database(app: App, url: str) -> None:
    """Check that an app works on the database of its test.

    Raises:
        InvalidSettingError: if not: jobs that its handlers enqueue would go elsewhere.
    """
    if not app.has_own_database() or app.address().url != url:
        raise InvalidSettingError(
            "the app uses a different database than the test; put the test inside "
            "`async with meshhook_database.connect(app):`"
        )


@overload
def name_of(queue: Queue) -> str: ...
@overload
def name_of(queue: Queue | None) -> str | None: ...
def name_of(queue: Queue | None) -> str | None:
    """Return the name of a queue that is given by name or by handler."""
    return queue.queue if isinstance(queue, QueueHandler) else queue


async def handlers_by_queue(database: Database, handlers: Any, queue: Queue | None) -> Handlers:
    """Return the handler of each queue to drain, and create the queues that an app declares.

    Args:
        database: the database, over one connection.
        handlers: an app, or a handler of one; the handler of each queue; or one for all queues.
        queue: the only queue to drain. Default: those that `handlers` names, else all.

    Raises:
        InvalidHandlerError: if the queue has no handler.
        InvalidSettingError: if there is no queue.
        QueueNotFoundError: if there is no such queue.
    """
    name = name_of(queue)
    known: Mapping[str, Any] | None = None
    if isinstance(handlers, App):
        known = handlers.handlers
    elif isinstance(handlers, Mapping):
        known = handlers
    elif isinstance(handlers, QueueHandler) and name is None:
        known = {handlers.queue: handlers}
    if known is None:
        queues = await DatabaseQueues.find(database, name)
        known = dict.fromkeys(queues.names, handlers)
    elif name is not None:
        if name not in known:
            raise InvalidHandlerError(
                f"there is no handler for queue {name!r}; there are: {', '.join(known)}"
            )
        known = {name: known[name]}
    if not known:
        raise InvalidSettingError("there is no queue to drain; create one with create_queue()")
    for each in known.values():
        if isinstance(each, QueueHandler):
            await create_if_missing(database, each.queue, each.settings)
    return known
