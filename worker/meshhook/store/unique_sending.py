"""Storing messages with unique keys: those whose key another job has become that job."""

from __future__ import annotations

from contextlib import nullcontext
from json.encoder import encode_basestring
from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpg

from meshhook.errors import (
    DatabaseConflictError,
    DatabaseError,
    DuplicateJobError,
    InvalidJobError,
    InvalidSettingError,
    QueueNotFoundError,
    SchemaMissingError,
)
from meshhook.escaping import quoted
from meshhook.observability.producer_metrics import messages_enqueued
from meshhook.postgres.driver_errors import translated_statement_errors
from meshhook.store import queries
from meshhook.store.sending import batches_of, refusal_of
from meshhook.unique import EnqueuedId, new_ids

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from meshhook.drivers.driver_connection import SyncDriverConnection
    from meshhook.postgres.database import Database
    from meshhook.store.messages import Message
    from meshhook.unique import Unique

UniqueMessage: TypeAlias = tuple[str, str | None, float, "Unique"]
"""A message to store, and its unique key."""
Result: TypeAlias = EnqueuedId | DuplicateJobError
_Statement: TypeAlias = tuple[str, tuple[object, ...]]
"""The name of a statement, and its arguments."""

MAX_TRIES = 100
"""How often others may be quicker to take a key, and give it up again before one can look."""


async def insert_unique(
    connection: Any,
    queue_name: str,
    messages: Sequence[UniqueMessage],
    *,
    all_or_none: bool = False,
) -> list[Result]:
    """Store messages unless another job has their key, and return what became of each, in order.

    Args:
        connection: where to store them.
        queue_name: the queue.
        messages: the messages.
        all_or_none: whether the caller undoes everything if one is refused; then nothing is stored.

    Raises:
        QueueNotFoundError: if the queue has no table.
        DatabaseConflictError: if others were quicker each time.
    """
    asking = _ask(queue_name, messages, all_or_none=all_or_none)
    statement, arguments = next(asking)
    while True:
        try:
            rows = await connection.fetch(queries.load(statement, queue_name), *arguments)
        except (SchemaMissingError, asyncpg.UndefinedTableError) as error:
            raise QueueNotFoundError(queue_name) from error
        try:
            statement, arguments = asking.send(rows)
        except StopIteration as end:
            found: list[Result] = end.value
            return found


async def insert_all_unique(
    database: Database, queue_name: str, messages: Sequence[UniqueMessage]
) -> list[EnqueuedId]:
    """Store messages unless another job has their key, all or none, and return the jobs' ids.

    Inside a transaction of the caller, they are part of it.

    Raises:
        DuplicateJobError: another job has a key, and its message is not to be stored then.
        InvalidJobError: two of such messages have the same key.
        QueueNotFoundError, JobTooLargeError, DatabaseError: none is stored.
        UncertainCommitError: all are stored, or none is.
    """
    order, batches = _batches(messages)

    async def insert_all(connection: object) -> list[Result]:
        found: list[Result] = []
        for batch in batches:
            with translated_statement_errors():
                found += await insert_unique(connection, queue_name, batch, all_or_none=True)
            _check(found)
        return found

    try:
        if len(messages) == 1:
            found = await insert_unique(database, queue_name, messages)
            _check(found)
        else:
            found = await database.run_in_transaction(insert_all)
    except DatabaseError as error:
        raise refusal_of(error, messages) from error
    return _in_order(order, found)


def insert_all_unique_now(
    connection: SyncDriverConnection, queue_name: str, messages: Sequence[UniqueMessage]
) -> list[EnqueuedId]:
    """Do what `insert_all_unique` does on a caller's connection that blocks."""
    order, batches = _batches(messages)
    found: list[Result] = []
    try:
        with connection.all_or_nothing() if len(messages) > 1 else nullcontext():
            for batch in batches:
                found += _insert_now(connection, queue_name, batch)
                _check(found)
    except DatabaseError as error:
        raise refusal_of(error, messages) from error
    return _in_order(order, found)


