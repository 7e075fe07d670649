"""What is stopped after the last test of a folder."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from support.last_tests import stop_unused, until_last_test

FOLDER = Path("/tests/cluster")


@pytest.fixture
def config() -> Any:
    """A run of pytest, of which only the stash counts."""
    return SimpleNamespace(stash=pytest.Stash())


@pytest.mark.parametrize("next_path", [None, Path("/tests/e2e/test_it.py")])
def test_it_stops_before_the_test_of_another_folder(config: Any, next_path: Path | None) -> None:
    """It also stops where no test follows, and only once."""
    stopped: list[str] = []
    with until_last_test(config, FOLDER) as stack:
        stack.callback(stopped.append, "stopped")
        stop_unused(config, FOLDER / "test_next.py")
        assert stopped == []
        stop_unused(config, next_path)
        assert stopped == ["stopped"]
    assert stopped == ["stopped"]


def test_without_such_a_test_nothing_stops(config: Any) -> None:
    """Most runs have none."""
    stop_unused(config, None)
