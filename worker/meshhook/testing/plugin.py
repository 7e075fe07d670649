"""The pytest plugin: a database a test, as the fixtures `meshhook_database` and its like.

pytest loads this module at each start where the package is installed, so it imports next to nothing
but pytest; the rest comes with the first test that asks for a database.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from meshhook.testing.places import new_session_directory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meshhook.testing.database import QueueDatabase
    from meshhook.testing.databases import Databases, Prepare
    from meshhook.testing.servers import SessionServer

URL_VARIABLE = "MESHHOOK_TEST_DATABASE_URL"
"""Not MESHHOOK_DATABASE_URL: tests must not make their databases where an application works."""

_WORKER_INPUT = "meshhook_testing_directory"
_DIRECTORY: pytest.StashKey[Path] = pytest.StashKey()
_SERVER: pytest.StashKey[SessionServer] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add where the databases of tests are to be, and the queues that each of them has."""
    group = parser.getgroup("meshhook", "MeshHook Queue")
    group.addoption(
        "--meshhook-database-url",
        metavar="URL",
        help="a PostgreSQL server on which databases for tests may be created and dropped, as "
        "postgresql://user:password@host:port/database; default: an embedded one is started "
        f"(also: {URL_VARIABLE}, or meshhook_database_url in the configuration file)",
    )
    parser.addini("meshhook_database_url", "as the option --meshhook-database-url", default="")
    parser.addini(
        "meshhook_queues", "the queues that the database of each test has", type="args", default=[]
    )


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a process of pytest-xdist where the server is, or will be, that all of them share."""
    node.workerinput[_WORKER_INPUT] = str(_directory_of(node.config))


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop what was started for the session."""
    server = config.stash.get(_SERVER, None)
    if hasattr(config, "workerinput"):
        if server is not None:
            server.leave()
    elif server is not None or (_DIRECTORY in config.stash and config.stash[_DIRECTORY].exists()):
        _server_of(config).end()


@pytest.fixture(scope="session")
def meshhook_databases(pytestconfig: pytest.Config) -> Databases:
    """The server of this session, on which databases can be created and dropped."""
    from meshhook.errors import MeshHookError

    try:
        return _server_of(pytestconfig).databases()
    except MeshHookError as error:
        pytest.fail(
            f"no database for tests: {error}\nIt may be on a server of yours: "
            f"--meshhook-database-url, {URL_VARIABLE}, or the setting meshhook_database_url",
            pytrace=False,
        )


@pytest.fixture(scope="session")
def meshhook_prepare() -> Prepare | None:
    """What is done once to the database that all others are cloned from; nothing by default.

    Define a fixture of this name and of session scope that returns an async function of an asyncpg
    connection, to create your own tables there.
    """
    return None


@pytest.fixture
def meshhook_database_url(
    pytestconfig: pytest.Config, meshhook_databases: Databases, meshhook_prepare: Prepare | None
) -> Iterator[str]:
    """The URL of a migrated database for this test alone, with the queues of `meshhook_queues`."""
    queue_names = pytestconfig.getini("meshhook_queues")
    template = _server_of(pytestconfig).template(queue_names, meshhook_prepare)
    url = meshhook_databases.create(template=template)
    yield url
    meshhook_databases.drop(url)


@pytest.fixture
def meshhook_database(meshhook_database_url: str) -> QueueDatabase:
    """The database of this test: what is in its queues; to drain, to advance, its dead letters."""
    from meshhook.testing.database import QueueDatabase

    return QueueDatabase(meshhook_database_url)


def _directory_of(config: pytest.Config) -> Path:
    """Return the directory that all processes of the session share; it may not be there yet."""
    if _DIRECTORY not in config.stash:
        given = getattr(config, "workerinput", {}).get(_WORKER_INPUT)
        config.stash[_DIRECTORY] = new_session_directory() if given is None else Path(given)
    return config.stash[_DIRECTORY]


def _server_of(config: pytest.Config) -> SessionServer:
    """Return the server of the session; nothing is started yet."""
    from meshhook.testing.servers import SessionServer

    if _SERVER not in config.stash:
        url = (
            config.getoption("--meshhook-database-url")
            or os.environ.get(URL_VARIABLE)
            or config.getini("meshhook_database_url")
        )
        config.stash[_SERVER] = SessionServer(_directory_of(config), url or None)
    return config.stash[_SERVER]
