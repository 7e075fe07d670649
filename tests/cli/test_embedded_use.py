"""The embedded PostgreSQL of commands whose start is interrupted."""

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
    """Raise KeyboardInterrupt, as Ctrl-C does."""
    raise KeyboardInterrupt


def test_a_start_that_is_interrupted_leaves_no_server_behind(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the server would run on, and no command would ever stop it."""
    monkeypatch.setattr(EmbeddedPostgres, "_create_database", interrupted)
    with pytest.raises(KeyboardInterrupt), embedded_database(directory):
        pytest.fail("the database was used")
    assert EmbeddedPostgres(directory).pid is None


def test_a_server_that_ran_before_stays(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that another program started keeps running."""
    server = EmbeddedPostgres(directory)
    server.start()
    monkeypatch.setattr(EmbeddedPostgres, "_create_database", interrupted)
    with pytest.raises(KeyboardInterrupt), embedded_database(directory):
        pytest.fail("the database was used")
    assert server.pid is not None
