"""The embedded PostgreSQL as commands use it, when their start is cut short."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from meshhook.cli.embedded_use import embedded_database
from meshhook.embedded import EmbeddedPostgres
from support.databases import server_directory


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory for a server, which is stopped at the end."""
    with server_directory(in_memory=True) as parent:
        yield parent / "meshhook"
        EmbeddedPostgres(parent / "meshhook").stop()


def interrupted(*_: object) -> None:
    """Do as Ctrl-C."""
    raise KeyboardInterrupt


def test_a_start_that_is_interrupted_leaves_no_server_behind(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody would know that it was a command that began it, and it would run for ever."""
    monkeypatch.setattr(EmbeddedPostgres, "_create_database", interrupted)
    with pytest.raises(KeyboardInterrupt), embedded_database(directory):
        pytest.fail("the database was used")
    assert EmbeddedPostgres(directory).pid is None


def test_a_server_that_ran_before_stays(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is somebody else's."""
    server = EmbeddedPostgres(directory)
    server.start()
    monkeypatch.setattr(EmbeddedPostgres, "_create_database", interrupted)
    with pytest.raises(KeyboardInterrupt), embedded_database(directory):
        pytest.fail("the database was used")
    assert server.pid is not None
