"""Servers, forks and fleets for the tests of chaos."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from support.chaos.fleet import Fleet, MakeFleet
from support.chaos.processes import Forks
from support.chaos.servers import (
    EFFECTS,
    MakeServer,
    Server,
    ServerTemplate,
    debian_programs,
    embedded_programs,
)
from support.chaos.window import Window
from support.databases import server_directory
from support.proxy import Proxy


@pytest.fixture(scope="session")
def chaos_folder() -> Iterator[Path]:
    """Where servers have their data: in memory, if there is room."""
    with server_directory(in_memory=True) as folder:
        yield folder


@pytest.fixture(scope="session")
def server_template(chaos_folder: Path) -> ServerTemplate:
    """A migrated server of the embedded PostgreSQL, to copy."""
    return ServerTemplate(embedded_programs(), chaos_folder / "embedded").make()


@pytest.fixture(scope="session")
def debian_template(chaos_folder: Path) -> Callable[[], ServerTemplate]:
    """Returns a migrated server of Debian's PostgreSQL to copy, made at the first call."""
    return cache(lambda: ServerTemplate(debian_programs(), chaos_folder / "debian").make())


@pytest.fixture
def make_server(server_template: ServerTemplate) -> Iterator[MakeServer]:
    """Makes servers that run until the test ends; arguments are settings of PostgreSQL."""
    made: list[Server] = []

    def make(**settings: str) -> Server:
        made.append(server_template.server(settings=settings))
        return made[-1].start()

    yield make
    for server in made:
        server_template.remove(server)


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """Starts processes that have everything imported."""
    forks = Forks()
    yield forks
    forks.close()


@pytest.fixture
def fleets() -> list[Fleet]:
    """The fleets that the test has made."""
    return []


@pytest.fixture
def make_fleet(forks: Forks, tmp_path: Path, fleets: list[Fleet]) -> MakeFleet:
    """Makes fleets, which are there within a `with`."""

    def make(server: Server, **options: Any) -> Fleet:
        fleets.append(Fleet(server, forks, tmp_path / f"fleet-{len(fleets)}", **options))
        return fleets[-1]

    return make


@pytest.fixture
async def window(
    database_url: str,
    connection: asyncpg.Connection[Any],
    queue_name: str,
    tmp_path: Path,
) -> Window:
    """A window on queue `jobs` with leases of four seconds; only what is noted in it counts."""
    folder = tmp_path / "ledger"
    folder.mkdir()
    window = Window(database_url, connection, folder, queue_name)
    await connection.execute(EFFECTS)
    await window.set_queue(
        visibility_timeout_seconds=4, retry_backoff_base_ms=10, retry_backoff_max_ms=100
    )
    return window


@pytest.fixture
def proxy(database_url: str) -> Iterator[Proxy]:
    """A proxy before `database_url`; it trusts nobody, and passes the password on."""
    with Proxy(database_url) as proxy:
        yield proxy


@pytest.fixture
def proxied_url(database_url: str, proxy: Proxy) -> str:
    """The URL of `database_url` behind the proxy."""
    return proxy.through(database_url)
