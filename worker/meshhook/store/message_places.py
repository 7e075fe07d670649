"""Where encrypted messages of a queue are, and with which keys, read page by page."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from meshhook.store import queries

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from meshhook.postgres.database import Database

PAGE_MESSAGES = 5_000
"""How many messages one statement looks at."""
CHUNK_MESSAGES = 200
"""How many messages are locked at once; workers wait for no more than these."""
CHUNK_BYTES = 8_388_608


class MessagePlace(StrEnum):
    """Where messages of a queue are."""

    QUEUE = "queue"
    """Those that wait or run."""
    DEAD_LETTERS = "dead_letters"
    ARCHIVE = "archive"
    SCHEDULES = "schedules"
    """The message of each schedule."""
    GROUPS = "groups"
    """The callbacks of groups that have not finished."""
    FINISHED_JOBS = "finished_jobs"
    """Kept bodies of finished jobs."""
    FOLLOW_UPS = "follow_ups"
    """Jobs that are to follow dead letters (`on_dead_letter`), in the headers of the messages of
    all these places."""
    RESULTS = "results"
    """Results of finished jobs, in the history."""


TABLES = (MessagePlace.QUEUE, MessagePlace.DEAD_LETTERS, MessagePlace.ARCHIVE)
"""Places that are tables of PGMQ."""


class Found(NamedTuple):
    """A row that was read: which keys it uses, without what it says."""

    msg_id: int
    key_id: str | None
    """The key of its message or result; None if that is not encrypted."""
    has_follow_up: bool
    follow_up_key_id: str | None
    """The key of the follow-up in its headers; None if that is not encrypted."""
    size_bytes: int
    """How large it is, as stored."""


async def messages_at(database: Database, queue: str, place: MessagePlace) -> AsyncIterator[Found]:
    """Yield what is in a table of a queue: its messages, kept bodies, or results."""
    if place in TABLES:
        async for row in _messages(database, queries.load("page_of_keys", queue, stored_in=place)):
            yield _found(row)
    elif place is MessagePlace.FINISHED_JOBS:
        async for row in _by_job(database, queries.load("page_of_kept_keys"), queue):
            yield _found(row)
    else:
        async for row in _by_job(database, queries.load("page_of_result_keys"), queue):
            if row["has_result"]:
                yield Found(row["msg_id"], row["key_id"], False, None, row["size_bytes"])  # noqa: FBT003 - no follow-up


def chunks(rows: Iterable[Found]) -> list[list[int]]:
    """Return the ids of messages in chunks, by number and by size."""
    found: list[list[int]] = []
    size = CHUNK_BYTES
    for row in rows:
        if size >= CHUNK_BYTES or len(found[-1]) >= CHUNK_MESSAGES:
            found.append([])
            size = 0
        found[-1].append(row.msg_id)
        size += row.size_bytes
    return found


def _found(row: Any) -> Found:
    return Found(
        row["msg_id"],
        row["key_id"],
        row["has_follow_up"],
        row["follow_up_key_id"],
        row["size_bytes"],
    )


async def _messages(database: Database, sql: str) -> AsyncIterator[Any]:
    last = -(2**63)
    while True:
        page: Sequence[Any] = await database.fetch(sql, last, PAGE_MESSAGES)
        for row in page:
            yield row
        if len(page) < PAGE_MESSAGES:
            return
        last = page[-1]["msg_id"]


async def _by_job(database: Database, sql: str, queue: str) -> AsyncIterator[Any]:
    last = -(2**63)
    while True:
        page: Sequence[Any] = await database.fetch(sql, queue, last, PAGE_MESSAGES)
        # An id can have several rows, and the page may end among them.
        is_last = len(page) < PAGE_MESSAGES
        end = None if is_last else page[-1]["msg_id"]
        whole = [row for row in page if row["msg_id"] != end] or page
        for row in whole:
            yield row
        if is_last:
            return
        last = whole[-1]["msg_id"]
