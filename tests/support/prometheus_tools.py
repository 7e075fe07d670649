"""Finds prometheus and promtool, which come with Debian's package `prometheus`."""

from __future__ import annotations

import os
import shutil

import pytest


def tool(name: str) -> str:
    """Return the path of `prometheus` or `promtool`.

    Without it the test is skipped; where the environment says that this is CI, it fails.
    """
    found = shutil.which(name)
    if found:
        return found
    message = f"{name} was not found; on Debian: apt-get install --no-install-recommends prometheus"
    if os.environ.get("CI", "false").lower() not in {"", "0", "false"}:
        pytest.fail(message)
    pytest.skip(message)
