"""What a handler takes, read from the annotation of its argument."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

from meshhook.errors import InvalidHandlerError
from meshhook.jobs import Job

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


_EXAMPLES = {
    False: "write `job: Job[Order]` for a model Order, or `job: Job` for any JSON",
    True: "write `jobs: list[Job[Order]]` for a model Order, or `jobs: list[Job]` for any JSON",
}
"""What to write, by whether it is a handler of batches."""


class HandlerArgument(NamedTuple):
    """The argument that a handler is called with."""

    model: Any
    """The type of the payload; Any for plain JSON."""
    is_job: bool
    """Whether it is the job, or a list of jobs; otherwise it is their payload."""


def handler_argument(
    function: Callable[..., Any],
    payload_model: Any,
    names: Mapping[str, Any],
    *,
    is_batch: bool = False,
) -> HandlerArgument:
    """Return what a handler takes.

    Args:
        function: the handler, which can be called with one argument.
        payload_model: the type of the payload, if the annotation does not give it.
        names: the local names at the place of the declaration, to resolve annotations.
        is_batch: whether it takes a list of them. Default false.

    Raises:
        InvalidHandlerError: if the annotation is missing, cannot be resolved, or contradicts
            `payload_model`.
    """
    name = name_of(function)
    annotation = _annotation(function, names)
    if is_batch and annotation is not inspect.Parameter.empty:
        annotation = _item(annotation, name)
    elif not is_batch and _is_list_of_jobs(annotation):
        raise InvalidHandlerError(
            f"handler {name}: it takes a list of jobs; say how many: @app.job(queue, batch=100)"
        )
    if payload_model is not None:
        found = _argument(annotation) if annotation is not inspect.Parameter.empty else None
        if found is not None and not (found.is_job and found.model in (Any, payload_model)):
            raise InvalidHandlerError(
                f"handler {name}: its argument is annotated with {shown_type(annotation)}, and "
                f"payload_model is {shown_type(payload_model)}; leave payload_model out"
            )
        return HandlerArgument(payload_model, is_job=True)
    if annotation is inspect.Parameter.empty:
        raise InvalidHandlerError(
            f"handler {name}: its argument has no annotation, so the payload's type is not known; "
            + _EXAMPLES[is_batch]
        )
    if annotation in (Any, object):
        raise InvalidHandlerError(
            f"handler {name}: its argument is annotated with {shown_type(annotation)}; write "
            "`job: Job` to take the job, or the type of the payload to take the payload alone"
        )
    return _argument(annotation)


def _item(annotation: Any, name: str) -> Any:
    """Return the type of the items of the list that a handler of batches takes."""
    bare = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    if bare in (list, Sequence):
        return Job  # of any JSON
    if get_origin(bare) not in (list, Sequence):
        raise InvalidHandlerError(
            f"handler {name}: with batch it takes a list, and its argument is annotated with "
            f"{shown_type(annotation)}; write `jobs: list[Job[Order]]` for a model Order, or "
            "`orders: list[Order]`"
        )
    return get_args(bare)[0]


def _is_list_of_jobs(annotation: Any) -> bool:
    if get_origin(annotation) not in (list, Sequence):
        return False
    item = get_args(annotation)[0]
    return item is Job or get_origin(item) is Job


def name_of(function: Any) -> str:
    """Return what to call a handler in an error."""
    return str(getattr(function, "__qualname__", repr(function)))


def shown_type(annotation: Any) -> str:
    """Return a type as an error shows it."""
    return annotation.__name__ if type(annotation) is type else str(annotation)


def _argument(annotation: Any) -> HandlerArgument:
    bare = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    if bare is Job:
        return HandlerArgument(Any, is_job=True)
    if get_origin(bare) is Job:
        return HandlerArgument(get_args(bare)[0], is_job=True)
    return HandlerArgument(annotation, is_job=False)


def _annotation(function: Callable[..., Any], names: Mapping[str, Any]) -> Any:
    """Return the annotation of the first argument, with its names resolved.

    Other annotations, such as the return type's, are not resolved: their types may be imported only
    for type checkers.
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())
        annotation = parameters[0].annotation
    except (ValueError, IndexError):  # a built-in function without a signature
        return inspect.Parameter.empty
    except NameError as error:
        raise _unreadable(function, error) from None
    if annotation is inspect.Parameter.empty:
        return annotation

    def stand_in() -> None: ...

    stand_in.__annotations__ = {"argument": annotation}
    try:
        hints = get_type_hints(stand_in, _globals_of(function), dict(names), include_extras=True)
    except (NameError, SyntaxError, TypeError, AttributeError) as error:
        raise _unreadable(function, error) from None
    return hints["argument"]


def _globals_of(function: Any) -> dict[str, Any]:
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function)
    if not hasattr(function, "__globals__"):
        function = getattr(type(function), "__call__", function)  # noqa: B004 - an object's own
    return dict(getattr(function, "__globals__", {}))


def _unreadable(function: Callable[..., Any], error: Exception) -> InvalidHandlerError:
    return InvalidHandlerError(
        f"handler {name_of(function)}: the annotation of its argument cannot be read: {error}; "
        "import the model where the program runs, not under TYPE_CHECKING, or name it with "
        "payload_model="
    )
