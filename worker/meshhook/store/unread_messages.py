"""Reading large messages separately from their claim, up to a limit.

The claim leaves them leased but unread. Whether a message is too large is decided by its size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshhook.errors import LeaseLostError, MessageTooLargeError, MessageUnreadableError
from meshhook.store import queries
from meshhook.store.claims import take_in

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshhook.jobs import Job
    from meshhook.queue_config import QueueSettings

SLOW_CLAIM_SECONDS = 0.4
"""After this time a claim may have skipped short messages, see `claim.sql`."""
DEFAULT_MAX_MESSAGE_BYTES = 16 * 1024 * 1024
"""The most JSON, in bytes, of a message that is run, unless the queue accepts larger ones."""
MAX_HEADERS_BYTES = 262_144
"""The most JSON, in bytes, of headers that are read."""
MAX_STORED_HEADERS_BYTES = 78_000
"""The most bytes that headers may take in their row to be read, as in `read_message.sql`."""

_WAY_OUT_OF_BODY = (
    "Store the data elsewhere and enqueue a reference, or raise the limit: max_message_bytes "
    "(--max-message-bytes, MESHHOOK_MAX_MESSAGE_BYTES) of the workers, and replay it"
)
_WAY_OUT_OF_HEADERS = "Put data into the message itself"
_NO_TEXT = (
    "the message holds bytes that are not UTF-8, which a database with the encoding SQL_ASCII does "
    "not refuse. Let its producers set client_encoding to UTF8"
)


def largest_message(max_message_bytes: int | None, settings: QueueSettings) -> int:
    """Return how many bytes of JSON a message may have to be run.

    Args:
        max_message_bytes: the worker's setting. None: 16 MiB, or twice the queue's
            `max_payload_bytes` if that is more, since PostgreSQL writes JSON with spaces.
        settings: the queue's.
    """
    if max_message_bytes is not None:
        return max_message_bytes
    return max(DEFAULT_MAX_MESSAGE_BYTES, 2 * settings.max_payload_bytes)


async def read_left_out(
    database: Any, tables: queries.QueueTables, jobs: Sequence[Job[Any]], claim_seconds: float
) -> None:
    """Read the claimed jobs that are short but were not read by their claim, if it was slow.

    After slow messages, a claim does not look at the rest of its messages.
    """
    if not jobs or claim_seconds <= SLOW_CLAIM_SECONDS:
        return
    rows = await database.fetch(
        queries.load("read_short_messages", tables),
        [job.msg_id for job in jobs],
        [job.read_ct for job in jobs],
        [job.enqueued_timestamp for job in jobs],
    )
    for row in rows:
        if row["body"] is not None:
            take_in(jobs[row["position"] - 1], row["body"], row["headers"])


async def read_message(
    database: Any, tables: queries.QueueTables, job: Job[Any], max_bytes: int
) -> None:
    """Read the message of a claimed job.

    Args:
        database: where the queue is.
        tables: the queue's tables.
        job: a job without a body.
        max_bytes: how many bytes of JSON the body may be.

    Raises:
        MessageTooLargeError: if it is longer, or its headers are too long.
        MessageUnreadableError: if it holds bytes that are not valid text.
        LeaseLostError: if this worker no longer holds the job's lease.
        DatabaseError: it was not read; another attempt may succeed.
    """
    rows = await database.fetch(
        queries.load("read_message", tables),
        *(job.msg_id, job.read_ct, job.enqueued_timestamp, max_bytes, MAX_HEADERS_BYTES),
    )
    if not rows:
        raise LeaseLostError(job.queue, job.msg_id, job.attempt)
    [row] = rows
    if row["has_too_large_headers"]:
        size, limit = row["headers_bytes"], MAX_HEADERS_BYTES
        if size <= limit:
            limit = MAX_STORED_HEADERS_BYTES
        raise MessageTooLargeError("headers", size, limit, _WAY_OUT_OF_HEADERS)
    if row["is_too_large"]:
        size = max(row["size_bytes"], max_bytes + 1)
        raise MessageTooLargeError("a message", size, max_bytes, _WAY_OUT_OF_BODY)
    if row["is_no_text"]:
        raise MessageUnreadableError(_NO_TEXT)
    take_in(job, "null" if row["is_null"] else row["body"], row["headers"] or "")
