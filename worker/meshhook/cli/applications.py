"""The application that `meshhook worker --app` is given, and the database that it works on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import typer

from meshhook.cli.connecting import Target, log_to_stderr, target
from meshhook.cli.failures import UsageError
from meshhook.cli.interrupts import clean_up_first
from meshhook.cli.options import program_options
from meshhook.environment import load_settings
from meshhook.worker import Worker


@runtime_checkable
class Application(Protocol):
    """What the command needs of a `meshhook.App`, which itself runs as this command."""

    def has_own_database(self) -> bool:
        """Return whether it names its database itself; else the environment does."""

    def address(self) -> Any:
        """The URL of its database, and how it is reached."""

    def use_database(self, database: str, *, pooled: bool, listen_url: str | None) -> None:
        """Take another database."""

    def weights(self, queues: Iterable[str] | None) -> dict[str, int]:
        """Return the weights of its queues by name."""

    def worker(
        self,
        queues: Mapping[str, int],
        *,
        concurrency: int | None,
        grace_seconds: float,
        name: str | None,
        stall_seconds: float,
        producer_trace: str,
        max_message_bytes: int | None,
    ) -> Worker:
        """Return a worker for queues of it."""

    async def prepare(self, queues: Iterable[str]) -> None:
        """Create queues that are missing."""

    async def close(self) -> None:
        """Close its own connections."""


@contextmanager
def application_target(context: typer.Context, application: Application) -> Iterator[Target]:
    """Yield the database of an application: its own, or the one that it is told here.

    Raises:
        UsageError: if it has one of its own, and `--embedded` asks for another.
        DatabaseNotSetError, InvalidSettingError: as `target`.
    """
    if not application.has_own_database():
        with target(context, runs_handlers=True) as found:
            application.use_database(found.url, pooled=found.pooled, listen_url=found.listen_url)
            yield found
        return
    if program_options(context).embedded:
        raise UsageError("the app names its database itself; leave out --embedded, or its URL")
    clean_up_first()
    log_to_stderr(load_settings())
    address = application.address()
    yield Target(
        address.url, pooled=address.pooled, is_embedded=False, listen_url=address.listen_url
    )
