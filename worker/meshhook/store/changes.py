"""Changes that the audit log names an actor for: each in a transaction that says who makes it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeVar

from meshhook.actors import acting
from meshhook.postgres.connecting import server_encoding
from meshhook.postgres.text_encodings import fitted_text
from meshhook.store import queries

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    import asyncpg

    from meshhook.postgres.database import Database

_Value = TypeVar("_Value")

_MAX_FILTER_CHARACTERS = 8_000


async def change(
    database: Database,
    work: Callable[[Any], Awaitable[_Value]],
    *,
    asked: Mapping[str, Any] | None = None,
    answer_timeout_seconds: float | None = None,
) -> _Value:
    """Run `work` with a connection inside a transaction that says who makes changes.

    It is said for the transaction only, so that a pooler passes it to nobody else. In a transaction
    of the caller it holds for `work`, and not for what the caller does next.

    Args:
        database: where to run it.
        work: what to run; after a conflict it is run again.
        asked: what was asked for, for the audit log, besides what the statements themselves say.
        answer_timeout_seconds: how long each statement may take. Default: the Database's own.
    """
    current = acting()
    said = [
        str(current.source),
        "" if current.operation is None else str(current.operation),
        _filter_text({**dict(current.asked), **(asked or {})}),
    ]
    sql = queries.load("say_actor")
    is_callers = database.is_in_transaction

    async def said_first(connection: Any) -> _Value:
        # Nobody is kept from changing anything by a name that the database cannot store.
        actor = fitted_text(current.name, server_encoding(connection))
        before = await connection.fetchrow(sql, actor, *said)
        value = await work(connection)
        if is_callers:
            await connection.fetchrow(sql, *(before[name] for name in _SETTINGS))
        return value

    return await database.run_in_transaction(
        said_first, answer_timeout_seconds=answer_timeout_seconds
    )


_SETTINGS = ("actor", "source", "operation", "filter")


async def change_rows(
    database: Database,
    sql: str,
    *arguments: object,
    asked: Mapping[str, Any] | None = None,
    answer_timeout_seconds: float | None = None,
) -> Sequence[asyncpg.Record]:
    """Run one statement as `change` does, and return its rows."""

    async def work(connection: Any) -> Sequence[asyncpg.Record]:
        rows: Sequence[asyncpg.Record] = await connection.fetch(sql, *arguments)
        return rows

    return await change(database, work, asked=asked, answer_timeout_seconds=answer_timeout_seconds)


async def change_value(
    database: Database,
    sql: str,
    *arguments: object,
    asked: Mapping[str, Any] | None = None,
    answer_timeout_seconds: float | None = None,
) -> Any:
    """Run one statement as `change` does, and return its first value; None if there is none."""
    rows = await change_rows(
        database, sql, *arguments, asked=asked, answer_timeout_seconds=answer_timeout_seconds
    )
    return rows[0][0] if rows else None


def _filter_text(asked: Mapping[str, Any]) -> str:
    found = {name: value for name, value in asked.items() if value is not None}
    text = json.dumps(found, default=str) if found else ""
    return text if len(text) <= _MAX_FILTER_CHARACTERS else ""
