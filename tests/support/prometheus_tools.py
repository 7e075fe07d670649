"""Finds prometheus and promtool, which come with Debian's package `prometheus`."""

from __future__ import annotations

import shutil

from support.skipping import skip


def tool(name: str) -> str:
    """Return the path of `prometheus` or `promtool`.

    Without it the test is skipped.
    """
    found = shutil.which(name)
    if not found:
        skip(f"{name} was not found; on Debian: apt-get install --no-install-recommends prometheus")
    return found
