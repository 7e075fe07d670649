"""The follow-up of a dead letter in the headers of a message: encrypted as the message is."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from meshhook.encryption.envelope import Place, is_sealed_object
from meshhook.encryption.messages import decrypted_body, encrypted_body, readable_identifiers
from meshhook.errors import EncryptionError, EncryptionRequiredError, InvalidJobError
from meshhook.escaping import quoted
from meshhook.jobs import ON_DEAD_LETTER_HEADER
from meshhook.store.bodies import is_envelope
from meshhook.store.message_headers import MAX_HEADERS_BYTES

if TYPE_CHECKING:
    from meshhook.encryption.key_ring import KeyRing
    from meshhook.queue_config import QueueConfig


def follow_up_queue(headers: str | None) -> str | None:
    """Return the queue in which a job is to follow the dead letter of a message with these headers.

    None if none is to.
    """
    if headers is None or ON_DEAD_LETTER_HEADER not in headers:
        return None
    follow_up = json.loads(headers).get(ON_DEAD_LETTER_HEADER)
    return None if follow_up is None else str(follow_up["queue"])


def check_follow_up_queue(
    headers: str | None, config: QueueConfig | None, ring: KeyRing | None
) -> str | None:
    """Refuse a follow-up for a dead letter that its queue would refuse, when the job is enqueued.

    Args:
        headers: the headers of the job, as JSON.
        config: the settings of the follow-up's queue; None if they are not known.
        ring: the keys; None if there are none.

    Returns:
        Where that queue has its keys in the body; None if it does not.

    Raises:
        EncryptionRequiredError: if there are no keys, and that queue requires encryption.
    """
    if headers is None or config is None:
        return None
    if ring is None and config.requires_encryption:
        follow_up = json.loads(headers)[ON_DEAD_LETTER_HEADER]
        if not is_sealed_object(follow_up["message"]):
            raise EncryptionRequiredError(
                config.queue,
                said=f"on_dead_letter: queue {quoted(config.queue)} takes encrypted jobs only, and "
                "this program has no keys: pass encryption=KeyRing.from_file(...), or set "
                "MESHHOOK_ENCRYPTION_KEY_FILE where the environment is read",
            )
    return config.body_key_path


def encrypted_headers(
    headers: str | None,
    body: str,
    ring: KeyRing | None,
    *,
    stored: str | None = None,
    key_path: str | None = None,
) -> str | None:
    """Return the headers of a message with the follow-up for its dead letter encrypted, if any.

    The follow-up is bound to its own queue. What is authenticated cannot be added later, so it gets
    the identifiers of its job here, where it has none.

    Args:
        headers: the headers, as JSON.
        body: the JSON of the message, not encrypted.
        ring: the keys; None if there are none.
        stored: what the database has in their place: it stays if it says the same. Default: none.
        key_path: where the follow-up's queue has its keys in the body: the key stays readable
            there. Default: they are not in the body.

    Raises:
        EncryptionKeysUnavailableError: if the keys were never had.
        InvalidJobError: if the headers are too large then.
        JobTooLargeError: if the follow-up is.
    """
    if ring is None or headers is None or ON_DEAD_LETTER_HEADER not in headers:
        return headers
    found = json.loads(headers)
    follow_up = found.get(ON_DEAD_LETTER_HEADER)
    if follow_up is None or is_sealed_object(follow_up["message"]):
        return headers
    text = json.dumps(with_identifiers(follow_up["message"], body))
    queue = follow_up["queue"]
    sealed = _sealed_before(stored, text, ring, queue)
    if sealed is None:
        place = Place("queue", queue)
        sealed = json.loads(
            encrypted_body(text, ring, place, max_bytes=MAX_HEADERS_BYTES, key_path=key_path)
        )
    found[ON_DEAD_LETTER_HEADER] = {**follow_up, "message": sealed}
    encrypted = json.dumps(found, ensure_ascii=False)
    if (size := len(encrypted.encode())) > MAX_HEADERS_BYTES:
        raise InvalidJobError(
            f"the headers are {size} bytes of JSON with on_dead_letter encrypted, at most "
            f"{MAX_HEADERS_BYTES} are allowed; put data into the payload"
        )
    return encrypted


def _sealed_before(stored: str | None, text: str, ring: KeyRing, queue: str) -> Any:
    """Return the encrypted follow-up of stored headers, if it says this; None if it does not."""
    follow_up = json.loads(stored or "{}").get(ON_DEAD_LETTER_HEADER)
    message = follow_up.get("message") if isinstance(follow_up, dict) else None
    if is_sealed_object(message):
        with suppress(EncryptionError):
            if decrypted_body(json.dumps(message), ring, queue) == text:
                return message
    return None


def with_identifiers(message: Any, body: str) -> Any:
    """Return the message of a follow-up with the identifiers of its job, where it has none.

    Args:
        message: the message of the follow-up.
        body: the JSON of the job's message, encrypted or not.
    """
    ids = readable_identifiers(json.loads(body))
    if is_envelope(message):
        return {**ids, **message}
    return {**ids, "payload": message} if ids else message
