"""Messages of queues: encrypted by producers, decrypted for whoever runs or reads their jobs."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import orjson

from meshhook.encryption.envelope import (
    FIELD,
    Place,
    envelope_from,
    envelope_of,
    is_sealed_object,
    key_id_of,
    seal,
    unseal,
)
from meshhook.errors import (
    EncryptionRequiredError,
    InvalidJobError,
    JobTooLargeError,
)
from meshhook.jobs import MAX_ID_LENGTH

if TYPE_CHECKING:
    from meshhook.encryption.envelope import Envelope
    from meshhook.encryption.key_ring import KeyRing
    from meshhook.jobs import Job

LARGE_CHARACTERS = 262_144
"""A longer message is decrypted in a thread: in the event loop, it would hold up others for
milliseconds."""
IDENTIFIERS = ("run_id", "workflow_id", "project_id")


def outgoing_body(
    body: str,
    ring: KeyRing | None,
    place: Place,
    *,
    max_bytes: int,
    key_path: str | None = None,
    is_required: bool = False,
) -> str:
    """Return the JSON of a message as it is to be stored: encrypted, if there are keys.

    Arguments and errors are those of `encrypted_body`.

    Raises:
        EncryptionRequiredError: if there are no keys, and the queue requires encryption.
    """
    if ring is not None:
        return encrypted_body(body, ring, place, max_bytes=max_bytes, key_path=key_path)
    if is_required:
        raise EncryptionRequiredError(place.name)
    return body


def encrypted_body(
    body: str, ring: KeyRing, place: Place, *, max_bytes: int, key_path: str | None = None
) -> str:
    """Return the JSON of a message encrypted with the first key of the ring.

    Its identifiers stay readable, and its key where the queue takes keys from the body.

    Args:
        body: the JSON of the message.
        ring: the keys.
        place: the queue or topic.
        max_bytes: the most bytes that the encrypted message may have.
        key_path: where in the body the key is; None if it is not there.

    Raises:
        EncryptionKeysUnavailableError: if the keys were never had.
        InvalidJobError: if the key in the body is an object or a list.
        JobTooLargeError: if the encrypted message is larger than `max_bytes`.
    """
    value = _read(body)
    readable = readable_identifiers(value)
    if key_path is not None:
        _copy_key(value, key_path, readable)
    text = seal(body, ring.first, place, readable)
    if len(text) > max_bytes and (size := len(text.encode())) > max_bytes:
        raise JobTooLargeError(size, max_bytes, is_encrypted=True)
    return text


def decrypted_body(body: str, ring: KeyRing | None, queue: str) -> str:
    """Return the JSON of an encrypted message as it was enqueued.

    Args:
        body: the encrypted message.
        ring: the keys; None if there are none.
        queue: the queue it was found in.

    Raises:
        UnknownEncryptionKeyError: if its key is not in the ring.
        DecryptionError: if it was changed, or is from elsewhere.
    """
    return _opened(envelope_of(body), ring, queue)


def _opened(envelope: Envelope, ring: KeyRing | None, queue: str) -> str:
    # A published one is for whichever queue was bound to its topic.
    place = None if envelope.place.kind == "topic" else Place("queue", queue)
    return unseal(envelope, _no_key if ring is None else ring.find, place)


def encrypted_again(body: str, ring: KeyRing, queue: str, *, target: str | None = None) -> str:
    """Return an encrypted message encrypted anew, with the first key; what is readable stays.

    Args:
        body: the message.
        ring: the keys.
        queue: the queue that it was found in.
        target: the queue that it goes to. Default: that in which it is.

    Raises:
        UnknownEncryptionKeyError, DecryptionError: as in `decrypted_body`.
    """
    envelope = envelope_of(body)
    text = decrypted_body(body, ring, queue)
    place = envelope.place if target in (None, queue) else Place("queue", str(target))
    return seal(text, ring.first, place, envelope.readable)


def encrypted_result(result: str, ring: KeyRing, queue: str, msg_id: int) -> str:
    """Return the JSON of a job's result encrypted."""
    return seal(result, ring.first, Place("result", f"{queue}/{msg_id}"), {})


def encrypted_result_again(result: str, ring: KeyRing, queue: str, msg_id: int) -> str:
    """Return the JSON of an encrypted result encrypted anew, with the first key.

    Raises:
        UnknownEncryptionKeyError, DecryptionError: as in `decrypted_body`.
    """
    place = Place("result", f"{queue}/{msg_id}")
    return seal(unseal(envelope_of(result), ring.find, place), ring.first, place, {})


