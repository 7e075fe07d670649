"""Which queues a worker serves, with which handler and weight: checked arguments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from meshhook.errors import InvalidHandlerError, InvalidSettingError
from meshhook.escaping import quoted
from meshhook.names import DEFAULT_QUEUE_NAME, validate_queue_name
from meshhook.worker.handlers import JobHandler

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshhook.worker.batch_options import BatchOptions

MAX_QUEUES = 100
MAX_WEIGHT = 1_000


class Assignment(NamedTuple):
    """One queue of a worker."""

    queue_name: str
    weight: int
    """Its part of the worker's slots, relative to the other queues."""
    handler: JobHandler[Any]


def assignments(queues: Any, handler: Any, batch: BatchOptions | None = None) -> list[Assignment]:
    """Return the queues that a worker serves.

    Args:
        queues: a queue's name, several names, or a mapping of names to weights.
        handler: the handler of all queues, or a mapping of every queue's name to its handler.
        batch: how jobs are put together for handlers that are functions. Default: not at all.

    Raises:
        InvalidQueueNameError, InvalidHandlerError, InvalidSettingError: naming what is wrong.
    """
    if handler is None:
        raise InvalidHandlerError(_no_handler(queues))
    weights = _weights(queues)
    if isinstance(handler, Mapping):
        missing = sorted(set(weights) - set(handler))
        if missing:
            raise InvalidHandlerError(f"queue {quoted(missing[0])} has no handler")
        unknown = sorted(map(str, set(handler) - set(weights)))
        if unknown:
            raise InvalidHandlerError(
                f"there is a handler of {quoted(unknown[0])}, which is none of the worker's "
                "queues: " + ", ".join(weights)
            )
        handlers = {name: _handler(each, batch) for name, each in handler.items()}
    else:
        handlers = dict.fromkeys(weights, _handler(handler, batch))
    return [Assignment(name, weight, handlers[name]) for name, weight in weights.items()]


def _weights(queues: Any) -> dict[str, int]:
    if isinstance(queues, Mapping):
        weights = {validate_queue_name(name): _weight(name, each) for name, each in queues.items()}
    elif isinstance(queues, Iterable) and not isinstance(queues, str):
        names: Sequence[str] = [validate_queue_name(name) for name in queues]
        weights = dict.fromkeys(names, 1)
        if len(weights) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise InvalidSettingError(f"queue {quoted(twice)} is named twice")
    else:
        weights = {validate_queue_name(queues): 1}
    if not 1 <= len(weights) <= MAX_QUEUES:
        raise InvalidSettingError(f"a worker has 1 to {MAX_QUEUES} queues, got {len(weights)}")
    return weights


def _weight(name: str, weight: Any) -> int:
    if isinstance(weight, bool) or not isinstance(weight, int) or not 1 <= weight <= MAX_WEIGHT:
        raise InvalidSettingError(
            f"the weight of queue {quoted(name)} is a whole number from 1 to {MAX_WEIGHT}, "
            f"got {quoted(weight)}"
        )
    return weight


def _no_handler(queues: Any) -> str:
    if callable(queues) or isinstance(queues, JobHandler):
        return (
            "a worker's second argument is its queues, got a handler; name the handler to work on "
            f"queue {DEFAULT_QUEUE_NAME!r}: Worker(database_url, handler=...)"
        )
    return "a worker needs a handler, a function of one job: Worker(database_url, handler=...)"


def _handler(handler: Any, batch: BatchOptions | None) -> JobHandler[Any]:
    if isinstance(handler, JobHandler):
        if batch is not None:
            raise InvalidHandlerError(
                f"handler {getattr(handler, '__qualname__', handler)} says itself what it takes; "
                "leave batch out, and write it there: "
                f"@create_job_handler(batch={batch.jobs})"
            )
        return handler
    if not callable(handler):
        raise InvalidHandlerError(f"a handler is a function of one job, got {quoted(handler)}")
    return JobHandler(handler, batch=batch)
