"""Roles of least privilege that log in, made for a test and dropped after it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote, urlsplit

from meshhook.postgres.database import Database
from meshhook.roles import Login, create_role, default_role_name, quoted_identifier

if TYPE_CHECKING:
    import asyncpg

    from meshhook.role_kinds import RoleKind

PASSWORD = "secret"


class Roles:
    """Makes roles in a database, and drops them with what they own."""

    def __init__(self, database_url: str, connection: asyncpg.Connection[Any]) -> None:
        self._url = database_url
        self._connection = connection
        self._names: list[str] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for name in self._names:
            quoted = quoted_identifier(name)
            await self._connection.execute(f"drop owned by {quoted} cascade; drop role {quoted}")

    async def make(self, kind: RoleKind, *queues: str, name: str | None = None) -> str:
        """Make a role that logs in, and return its name."""
        name = name or default_role_name(kind, queues)
        if name not in self._names:
            self._names.append(name)
        login = Login(name, PASSWORD)
        await create_role(Database(self._connection), kind, queues=queues, login=login)
        return name

    def url(self, name: str) -> str:
        """Return the URL that a role logs in with."""
        return url_of(self._url, name, PASSWORD)


def url_of(database_url: str, user: str, password: str) -> str:
    """Return the URL of a database with another login."""
    parts = urlsplit(database_url)
    login = f"{quote(user, safe='')}:{quote(password, safe='')}"
    return f"postgresql://{login}@{parts.hostname}:{parts.port}{parts.path}"
