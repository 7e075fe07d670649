"""Running an application as a program: `meshhook worker` for an app of this process."""

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
    """Run queues of an app until a signal.

    Args:
        app: the app.
        weights: the weights of the queues by name.
        options: options of the command, without dashes; None means the default.

    Raises:
        SystemExit: with the exit code of the command, unless it is 0.
        InvalidSettingError: inside an event loop, or outside the main thread.
    """
    _check_may_run()
    arguments = [f"{name}:{weight}" for name, weight in weights.items()]
    arguments += [f"--{name}={value}" for name, value in options.items() if value is not None]
    # Programs that only enqueue need not load the command line.
    from meshhook.cli import run_application  # noqa: PLC0415

    code = run_application(app, arguments)
    if code:
        sys.exit(code)


def _check_may_run() -> None:
    if threading.current_thread() is not threading.main_thread():
        raise InvalidSettingError(
            "app.run() handles signals, so it only works in the main thread; elsewhere use "
            "`async with app.workers():`"
        )
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise InvalidSettingError(
        "app.run() starts its own event loop; inside an event loop use `async with app.workers():`"
    )
