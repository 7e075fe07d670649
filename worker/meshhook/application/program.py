"""An application as a program of its own: what `meshhook worker` does, for an app that is here."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import TYPE_CHECKING

from meshhook.errors import InvalidSettingError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meshhook.application.app import App


def run_as_program(app: App, weights: Mapping[str, int], options: Mapping[str, object]) -> None:
    """Work on queues of an app until a signal.

    Args:
        app: the app.
        weights: the weights of the queues by name.
        options: of the command, without their dashes; None stands for its default.

    Raises:
        SystemExit: with the exit code of the command, unless that is 0.
        InvalidSettingError: inside of an event loop, or outside of the main thread.
    """
    _check_may_run()
    arguments = [f"{name}:{weight}" for name, weight in weights.items()]
    arguments += [f"--{name}={value}" for name, value in options.items() if value is not None]
    # A program that only enqueues has no use for the command line.
    from meshhook.cli import run_application  # noqa: PLC0415

    code = run_application(app, arguments)
    if code:
        sys.exit(code)


def _check_may_run() -> None:
    if threading.current_thread() is not threading.main_thread():
        raise InvalidSettingError(
            "app.run() handles signals, in the main thread alone; in another one use "
            "`async with app.workers():`"
        )
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise InvalidSettingError(
        "app.run() runs an event loop of its own; inside of one use `async with app.workers():`"
    )
