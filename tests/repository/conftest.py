"""Fixtures for tests of the files that a host of the repository reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.cluster.programs import ProgramsMissingError, build
from support.skipping import skip


@pytest.fixture(scope="session")
def actionlint() -> Path:
    """The program that checks workflows; it takes some seconds to build, once."""
    try:
        return build(["actionlint"], say=print)["actionlint"]
    except ProgramsMissingError as error:
        skip(str(error))
