"""The queues and handlers that `meshhook worker` is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from meshhook.cli.applications import Application
from meshhook.cli.failures import UsageError
from meshhook.cli.handler_loader import load_handler
from meshhook.errors import InvalidSettingError
from meshhook.names import DEFAULT_QUEUE_NAME, validate_queue_name
from meshhook.worker.batch_options import checked_batch


def queue_weights(given: Sequence[str]) -> dict[str, int | None]:
    """Return the named queues, each with its weight, or None if none is given.

    Args:
        given: NAME or NAME:WEIGHT, the command's arguments and its options `--queue`.

    Raises:
        UsageError: if a queue is named twice.
        InvalidQueueNameError: if no queue can have a name.
        InvalidSettingError: if a weight is not a number.
    """
    weights: dict[str, int | None] = {}
    for each in given:
        name, colon, weight = each.partition(":")
        validate_queue_name(name)
        if name in weights:
            raise UsageError(f"queue {name!r} is named twice")
        if colon and not (weight.isascii() and weight.isdigit()):
            raise InvalidSettingError(f"queue {each}: a weight is a whole number, as in {name}:3")
        weights[name] = int(weight) if colon else None
    return weights


def check_sources(application: str | None, handlers: Sequence[str]) -> None:
    """Check that there is either an app or a handler.

    Raises:
        UsageError: if there is neither, or both.
    """
    if application is not None and handlers:
        raise UsageError("--app brings its own handlers; leave out --handler, or --app")
    if application is None and not handlers:
        raise UsageError(
            "say what runs the jobs: --app MODULE:APP, or --handler MODULE:FUNCTION\n"
            "see: meshhook worker --help"
        )


def batch_options(
    batch: int | None, wait_seconds: float | None, *, has_app: bool
) -> dict[str, Any]:
    """Return the arguments of a worker that say how jobs are put together.

    Args:
        batch: the option `--batch`.
        wait_seconds: the option `--batch-wait-seconds`.
        has_app: whether an app declares the handlers.

    Raises:
        UsageError: if there is an app: its handlers say it themselves.
        InvalidSettingError: if an option is out of range, or waits without batches.
    """
    if batch is None and wait_seconds is None:
        return {}
    if has_app:
        raise UsageError(
            "an app's handlers say themselves how many jobs they take: @app.job(queue, batch=100); "
            "leave out --batch and --batch-wait-seconds"
        )
    checked_batch(batch, wait_seconds)
    return {"batch": batch, "batch_wait_seconds": wait_seconds}


def queues_of(app: Application | None, weights: Mapping[str, int | None]) -> dict[str, int]:
    """Return the queues to work on, with their weights.

    Args:
        app: the app whose queues they are, with weights of their own.
        weights: the named queues; empty means all of the app, or else `workflow_jobs`.

    Raises:
        InvalidHandlerError: if the app has no such queue, naming those that it has.
    """
    if app is None:
        declared = dict.fromkeys(weights or [DEFAULT_QUEUE_NAME], 1)
    else:
        declared = app.weights(list(weights) or None)
    given = {name: weight for name, weight in weights.items() if weight is not None}
    return declared | given


def queue_handlers(names: Sequence[str], options: Sequence[str]) -> dict[str, Any]:
    """Import the handler of each queue.

    Args:
        names: the queues.
        options: `module:function` for all queues, `queue=module:function` for one of them.

    Raises:
        UsageError: if a queue has no handler, or two, or is not among the queues.
        InvalidHandlerError: naming what was not found and what is there.
    """
    targets: dict[str, str] = {}
    for each in options:
        name, equals, target = each.rpartition("=")
        if equals and name not in names:
            raise UsageError(f"--handler {each}: the worker has no queue {name!r}")
        if name in targets:
            whose = f"queue {name!r}" if name else "every queue"
            raise UsageError(f"--handler {each}: {whose} already has one")
        targets[name] = target
    missing = [name for name in names if name not in targets and "" not in targets]
    if missing:
        raise UsageError(f"queue {missing[0]!r} has no --handler")
    # Each module is imported once, even if several queues share its handler.
    loaded = {target: load_handler(target) for target in dict.fromkeys(targets.values())}
    return {name: loaded[targets.get(name, targets.get("", ""))] for name in names}
