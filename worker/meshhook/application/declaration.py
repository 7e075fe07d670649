"""Declaring handlers: what `App.job` returns, and the handlers that an application has."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, overload

from meshhook.application.queue_handler import QueueHandler
from meshhook.errors import InvalidHandlerError, InvalidSettingError
from meshhook.names import validate_queue_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshhook.jobs import Job, PayloadT


class Handlers:
    """The handlers of an application, one a queue."""

    def __init__(self) -> None:
        """Have none."""
        self.by_queue: dict[str, QueueHandler[Any]] = {}
        """The handlers by the names of their queues, in the order in which they were declared."""

    def add(self, handler: QueueHandler[Any]) -> None:
        """Add a handler.

        Raises:
            InvalidHandlerError: if its queue has one already.
        """
        other = self.by_queue.get(handler.queue)
        if other is not None:
            raise InvalidHandlerError(
                f"queue {handler.queue!r} has a handler already, {other.place}; each queue "
                f"has one, so give {handler.place} a queue of its own"
            )
        self.by_queue[handler.queue] = handler

    def weights(self, queues: Any) -> dict[str, int]:
        """Return the weights of queues by name: those given, or those declared.

        Args:
            queues: which of them: a name, several, or a mapping of names to weights. None: all.

        Raises:
            InvalidHandlerError: if one has no handler, or there are no handlers at all.
            InvalidQueueNameError, InvalidSettingError: if one is no name, or is named twice.
        """
        if not self.by_queue:
            raise InvalidHandlerError(
                "the app has no handlers; declare one with @app.job('orders'), in a module that "
                "is imported before the worker starts"
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


class JobDeclaration:
    """The decorator that `App.job` returns."""

    def __init__(self, handlers: Handlers, make: Callable[..., QueueHandler[Any]]) -> None:
        """Take where to put the handler, and what makes it of a function and local names."""
        self._handlers = handlers
        self._make = make

    @overload
    def __call__(self, function: Callable[[Job[PayloadT]], Any]) -> QueueHandler[PayloadT]: ...
    @overload
    def __call__(self, function: Callable[[PayloadT], Any]) -> QueueHandler[PayloadT]: ...
    def __call__(self, function: Any) -> Any:
        """Declare a function as the queue's handler.

        Raises:
            InvalidHandlerError: naming the function and what is wrong with it.
        """
        frame = inspect.currentframe()
        # Models may be defined in the very function that declares the handler.
        names = {} if frame is None or frame.f_back is None else dict(frame.f_back.f_locals)
        handler = self._make(function=function, names=names)
        self._handlers.add(handler)
        return handler
