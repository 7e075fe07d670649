"""Finds prometheus and promtool, which come with Debian's package `prometheus`."""

from __future__ import annotations

import os
import shutil

import pytest


def tool(name: str) -> str:
    """Return the path of `prometheus` or `promtool`.

    Without it the test is skipped; it fails where MESHHOOK_REQUIRE_PROMETHEUS is set, as in the
    check of a commit.
    """
    found = shutil.which(name)
    if found:
        return found
    message = f"{name} was not found; on Debian: apt-get install --no-install-recommends prometheus"
    if os.environ.get("MESHHOOK_REQUIRE_PROMETHEUS"):
        pytest.fail(message)
    pytest.skip(message)
