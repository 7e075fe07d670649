"""Building programs before the first test, since the time of a test is limited."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from support.cluster.programs import ProgramsMissingError, build, missing


def build_if_needed(
    session: pytest.Session,
    names: Sequence[str],
    needs: Callable[[pytest.Item], bool],
    *,
    obstacle: Callable[[], str | None] = lambda: None,
) -> str | None:
    """Build programs if a test of this run needs them; that may take long.

    Args:
        session: the run, at the end of its collection.
        names: the programs.
        needs: whether a test needs them.
        obstacle: asked first, where one does: why its tests cannot run here anyway, or None.

    Returns: why the tests that need them cannot run, or None.
    """
    if session.config.option.collectonly or not any(map(needs, session.items)):
        return None
    if reason := obstacle():
        return reason
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    say: Any = terminal.write_line if terminal is not None else print
    try:
        if missing(names):
            build(names, say=say)
    except ProgramsMissingError as error:
        return str(error)
    return None
