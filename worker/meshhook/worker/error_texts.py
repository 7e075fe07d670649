"""The texts of errors: type, message and stack, even of those that cannot be shown."""

from __future__ import annotations

from typing import NamedTuple

from meshhook.observability.redaction import hide_in_text
from meshhook.observability.tracebacks import trace_of
from meshhook.store.settlements import (
    MAX_ERROR_MESSAGE_LENGTH,
    MAX_ERROR_STACK_LENGTH,
    MAX_ERROR_TYPE_LENGTH,
    storable_text,
)

_OWN_MODULES = (
    "meshhook.testing.recording",
    "meshhook.worker.attempt_runner",
    "meshhook.worker.coroutines",
    "meshhook.worker.handler_threads",
    "meshhook.worker.judge",
    "meshhook.worker.retries",
)


class ErrorText(NamedTuple):
    """What is recorded of an exception."""

    error_type: str
    message: str
    stack: str


def error_text(error: BaseException) -> ErrorText:
    """Return what is recorded of an exception, with the worker's secrets hidden."""
    error_type = type_name(error)
    message = shown(error) or error_type
    return ErrorText(
        storable_text(hide_in_text(error_type), MAX_ERROR_TYPE_LENGTH),
        storable_text(hide_in_text(message), MAX_ERROR_MESSAGE_LENGTH),
        storable_text(hide_in_text(stack_of(error)), MAX_ERROR_STACK_LENGTH),
    )


def shown(value: object) -> str:
    """Return a value as text, even if it cannot be shown."""
    # Even showing a handler's exception may fail; its job must be settled all the same.
    try:
        # Only the text if it is a subclass of str.
        return str.__str__(str(value))
    except BaseException:  # noqa: BLE001 - whatever a __str__ raises
        return f"({type_name(value)} that cannot be shown)"


def type_name(value: object) -> str:
    """Return the name of the type of a value, even if it has none."""
    try:
        name = type(value).__qualname__
        return str.__str__(name) or "(a class without a name)"
    except BaseException:  # noqa: BLE001 - a metaclass may have made the name a property
        return "(a class that cannot be named)"


def stack_of(error: BaseException) -> str:
    """Return the stack of an error, without the frames of the worker."""
    try:
        # From the handler on: a reader does not need the worker's own frames.
        tail = error.__traceback__
        while tail is not None and tail.tb_frame.f_globals.get("__name__") in _OWN_MODULES:
            tail = tail.tb_next
        return trace_of(error, tail)
    except BaseException as failure:  # noqa: BLE001 - whatever an exception raises when it is shown
        return f"(the stack cannot be shown: {type_name(failure)})"
