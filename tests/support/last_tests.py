"""What is stopped after the last test of a folder, as it would slow down the tests of others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

_STACKS = pytest.StashKey[dict[Path, ExitStack]]()


@contextmanager
def until_last_test(config: pytest.Config, folder: Path) -> Iterator[ExitStack]:
    """Yield what closes after the last test of a folder, and not only at the end of the block."""
    with ExitStack() as stack:
        config.stash.setdefault(_STACKS, {})[folder] = stack
        yield stack


def stop_unused(config: pytest.Config, next_path: Path | None) -> None:
    """Close what belongs to other folders than that of the next test; all, where none follows."""
    for folder, stack in config.stash.get(_STACKS, {}).items():
        if next_path is None or folder not in next_path.parents:
            stack.close()
