"""From a command to its database: which one it is, and whether it can be used."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, field
from ssl import SSLError
from typing import TypeVar

import typer

from meshhook.actors import Source, acting_as, process_actor
from meshhook.cli.failures import (
    DatabaseNotOpenedError,
    DatabaseNotSetError,
    InvalidDatabaseUrlError,
)
from meshhook.cli.interrupts import clean_up_first
from meshhook.cli.options import program_options
from meshhook.environment import Settings, load_settings
from meshhook.errors import (
    DatabaseError,
    InvalidSettingError,
    SchemaMissingError,
    UnsupportedPgmqError,
    WrongSchemeError,
)
from meshhook.postgres.database import Database
from meshhook.postgres.url import parse_database_url
from meshhook.schema import check_schema, migrate

_Value = TypeVar("_Value")

_WAY_OUT = "check MESHHOOK_DATABASE_URL, and that the server is running"
_WAY_OUT_OF_FULL = (
    "the server is running but accepts no more connections: close some "
    "(select * from pg_stat_activity), raise max_connections or the role's limit, or use a pooler "
    "(MESHHOOK_POOLED=true)"
)

_WAY_OUT_OF_TLS = (
    "the server answers but TLS fails: check that its certificate is current, names this host and "
    "was issued by the authority in sslrootcert (and the client's in sslcert); "
    "see docs/how-to/tls.md"
)

LOCK_TIMEOUT_SECONDS = 10.0
"""How long a command waits for a table that another session has locked, before it fails."""


@dataclass(frozen=True, slots=True)
class Target:
    """The database that a command works on."""

    url: str = field(repr=False)
    pooled: bool
    is_embedded: bool
    listen_url: str | None = field(default=None, repr=False)
    """The same database without a pooler, for a worker."""

    @asynccontextmanager
    async def open(self, *, needs_schema: bool = True) -> AsyncIterator[Database]:
        """Connect, and migrate the embedded database where it is not.

        Args:
            needs_schema: whether to check that the migrations have run. Default true.

        Raises:
            InvalidDatabaseUrlError, WrongSchemeError, DatabaseNotOpenedError: if it cannot be
                reached.
            SchemaMissingError, UnsupportedPgmqError: if it is not migrated.
        """
        try:
            database = await Database.connect(
                self.url,
                min_size=1,
                max_size=2,
                pooled=self.pooled,
                lock_timeout_seconds=LOCK_TIMEOUT_SECONDS,
            )
        except WrongSchemeError:
            raise
        except InvalidSettingError as error:
            raise InvalidDatabaseUrlError(str(error)) from None
        except DatabaseError as error:
            raise DatabaseNotOpenedError(self.place, str(error), _way_out(error)) from error
        try:
            if needs_schema:
                await self._check_schema(database)
            yield database
        finally:
            await database.close()

    async def check(self) -> None:
        """Connect once, to check that it can be reached and is migrated.

        Raises:
            InvalidDatabaseUrlError, WrongSchemeError, DatabaseNotOpenedError: if it cannot be
                reached.
            SchemaMissingError, UnsupportedPgmqError: if it is not migrated.
        """
        async with self.open():
            pass

    async def _check_schema(self, database: Database) -> None:
        try:
            await check_schema(database)
        except (SchemaMissingError, UnsupportedPgmqError):
            if not self.is_embedded:
                raise
            async with database.acquire() as connection:
                await migrate(connection)

    @property
    def place(self) -> str:
        """Where the database is: host, port and name, without secrets."""
        try:
            return parse_database_url(self.url).place
        except InvalidSettingError:
            return "the database of MESHHOOK_DATABASE_URL"


def _way_out(error: DatabaseError) -> str:
    cause = error.__cause__
    if getattr(cause, "sqlstate", None) == "53300":
        return _WAY_OUT_OF_FULL
    # The driver raises a plain ConnectionError only for a server without TLS.
    if isinstance(cause, SSLError) or type(cause) is ConnectionError:
        return _WAY_OUT_OF_TLS
    return _WAY_OUT


@contextmanager
def target(
    context: typer.Context, *, or_embedded: bool = False, runs_handlers: bool = False
) -> Iterator[Target]:
    """Yield the database that the environment or `--embedded` names.

    Args:
        context: of the command.
        or_embedded: whether to use the embedded one if no other is set. Default false.
        runs_handlers: whether user code runs, which may log through structlog. Default false.

    Raises:
        DatabaseNotSetError: if none is named.
        DatabaseUnavailableError: if the embedded one does not start.
        InvalidSettingError: naming an environment variable that is wrong.
    """
    clean_up_first()
    settings = load_settings()
    log_to_stderr(settings, at_once=runs_handlers)
    # What handlers change is theirs.
    acts = nullcontext() if runs_handlers else acting_as(process_actor(), source=Source.CLI)
    with acts, _database_of(context, settings, or_embedded=or_embedded) as found:
        yield found


@contextmanager
def _database_of(
    context: typer.Context, settings: Settings, *, or_embedded: bool
) -> Iterator[Target]:
    secret = settings.database_url
    url = None if secret is None else secret.get_secret_value().strip()
    if program_options(context).embedded or (or_embedded and not url):
        from meshhook.cli.embedded_use import (  # noqa: PLC0415 - psutil is slow to load
            embedded_database,
        )

        with embedded_database(settings.embedded_directory) as embedded_url:
            yield Target(embedded_url, pooled=False, is_embedded=True)
    elif url:
        listen_url = settings.listen_url
        yield Target(
            url,
            pooled=settings.pooled,
            is_embedded=False,
            listen_url=None
            if listen_url is None
            else listen_url.get_secret_value().strip() or None,
        )
    else:
        raise DatabaseNotSetError


def with_database(
    context: typer.Context,
    work: Callable[[Database], Awaitable[_Value]],
    *,
    needs_schema: bool = True,
) -> _Value:
    """Run `work` on the database, and return what it returns."""

    async def run(found: Target) -> _Value:
        async with found.open(needs_schema=needs_schema) as database:
            return await work(database)

    with target(context) as found:
        return asyncio.run(run(found))


def log_to_stderr(settings: Settings, *, at_once: bool = True) -> None:
    """Send what the library logs to standard error, as the settings say.

    Args:
        settings: of the command.
        at_once: whether to set logging up now, or at the first record. Most commands log nothing,
            and loading the formatter takes as long as the rest of the command. Default true.
    """
    if at_once:
        from meshhook.observability.logs import (  # noqa: PLC0415 - slow to load
            configure_logging,
        )

        configure_logging(settings.log_format, settings.log_level)
        return
    root = logging.getLogger()
    root.handlers[:] = [_LateHandler(settings)]
    root.setLevel(settings.log_level.upper())
    logging.captureWarnings(capture=True)


class _LateHandler(logging.Handler):
    """Sets logging up at the first record, and passes it on."""

    def __init__(self, settings: Settings) -> None:
        """Take the settings of the command."""
        super().__init__()
        self._settings = settings

    def emit(self, record: logging.LogRecord) -> None:
        """Replace this handler by the real one."""
        log_to_stderr(self._settings)
        for handler in logging.getLogger().handlers:
            handler.handle(record)