def _insert_now(
    connection: SyncDriverConnection, queue_name: str, messages: Sequence[UniqueMessage]
) -> list[Result]:
    asking = _ask(queue_name, messages, all_or_none=True)
    statement, arguments = next(asking)
    while True:
        try:
            rows = connection.fetch_now(queries.load(statement, queue_name), *arguments)
        except SchemaMissingError as error:
            raise QueueNotFoundError(queue_name) from error
        try:
            statement, arguments = asking.send(rows)
        except StopIteration as end:
            found: list[Result] = end.value
            return found


def _batches(
    messages: Sequence[UniqueMessage],
) -> tuple[list[int], list[Sequence[UniqueMessage]]]:
    """Split messages for one statement each; also return the position of each in `messages`.

    Keys are taken in their order, so that two senders never wait for each other: so are those of
    several statements.
    """
    if not _are_different(messages):
        _check_repeated(messages)
    order = list(range(len(messages)))
    batches = batches_of(messages)
    if len(batches) > 1:
        order.sort(key=lambda position: messages[position][3].key)
        batches = batches_of([messages[position] for position in order])
    return order, batches


def _are_different(messages: Sequence[UniqueMessage]) -> bool:
    """Return whether no two messages have the same unique key."""
    return len({message[3].key for message in messages}) == len(messages)


def _check_repeated(messages: Sequence[UniqueMessage]) -> None:
    """Refuse a key that several messages have, and that is an error for the second of them.

    Raises:
        InvalidJobError: naming the key.
    """
    seen: set[str] = set()
    for message in messages:
        unique = message[3]
        if unique.on_conflict == "error" and unique.key in seen:
            raise InvalidJobError(
                f"several jobs of the batch have the unique key {quoted(unique.key)}; with "
                "on_conflict='existing' they are one job"
            )
        seen.add(unique.key)


def _check(found: Sequence[Result | None]) -> None:
    """Raise the first error of what became of messages."""
    for each in found:
        if isinstance(each, DuplicateJobError):
            raise each


def _in_order(order: Sequence[int], found: Sequence[Result]) -> list[EnqueuedId]:
    ids: list[Any] = [None] * len(order)
    for position, each in zip(order, found, strict=True):
        ids[position] = each
    return ids


def _ask(
    queue_name: str, messages: Sequence[UniqueMessage], *, all_or_none: bool
) -> Generator[_Statement, Sequence[Any], list[Result]]:
    """Yield each statement, take its rows, and return what became of each message.

    The first stores the jobs whose keys nobody took. The others are about the rest, and about those
    for which someone was quicker: they see who.
    """
    members: dict[str, list[int]] = {}
    asked_first = messages
    if not _are_different(messages):
        members = _by_key(messages)
        asked_first = [_asked_for([messages[i] for i in each]) for each in members.values()]
    arguments = (*_columns_of_new(asked_first), queue_name, all_or_none)
    [(positions, msg_ids)] = yield "enqueue_unique_new", arguments
    positions, msg_ids = positions or (), msg_ids or ()
    if len(msg_ids) == len(messages):
        messages_enqueued(queue_name).inc(len(msg_ids))
        return list(new_ids(msg_ids))
    members = members or _by_key(messages)
    asked = dict(zip(members, asked_first, strict=True))
    results: list[Any] = [None] * len(messages)
    rows: Sequence[Any] = [
        (position, "new", msg_id) for position, msg_id in zip(positions, msg_ids, strict=True)
    ]
    new = 0
    for _ in range(1 + MAX_TRIES):
        keys = list(asked)
        for position, outcome, msg_id in rows:
            if outcome == "lost":
                continue
            key = keys[position - 1]
            del asked[key]
            new += outcome == "new"
            for member in members[key]:
                is_first = member == members[key][0]
                unique = messages[member][3]
                results[member] = _result(queue_name, unique, outcome, msg_id, is_first=is_first)
        if not asked or (all_or_none and any(row[1] == "refused" for row in rows)):
            messages_enqueued(queue_name).inc(new)
            return results
        arguments = (*_columns(list(asked.values())), queue_name, all_or_none)
        rows = yield "enqueue_unique", arguments
    raise DatabaseConflictError(
        f"others took the unique key each time, as one of them: {next(iter(asked))!r}"
    )


