"""Schedules in the code of an application: the decorator that `App.periodic` returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from meshhook.application.arguments import name_of
from meshhook.application.queue_handler import QueueHandler
from meshhook.errors import InvalidHandlerError, InvalidJobError, InvalidSettingError
from meshhook.escaping import quoted
from meshhook.job_policies import SchedulePolicies
from meshhook.new_schedule import NewSchedule
from meshhook.observability.loggers import get_logger
from meshhook.store.messages import job_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from meshhook.encryption.key_ring import KeyRing
    from meshhook.postgres.database import Database
    from meshhook.priorities import AnyPriority, Priority

_log = get_logger("meshhook.application")

HandlerT = TypeVar("HandlerT", bound=QueueHandler[Any])


class PeriodicOptions(SchedulePolicies, total=False):
    """The optional arguments of `App.periodic`, which describes them."""

    every: float | timedelta | None
    tz: str
    key: str | UUID | None
    priority: AnyPriority | None
    headers: Mapping[str, Any] | None
    missed: str
    overlap: str


class PeriodicDeclaration:
    """The decorator that `App.periodic` returns."""

    def __init__(
        self, cron: str | None, name: str | None, payload: Any, options: PeriodicOptions
    ) -> None:
        """Take what the schedule says.

        Raises:
            InvalidSettingError, InvalidJobError: naming the argument.
        """
        self._name = name
        self._payload = {} if payload is None else payload
        # Checked here, so that the error points to the line with the mistake.
        self._make: Callable[[str, str, Priority | None], NewSchedule]
        self._make = lambda queue, found, default: NewSchedule.of(
            queue,
            found,
            cron,
            every=options.get("every"),
            tz=options.get("tz", "UTC"),
            payload=self._payload,
            key=options.get("key"),
            priority=options.get("priority"),
            default_priority=default,
            headers=options.get("headers"),
            missed=options.get("missed", "once"),
            overlap=options.get("overlap", "allow"),
            retry=options.get("retry"),
            expires_in=options.get("expires_in"),
            on_dead_letter=options.get("on_dead_letter"),
        )
        self._make("checked", "checked" if name is None else name, None)

    def __call__(self, handler: HandlerT) -> HandlerT:
        """Give a handler the schedule.

        Raises:
            InvalidHandlerError: if it is not the handler of a queue.
            InvalidSettingError: if it has a schedule of that name, or the name is not a valid one.
            InvalidJobError: if the payload is not what the handler takes.
        """
        if not isinstance(handler, QueueHandler):
            raise InvalidHandlerError(
                f"app.periodic is for the handler of a queue, got {name_of(handler)}: write "
                "@app.periodic(...) above @app.job('orders')"
            )
        function = getattr(handler.function, "__name__", "handler")
        name = function if self._name is None else self._name
        if any(each.name == name for each in handler.schedules):
            raise InvalidSettingError(
                f"queue {handler.queue!r} has a schedule {quoted(name)} already; give each a name: "
                "@app.periodic('0 9 * * *', name='morning')"
            )
        schedule = self._make(handler.queue, name, handler.priority)
        try:
            handler.decoder.check(job_of(self._payload, {}), schedule.message.body)
        except InvalidJobError as error:
            raise InvalidJobError(f"schedule {quoted(name)}: {error}") from error
        handler.schedules.append(schedule)
        return handler


async def store_schedules(
    database: Database,
    handlers: Iterable[QueueHandler[Any]],
    encryption: KeyRing | None = None,
) -> None:
    """Store the schedules of handlers where the database has them not, or otherwise.

    Raises:
        QueueNotFoundError, InvalidJobError, DatabaseError: one is not stored, naming it.
    """
    for handler in handlers:
        for schedule in handler.schedules:
            if await schedule.store(database, encryption):
                _log.info("schedule stored", queue=schedule.queue, schedule=schedule.name)
