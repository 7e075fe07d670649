"""Topics: PGMQ routes what is sent to a topic to each queue with a matching pattern."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from meshhook.administration import get_queue_config
from meshhook.errors import InvalidSettingError, UnsupportedPgmqError
from meshhook.escaping import quoted
from meshhook.postgres.database import Database, DatabaseSource, takes_url
from meshhook.schema.pgmq import find_pgmq
from meshhook.store import queries
from meshhook.store.changes import change_value

TOPICS_SINCE = "1.11.0"
MAX_PATTERN_LENGTH = 255
_PATTERN = re.compile(r"[A-Za-z0-9_\-*#]+(\.[A-Za-z0-9_\-*#]+)*")
_ADJACENT = re.compile(r"[*#]{2}")


@dataclass(frozen=True, slots=True)
class TopicBinding:
    """A pattern of topics whose messages go to a queue."""

    queue: str
    pattern: str
    bound_at: datetime
    """When it was bound."""


@takes_url
async def bind_topic(database: DatabaseSource, queue: str, pattern: str) -> bool:
    """Let PGMQ route to a queue what is sent to the topics that match a pattern.

    A topic is names with dots between them, such as `orders.eu.created`. In a pattern, `*` stands
    for one name and `#` for any text, dots included.

    Args:
        database: where the queue is.
        queue: the queue.
        pattern: 1 to 255 characters of a-z, A-Z, 0-9, `_`, `-`, `.`, `*` and `#`.

    Returns:
        Whether that is new.

    Raises:
        InvalidSettingError: if it is no pattern.
        UnsupportedPgmqError: if the installed PGMQ has no topics.
        QueueNotFoundError, DatabaseError: it is not bound.
    """
    source = await _with_topics(database, queue)
    sql = queries.load("bind_topic")
    return bool(await change_value(source, sql, queue, checked_pattern(pattern)))


@takes_url
async def unbind_topic(database: DatabaseSource, queue: str, pattern: str) -> bool:
    """Undo `bind_topic`: messages that are in the queue stay.

    Args:
        database: where the queue is.
        queue: the queue.
        pattern: the pattern, as it was bound.

    Returns:
        Whether it was bound.

    Raises:
        InvalidSettingError: if it is no pattern.
        UnsupportedPgmqError: if the installed PGMQ has no topics.
        QueueNotFoundError, DatabaseError: nothing was changed.
    """
    source = await _with_topics(database, queue)
    sql = queries.load("unbind_topic")
    return bool(await change_value(source, sql, queue, checked_pattern(pattern)))


@takes_url
async def list_topic_bindings(
    database: DatabaseSource, queue: str | None = None
) -> list[TopicBinding]:
    """Return the patterns that are bound to a queue, or to every queue, in alphabetical order.

    Args:
        database: where the queues are.
        queue: the queue. Default: all, those that only PGMQ knows included.

    Raises:
        UnsupportedPgmqError: if the installed PGMQ has no topics.
        QueueNotFoundError, DatabaseError: if they cannot be read.
    """
    source = await _with_topics(database, queue)
    rows = await source.fetch(queries.load("list_topic_bindings"), queue)
    return [TopicBinding(**dict(row)) for row in rows]


def checked_pattern(pattern: str) -> str:
    """Return a pattern if PGMQ takes it.

    Raises:
        InvalidSettingError: naming the rule and the value.
    """
    rule = ""
    if not isinstance(pattern, str) or not 1 <= len(pattern) <= MAX_PATTERN_LENGTH:
        rule = f"is text of 1 to {MAX_PATTERN_LENGTH} characters"
    elif not _PATTERN.fullmatch(pattern):
        rule = "is names of a-z, A-Z, 0-9, _, -, * and #, with single dots between them"
    elif _ADJACENT.search(pattern):
        rule = "has no wildcards side by side: put a dot between them, or use one #"
    if rule:
        raise InvalidSettingError(f"a topic pattern {rule}, got {quoted(pattern)}")
    return pattern


async def _with_topics(database: DatabaseSource, queue: str | None) -> Database:
    source = Database.of(database)
    if not await source.fetchval(queries.load("has_topics")):
        found = await find_pgmq(source)
        raise UnsupportedPgmqError(
            f"topics need PGMQ {TOPICS_SINCE} or newer, and this database has {found}. Upgrade "
            "PGMQ, or send to each queue by its name"
        )
    if queue is not None:
        await get_queue_config(source, queue)
    return source
