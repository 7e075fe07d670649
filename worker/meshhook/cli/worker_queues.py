"""The queues and handlers that `meshhook worker` is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from meshhook.cli.failures import UsageError
from meshhook.cli.handler_loader import load_handler
from meshhook.errors import InvalidSettingError
from meshhook.names import DEFAULT_QUEUE_NAME, validate_queue_name


def queue_weights(argument: str | None, options: Sequence[str]) -> dict[str, int]:
    """Return the weights of the queues, by name; of `workflow_jobs` if none is given.

    Args:
        argument: the queue given as the command's argument.
        options: those given as `--queue NAME` or `--queue NAME:WEIGHT`.

    Raises:
        UsageError: if a name stands there twice.
        InvalidQueueNameError: if no queue may have a name.
        InvalidSettingError: if a weight is not a number.
    """
    given = [*([] if argument is None else [argument]), *options] or [DEFAULT_QUEUE_NAME]
    weights: dict[str, int] = {}
    for each in given:
        name, colon, weight = each.partition(":")
        validate_queue_name(name)
        if name in weights:
            raise UsageError(f"queue {name!r} is named twice")
        if colon and not (weight.isascii() and weight.isdigit()):
            raise InvalidSettingError(
                f"--queue {each}: a weight is a whole number, as in --queue {name}:3"
            )
        weights[name] = int(weight) if colon else 1
    return weights


def queue_handlers(names: Sequence[str], options: Sequence[str]) -> dict[str, Any]:
    """Import the handler of each queue.

    Args:
        names: the queues.
        options: `module:function` for all queues, `queue=module:function` for one of them.

    Raises:
        UsageError: if a queue has none, or two, or is none of these.
        InvalidHandlerError: naming what was not found and what is there.
    """
    targets: dict[str, str] = {}
    for each in options:
        name, equals, target = each.rpartition("=")
        if equals and name not in names:
            raise UsageError(f"--handler {each}: the worker has no queue {name!r}")
        if name in targets:
            whose = f"queue {name!r}" if name else "every queue"
            raise UsageError(f"--handler {each}: {whose} has one already")
        targets[name] = target
    missing = [name for name in names if name not in targets and "" not in targets]
    if missing:
        raise UsageError(f"queue {missing[0]!r} has no --handler")
    # Each module is imported once, also where several queues share its handler.
    loaded = {target: load_handler(target) for target in dict.fromkeys(targets.values())}
    return {name: loaded[targets.get(name, targets.get("", ""))] for name in names}