def _by_key(messages: Sequence[UniqueMessage]) -> dict[str, list[int]]:
    """Return the positions of the messages with each key."""
    members: dict[str, list[int]] = {}
    for position, message in enumerate(messages):
        members.setdefault(message[3].key, []).append(position)
    return members


def _asked_for(messages: Sequence[UniqueMessage]) -> UniqueMessage:
    """Return what messages with one key amount to: the last that replaces, else the first."""
    for message in reversed(messages):
        if message[3].on_conflict == "replace":
            return message
    return messages[0]


def _result(
    queue_name: str, unique: Unique, outcome: str, msg_id: int, *, is_first: bool
) -> Result:
    """Return what becomes of one of the messages with a key by what became of the key."""
    if outcome == "new" and is_first:
        return EnqueuedId(msg_id)
    if unique.on_conflict == "error":
        return DuplicateJobError(queue_name, msg_id, unique.key)
    is_replaced = unique.on_conflict == "replace" and outcome in {"new", "replaced"}
    return EnqueuedId(msg_id, is_new=False, was_replaced=is_replaced)


def _columns(messages: Sequence[UniqueMessage]) -> tuple[Any, ...]:
    bodies, headers, delays, uniques = zip(*messages, strict=True)
    keys, until_started, seconds, on_conflict = zip(*uniques, strict=True)
    # A column without values is sent as null, which costs nothing.
    return (
        bodies,
        headers if any(headers) else None,
        delays if any(delays) else None,
        keys,
        until_started if any(until_started) else None,
        seconds if any(seconds) else None,
        on_conflict,
    )


def _columns_of_new(messages: Sequence[UniqueMessage]) -> tuple[Any, ...]:
    bodies, headers, delays, uniques = zip(*messages, strict=True)
    keys, until_started, seconds, _ = zip(*uniques, strict=True)
    return (
        bodies,
        _with_keys(headers, uniques),
        delays if any(delays) else None,
        keys,
        until_started if any(until_started) else None,
        seconds if any(seconds) else None,
    )


def _with_keys(headers: Sequence[str | None], uniques: Sequence[Unique]) -> list[str]:
    """Return the JSON texts of headers with what `meshhook.unique_header` adds to each.

    The database would take longer to put them together.
    """
    texts: list[str] = []
    start = end = ""
    last: tuple[object, ...] = ()
    for each, unique in zip(headers, uniques, strict=True):
        key, *kept = unique
        # Those of one call differ in nothing but the key.
        if last != (each, *kept):
            last = (each, *kept)
            start = "{" if each is None else each.rstrip()[:-1] + ", "
            start += '"meshhook-unique": {"key": '
            end = ', "until": "started"' if unique.until_started else ""
            end += "" if unique.seconds is None else f', "seconds": {unique.seconds:.15g}'
            end += "}}"
        texts.append(f"{start}{encode_basestring(key)}{end}")
    return texts


def check_ungrouped(unique_keys: object, group: object) -> None:
    """Refuse unique keys of the jobs of a group: a job that is there already is of no new group.

    Raises:
        InvalidSettingError: if both are given.
    """
    if unique_keys is not None and group is not None:
        raise InvalidSettingError(
            "unique_keys and group were both given: a job whose key another has would be of no "
            "group; leave one of them out"
        )


def with_uniques(messages: Sequence[Message], uniques: Sequence[Unique]) -> list[UniqueMessage]:
    """Return messages with their unique keys."""
    return [(*message, unique) for message, unique in zip(messages, uniques, strict=True)]
