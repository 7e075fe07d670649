"""The console: a web application that shows what failed and why, and mends and replays it.

It needs the extra `console`. `meshhook console` serves it; `console_app` returns it to be mounted.
"""

from meshhook.console.app import console_app
from meshhook.console.settings import ConsoleSettings

__all__ = ["ConsoleSettings", "console_app"]
