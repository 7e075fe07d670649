"""Throw-away servers and databases for tests, as `meshhook.testing` makes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshhook.testing.databases import Databases as DatabasesByUrl
from meshhook.testing.places import server_directory
from meshhook.testing.servers import SERVER_SETTINGS as TEST_SETTINGS

if TYPE_CHECKING:
    from meshhook.embedded import EmbeddedPostgres

__all__ = ["TEST_SETTINGS", "Databases", "server_directory"]


class Databases(DatabasesByUrl):
    """The databases of one embedded server."""

    def __init__(self, server: EmbeddedPostgres) -> None:
        self.server = server
        super().__init__(server.start(), prefix="test_", copies_files=True)
