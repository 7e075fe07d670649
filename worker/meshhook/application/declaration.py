"""Declaring handlers: the decorator that `App.job` returns, and the handlers of an application."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, overload

from meshhook.application.queue_handler import QueueHandler
from meshhook.errors import InvalidHandlerError, InvalidSettingError
from meshhook.names import validate_queue_name

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from meshhook.jobs import Job, PayloadT


class Handlers:
    """The handlers of an application, one per queue."""

    def __init__(self) -> None:
        """Start with none."""
        self.by_queue: dict[str, QueueHandler[Any]] = {}
        """The handlers by queue, in the order of their declaration."""
        self._follow_ups: dict[str, str] = {}

    def add(self, handler: QueueHandler[Any]) -> None:
        """Add a handler.

        Raises:
            InvalidHandlerError: if its queue already has one.
        """
        other = self.by_queue.get(handler.queue)
        if other is not None:
            raise InvalidHandlerError(
                f"queue {handler.queue!r} already has a handler, {other.place}; a queue has only "
                f"one, so give {handler.place} another queue"
            )
        self.by_queue[handler.queue] = handler
        if handler.queue in self._follow_ups:
            handler.settings["dead_letter_follow_up"] = self._follow_ups[handler.queue]

    def follow_dead_letters(self, queue: str, follow_up: str) -> None:
        """Let jobs in the queue `follow_up` follow dead letters of `queue`, when that is created.

        Raises:
            InvalidSettingError: if another queue follows them.
        """
        other = self._follow_ups.setdefault(queue, follow_up)
        if other != follow_up:
            raise InvalidSettingError(
                f"dead letters of queue {queue!r} are followed in queue {other!r} already"
            )
        if queue in self.by_queue:
            self.by_queue[queue].settings["dead_letter_follow_up"] = follow_up

    def weights(self, queues: Any) -> dict[str, int]:
        """Return the weight of each queue: the given one, or else the declared one.

        Args:
            queues: some of the queues: a name, several names, or a mapping of names to weights.
                None means all.

        Raises:
            InvalidHandlerError: if a queue has no handler, or there are no handlers.
            InvalidQueueNameError, InvalidSettingError: if a name is not valid, or is named twice.
        """
        if not self.by_queue:
            raise InvalidHandlerError(
                "the app has no handlers; declare one with @app.job('orders'), and import its "
                "module before the worker starts"
            )
        if queues is None:
            return {name: handler.weight for name, handler in self.by_queue.items()}
        is_several = isinstance(queues, Iterable) and not isinstance(queues, str)
        names = list(queues) if is_several else [queues]
        for name in names:
            if validate_queue_name(name) not in self.by_queue:
                raise InvalidHandlerError(
                    f"the app has no handler of queue {name!r}; it has: {', '.join(self.by_queue)}"
                )
            if names.count(name) > 1:
                raise InvalidSettingError(f"queue {name!r} is named twice")
        if isinstance(queues, Mapping):
            return dict(queues)
        return {name: self.by_queue[name].weight for name in names}


class _Declaration:
    """A decorator that adds a handler."""

    def __init__(self, handlers: Handlers, make: Callable[..., QueueHandler[Any]]) -> None:
        """Take the handlers to add to, and a factory that takes a function and local names."""
        self._handlers = handlers
        self._make = make

    def _declare(self, function: Any, frame: FrameType | None) -> Any:
        # Models may be local to the function in which the handler is declared.
        names = {} if frame is None or frame.f_back is None else dict(frame.f_back.f_locals)
        handler = self._make(function=function, names=names)
        self._handlers.add(handler)
        return handler


class JobDeclaration(_Declaration):
    """The decorator that `App.job` returns."""

    @overload
    def __call__(self, function: Callable[[Job[PayloadT]], Any]) -> QueueHandler[PayloadT]: ...
    @overload
    def __call__(self, function: Callable[[PayloadT], Any]) -> QueueHandler[PayloadT]: ...
    def __call__(self, function: Any) -> Any:
        """Declare a function as the queue's handler.

        Raises:
            InvalidHandlerError: naming the function and what is wrong with it.
        """
        return self._declare(function, inspect.currentframe())


class BatchDeclaration(_Declaration):
    """The decorator that `App.job` returns for a handler of batches."""

    @overload
    def __call__(
        self, function: Callable[[list[Job[PayloadT]]], Any]
    ) -> QueueHandler[PayloadT]: ...
    @overload
    def __call__(self, function: Callable[[list[PayloadT]], Any]) -> QueueHandler[PayloadT]: ...
    def __call__(self, function: Any) -> Any:
        """Declare a function of a list of jobs as the queue's handler.

        Raises:
            InvalidHandlerError: naming the function and what is wrong with it.
        """
        return self._declare(function, inspect.currentframe())
