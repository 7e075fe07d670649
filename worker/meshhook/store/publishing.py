"""Publishing: one message for each queue that is bound to its topic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from meshhook.arguments import headers_with_key
from meshhook.delays import delay_in_seconds
from meshhook.encryption.envelope import Place
from meshhook.encryption.messages import encrypted_body
from meshhook.errors import (
    DatabaseError,
    EncryptionRequiredError,
    InvalidJobError,
    InvalidSettingError,
    JobTooLargeError,
    MeshHookError,
    UnsupportedPgmqError,
)
from meshhook.names import validate_topic
from meshhook.observability.producer_metrics import messages_enqueued
from meshhook.postgres.driver_errors import sqlstate_of
from meshhook.store import queries
from meshhook.store.encrypted_headers import encrypted_headers
from meshhook.store.message_headers import encode_headers
from meshhook.store.messages import MAX_MESSAGE_BYTES, encoded

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import timedelta
    from uuid import UUID

    from meshhook.drivers.driver_connection import SyncDriverConnection
    from meshhook.encryption.key_ring import KeyRing
    from meshhook.postgres.database import Database
    from meshhook.store.body_decoder import BodyDecoder


class Publication(NamedTuple):
    """A message for a topic, in the order of the parameters of `sql/publish.sql`."""

    topic: str
    body: str
    headers: str | None
    delay_seconds: float


def publication(
    decoder: BodyDecoder[Any],
    topic: str,
    job: object,
    *,
    delay_seconds: float | timedelta,
    key: str | UUID | None,
    headers: Mapping[str, Any] | None,
    encryption: KeyRing | None = None,
) -> Publication:
    """Return what is published, checked as far as that takes no database.

    With keys it is encrypted, and bound to the topic: each queue that is bound gets the same.

    Raises:
        InvalidJobError, JobTooLargeError, InvalidSettingError: it cannot be stored.
    """
    body = encoded(decoder, job, MAX_MESSAGE_BYTES)
    header_text = encode_headers(headers_with_key(headers, key, None))
    if encryption is not None:
        header_text = encrypted_headers(header_text, body, encryption)
        place = Place("topic", validate_topic(topic))
        body = encrypted_body(body, encryption, place, max_bytes=MAX_MESSAGE_BYTES)
    return Publication(
        validate_topic(topic),
        body,
        header_text,
        delay_in_seconds(delay_seconds),
    )


async def publish(database: Database, message: Publication) -> dict[str, int]:
    """Store a message in each queue that is bound to its topic, all or none.

    Returns:
        The msg_id in each of these queues.

    Raises:
        JobTooLargeError, InvalidJobError, InvalidSettingError: a queue refuses it.
        UnsupportedPgmqError: the installed PGMQ has no topics.
        DatabaseError: it is stored nowhere.
        UncertainCommitError: it is stored in all of them, or nowhere.
    """
    try:
        rows = await database.fetch(queries.load("publish"), *message)
    except DatabaseError as error:
        raise _refusal_of(error, message) from error
    return _counted(rows)


def publish_now(connection: SyncDriverConnection, message: Publication) -> dict[str, int]:
    """Do what `publish` does on a caller's connection that blocks."""
    try:
        rows = connection.fetch_now(queries.load("publish"), *message)
    except DatabaseError as error:
        raise _refusal_of(error, message) from error
    return _counted(rows)


def _counted(rows: Iterable[Any]) -> dict[str, int]:
    found = {row[0]: row[1] for row in rows}
    for queue in found:
        messages_enqueued(queue).inc()
    return found


def _refusal_of(error: DatabaseError, message: Publication) -> MeshHookError:
    said = str(error.__cause__)
    sqlstate = sqlstate_of(error.__cause__)
    if sqlstate == "MHQ06":
        return JobTooLargeError(len(message.body.encode()), said=said)
    if sqlstate == "MHQ07":
        return InvalidJobError(said)
    if sqlstate == "MHQ08":
        return InvalidSettingError(said)
    if sqlstate == "MHQ20":
        return EncryptionRequiredError(message.topic, said=said)
    if sqlstate == "MHQ12":
        return UnsupportedPgmqError(said)
    return error
