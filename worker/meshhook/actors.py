"""Who makes changes, for the audit log: said once, and valid for all that is called within."""

from __future__ import annotations

import getpass
import socket
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from meshhook.errors import InvalidSettingError
from meshhook.escaping import quoted, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_ACTOR_LENGTH = 200


class Source(StrEnum):
    """With what a change was made."""

    CLI = "cli"
    CONSOLE = "console"
    OPERATOR = "operator"
    LIBRARY = "library"
    SQL = "sql"
    """Anything else: SQL that somebody wrote, or an earlier version of one of these."""


@dataclass(frozen=True, slots=True)
class Acting:
    """Who makes changes now."""

    actor: str | None = None
    """The person or program; None means the user that runs this process, and its host."""
    source: Source = Source.LIBRARY
    operation: UUID | None = None
    """What the change is a part of, if it is made in several transactions."""
    asked: tuple[tuple[str, str], ...] = ()
    """What was asked for as a whole, of such a change: names and values."""

    @property
    def name(self) -> str:
        """The actor as the audit log has it."""
        return process_actor() if self.actor is None else self.actor


_acting: ContextVar[Acting] = ContextVar("meshhook_acting", default=Acting())  # noqa: B039 - it is frozen


def acting() -> Acting:
    """Return who makes changes in this context."""
    return _acting.get()


@contextmanager
def acting_as(actor: str, *, source: Source | str = Source.LIBRARY) -> Iterator[None]:
    """Have the audit log name `actor` for the changes made within, also by tasks started there.

    Args:
        actor: the person or program, such as `anna@example.com`. Beyond 200 characters it is cut,
            and control characters are shown as escapes.
        source: what the changes are made with: `cli`, `console`, `operator` or `library`. Default
            `library`.

    Raises:
        InvalidSettingError: if the actor is no text or empty, or the source is none of these.
    """
    if not isinstance(actor, str) or not actor.strip():
        raise InvalidSettingError(f"actor is the name of a person or program, got {quoted(actor)}")
    if source not in tuple(Source) or source == Source.SQL:
        names = ", ".join(each for each in Source if each is not Source.SQL)
        raise InvalidSettingError(f"source is one of {names}, got {quoted(source)}")
    name = shown(actor)[:MAX_ACTOR_LENGTH]
    token = _acting.set(replace(_acting.get(), actor=name, source=Source(source)))
    try:
        yield
    finally:
        _acting.reset(token)


@contextmanager
def one_operation(operation: UUID | None = None, /, **asked: str) -> Iterator[None]:
    """Have the audit log show the changes made within as chunks of one.

    Within another one they are chunks of that.

    Args:
        operation: what the entries have in common. Default: a new one.
        **asked: what was asked for as a whole, such as an error type, for the filter of each chunk.
    """
    current = _acting.get()
    if current.operation is not None:
        yield
        return
    token = _acting.set(
        replace(current, operation=operation or uuid4(), asked=tuple(asked.items()))
    )
    try:
        yield
    finally:
        _acting.reset(token)


@cache
def process_actor() -> str:
    """Return the user that runs this process and its host, as `user@host`."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a user id without a name, as in many containers
        user = "unknown"
    return shown(f"{user}@{socket.gethostname()}")[:MAX_ACTOR_LENGTH]
