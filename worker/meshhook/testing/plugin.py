"""The pytest plugin, whose fixtures give each test a database of its own.

pytest loads this module at every start in environments with the package, so it imports next to
nothing besides pytest. The rest is imported by the first test that uses a database.
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
"""Not MESHHOOK_DATABASE_URL, so that tests do not create databases on an application's server."""

_WORKER_INPUT = "meshhook_testing_directory"
_DIRECTORY: pytest.StashKey[Path] = pytest.StashKey()
_SERVER: pytest.StashKey[SessionServer] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options: the server for tests, and the queues of each database."""
    group = parser.getgroup("meshhook", "MeshHook Queue")
    group.addoption(
        "--meshhook-database-url",
        metavar="URL",
        help="a database of the PostgreSQL server on which tests create and drop their databases: "
        "postgresql://user:password@host:port/database. Default: an embedded server is started "
        f"(also: {URL_VARIABLE}, or meshhook_database_url in the configuration file)",
    )
    parser.addini("meshhook_database_url", "see --meshhook-database-url", default="")
    parser.addini(
        "meshhook_queues", "queues to create in the database of each test", type="args", default=[]
    )


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a process of pytest-xdist the directory of the server that all processes share."""
    node.workerinput[_WORKER_INPUT] = str(_directory_of(node.config))


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Clean up after the session."""
    server = config.stash.get(_SERVER, None)
    if hasattr(config, "workerinput"):
        if server is not None:
            server.leave()
    elif server is not None or (_DIRECTORY in config.stash and config.stash[_DIRECTORY].exists()):
        _server_of(config).end()


@pytest.fixture(scope="session")
def meshhook_databases(pytestconfig: pytest.Config) -> Databases:
    """Creates and drops databases on the server of this session."""
    from meshhook.errors import MeshHookError

    try:
        return _server_of(pytestconfig).databases()
    except MeshHookError as error:
        reason = str(error)
    pytest.fail(
        f"no database for tests: {reason}\nTo use a server of your own: "
        f"--meshhook-database-url, {URL_VARIABLE}, or the setting meshhook_database_url",
        pytrace=False,
    )


@pytest.fixture(scope="session")
def meshhook_prepare() -> Prepare | None:
    """Prepares the database that all others are cloned from; by default there is nothing to do.

    To create your own tables there, define a session fixture of this name that returns an async
    function of an asyncpg connection.
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
    """The database of this test: assert what is enqueued, drain queues, advance time."""
    from meshhook.testing.database import QueueDatabase

    return QueueDatabase(meshhook_database_url)


def _directory_of(config: pytest.Config) -> Path:
    """Return the directory that the processes of the session share; it may not exist yet."""
    if _DIRECTORY not in config.stash:
        given = getattr(config, "workerinput", {}).get(_WORKER_INPUT)
        config.stash[_DIRECTORY] = new_session_directory() if given is None else Path(given)
    return config.stash[_DIRECTORY]


def _server_of(config: pytest.Config) -> SessionServer:
    """Return the server of the session, which may not be running yet."""
    from meshhook.testing.servers import SessionServer

    if _SERVER not in config.stash:
        url = (
            config.getoption("--meshhook-database-url")
            or os.environ.get(URL_VARIABLE)
            or config.getini("meshhook_database_url")
        )
        config.stash[_SERVER] = SessionServer(_directory_of(config), url or None)
    return config.stash[_SERVER]
