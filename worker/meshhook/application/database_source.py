"""The database of an application: a URL, the environment, or something the caller opened."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from meshhook.arguments import check_range
from meshhook.errors import InvalidSettingError
from meshhook.postgres.database import Database
from meshhook.postgres.url import parse_database_url

if TYPE_CHECKING:
    from meshhook.postgres.database import DatabaseSource

MAX_POOL_SIZE = 1_000


@dataclass(frozen=True, slots=True)
class DatabaseAddress:
    """How to reach a database."""

    url: str = field(repr=False)
    pooled: bool
    listen_url: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class AppDatabase:
    """The database that an application was created with."""

    source: str | DatabaseSource | None = field(repr=False)
    """A URL, pool, connection or Database; None means that the environment names it."""
    pooled: bool | None = None
    listen_url: str | None = field(default=None, repr=False)
    pool_size: int = 4

    def __post_init__(self) -> None:
        """Check the arguments, without opening anything.

        Raises:
            InvalidSettingError: naming the argument.
        """
        check_range("pool_size", self.pool_size, MAX_POOL_SIZE)
        for url in (self.source, self.listen_url):
            if isinstance(url, str):
                parse_database_url(url)
        if self.source is not None and not isinstance(self.source, str):
            Database(self.source)
            if self.pooled is not None or self.listen_url is not None:
                raise InvalidSettingError(
                    "pooled and listen_url go with a URL, not with a pool or connection"
                )

    @property
    def is_of_environment(self) -> bool:
        """Whether the environment names the database."""
        return self.source is None

    def address(self) -> DatabaseAddress:
        """Return the URL, to open connections with.

        Raises:
            InvalidSettingError: if the environment names none, or if the caller opened it.
        """
        if isinstance(self.source, str):
            return DatabaseAddress(self.source, bool(self.pooled), self.listen_url)
        if self.source is not None:
            raise InvalidSettingError(
                "a worker opens its own connections, so it needs the database's URL; this app was "
                "created with a pool or connection: App('postgresql://user:password@host/name')"
            )
        return self._of_environment()

    async def connect(self) -> Database:
        """Open the database; connections are opened when they are needed.

        Raises:
            InvalidSettingError: if the environment names no database.
        """
        if self.source is not None and not isinstance(self.source, str):
            return Database(self.source)
        address = self.address()
        return await Database.connect(
            address.url, min_size=0, max_size=self.pool_size, pooled=address.pooled
        )

    def _of_environment(self) -> DatabaseAddress:
        # Programs that pass a URL need not load the library that reads the environment.
        from meshhook.environment import load_settings  # noqa: PLC0415

        settings = load_settings()
        url = _text(settings.database_url)
        if url is None:
            raise InvalidSettingError(
                "the app has no database: set MESHHOOK_DATABASE_URL, or pass a URL: "
                "App('postgresql://user:password@host:5432/name')"
            )
        return DatabaseAddress(
            url,
            settings.pooled if self.pooled is None else self.pooled,
            self.listen_url or _text(settings.listen_url),
        )


def _text(secret: Any) -> str | None:
    return None if secret is None else secret.get_secret_value().strip() or None