def decrypted_result(result: Any, ring: KeyRing | None, queue: str, msg_id: int) -> Any:
    """Return a job's result as its handler returned it; one that is not encrypted as it is.

    Raises:
        UnknownEncryptionKeyError, DecryptionError: as in `decrypted_body`.
    """
    if not is_sealed_object(result):
        return result
    envelope = envelope_from(result)
    place = Place("result", f"{queue}/{msg_id}")
    return json.loads(unseal(envelope, _no_key if ring is None else ring.find, place))


def readable_identifiers(body: object) -> dict[str, Any]:
    """Return the identifiers of a message that stay readable, as text."""
    if not isinstance(body, dict):
        return {}
    found: dict[str, Any] = {}
    for name in IDENTIFIERS:
        value = body.get(name)
        if type(value) is str:
            found[name] = value[:MAX_ID_LENGTH]
        elif isinstance(value, str | int | float) and not isinstance(value, bool):
            found[name] = str(value)[:MAX_ID_LENGTH]
    return found


def _copy_key(body: object, key_path: str, readable: dict[str, Any]) -> None:
    """Copy the key of a message to the same place of what is readable."""
    names = key_path.split(".")
    if names[0] == FIELD:
        raise InvalidJobError(
            f"the queue takes its keys from {key_path}, and in an encrypted message {FIELD!r} is "
            "the ciphertext; let the queue take its keys from the header, or from another place"
        )
    value = body
    for name in names:
        if isinstance(value, list):
            index = int(name) if name.isdigit() else len(value)
            value = value[index] if index < len(value) else None
        else:
            value = value.get(name) if isinstance(value, dict) else None
    if value is None:
        return
    if isinstance(value, dict | list):
        raise InvalidJobError(
            f"the key of the job, at {key_path}, is an object or a list; the key of an encrypted "
            "job stays readable, and is a text, a number or true or false"
        )
    text = value if isinstance(value, str) else json.dumps(value)
    place = readable
    for name in names[:-1]:
        place = place.setdefault(name, {})
    place[names[-1]] = text


def _read(body: str) -> object:
    try:
        return orjson.loads(body)
    except ValueError:
        pass
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise InvalidJobError(
            "the job is nested too deeply to be encrypted, or holds a number of thousands of digits"
        ) from None


def _no_key(_: str) -> None:
    return None


async def decrypt_job(job: Job[Any], ring: KeyRing | None) -> None:
    """Decrypt the body of a claimed job; a key that is unknown is looked for once.

    Raises:
        UnknownEncryptionKeyError, DecryptionError: as in `decrypted_body`.
    """
    if ring is not None:
        await _prepare(ring, key_id_of(job.body))
    if len(job.body) > LARGE_CHARACTERS:
        await asyncio.to_thread(decrypt_job_now, job, ring)
    else:
        decrypt_job_now(job, ring)


def decrypt_job_now(job: Job[Any], ring: KeyRing | None) -> None:
    """Decrypt the body of a claimed job; its identifiers are filled in all the same.

    Raises:
        UnknownEncryptionKeyError, DecryptionError: as in `decrypted_body`.
    """
    envelope = envelope_of(job.body)
    for name, value in readable_identifiers(envelope.readable).items():
        setattr(job, name, value)
    job.body = _opened(envelope, ring, job.queue)
    job.is_encrypted = True


def note_identifiers(job: Job[Any]) -> None:
    """Fill in the readable identifiers of a claimed job that will not run, if it can be read."""
    with suppress(InvalidJobError):
        for name, value in readable_identifiers(_read(job.body)).items():
            setattr(job, name, value)


async def read_result(result: Any, ring: KeyRing | None, queue: str, msg_id: int) -> Any:
    """Return a job's result as its handler returned it; an unknown key is looked for once.

    Raises:
        UnknownEncryptionKeyError, DecryptionError: as in `decrypted_body`.
    """
    if ring is not None and is_sealed_object(result):
        await _prepare(ring, str(result[FIELD]["key"]))
    return decrypted_result(result, ring, queue, msg_id)


async def _prepare(ring: KeyRing, key_id: str | None) -> None:
    if ring.is_stale:
        await ring.prepare()
    if key_id is not None and ring.find(key_id) is None:
        await ring.learn(key_id)
