"""The envelope of an encrypted text: what is readable, and how it is bound to the rest.

An encrypted message is still a JSON object. It has the readable identifiers of the job, and one
field `enc` with the version, the key's id, the nonce, the ciphertext, and the place that the text
is bound to. Both are authenticated: whoever changes one of them, or moves the message to another
queue, makes it unreadable.
"""

from __future__ import annotations

import binascii
import json
import os
import re
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import orjson
from pydantic_core import SchemaValidator, core_schema

from meshhook.errors import DecryptionError, UnknownEncryptionKeyError
from meshhook.escaping import quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from meshhook.encryption.encryption_key import EncryptionKey

_BASE64 = SchemaValidator(
    core_schema.bytes_schema(), config=core_schema.CoreConfig(val_json_bytes="base64")
)
FIELD = "enc"
VERSION = 1
NONCE_BYTES = 12
_NONCE_CHARACTERS = 16
_TAG_BYTES = 16
_START = f'{{"{FIELD}": {{"v": '
_MARK = f'"{FIELD}": {{"v": '
_LONGEST_EARLIER_NAME = 3
_KEY_ID = re.compile(r'\{"enc": \{"v": [0-9]+, "key": "([^"\\]*)"')
_BEFORE_DATA = re.compile(r'\{"enc": \{"v": [0-9]+, "key": "[^"\\]*", "data": "')
_AFTER_DATA = '", "nonce": "'

PlaceKind: TypeAlias = Literal["queue", "topic", "result", "error"]
_KINDS: tuple[PlaceKind, ...] = ("queue", "topic", "result", "error")


class Place(NamedTuple):
    """What a text is bound to."""

    kind: PlaceKind
    """A message of a `queue` or a `topic`, or the `result` or `error` of a job."""
    name: str
    """The queue, the topic, or the queue and the msg_id, with a slash between them."""

    def __str__(self) -> str:
        """Name it in a sentence."""
        return f"{self.kind} {quoted(self.name)}"


class Envelope(NamedTuple):
    """What an encrypted text says without its key."""

    key_id: str
    place: Place
    readable: dict[str, Any]
    """Everything beside the field `enc`."""
    nonce: bytes
    ciphertext: bytes


def seal(text: str, key: EncryptionKey, place: Place, readable: Mapping[str, Any]) -> str:
    """Return a text encrypted, as the JSON of an object.

    Args:
        text: the text.
        key: the key.
        place: what it is bound to.
        readable: what the object has beside it: texts, or objects of texts.
    """
    nonce = os.urandom(NONCE_BYTES)
    return sealed_with(nonce, text, key, place, readable)


def sealed_with(
    nonce: bytes, text: str, key: EncryptionKey, place: Place, readable: Mapping[str, Any]
) -> str:
    """Do what `seal` does with a given nonce, which no other text of this key may have."""
    data = _associated(key.key_id, place, readable)
    ciphertext: bytes = key.cipher.encrypt(nonce, text.encode(), data)
    fields = {
        "v": VERSION,
        "key": key.key_id,
        place.kind: place.name,
        "nonce": binascii.b2a_base64(nonce, newline=False).decode(),
        "data": binascii.b2a_base64(ciphertext, newline=False).decode(),
    }
    return orjson.dumps({FIELD: fields, **readable}).decode()


def is_sealed(body: str) -> bool:
    """Return whether the JSON of a message, as PostgreSQL writes it, is that of an encrypted one.

    PostgreSQL puts the shortest names first, so that one look at the beginning tells, unless the
    path of the queue's keys starts with a name that is as short.
    """
    if body.startswith(_START):
        start = _BEFORE_DATA.match(body)
        if start is not None and body.startswith(_AFTER_DATA, body.find('"', start.end())):
            return True
        return is_sealed_object(_read(body))  # a message of somebody with a field of that name
    end_of_first_name = body.find('":', 2, 4 + _LONGEST_EARLIER_NAME)
    if end_of_first_name == -1 or _MARK not in body:
        return False
    return is_sealed_object(_read(body))


def is_sealed_object(value: object) -> bool:
    """Return whether a JSON value is an encrypted text."""
    if not isinstance(value, dict):
        return False
    fields = value.get(FIELD)
    return isinstance(fields, dict) and {"v", "key", "nonce", "data"} <= fields.keys()


def envelope_from(value: object) -> Envelope:
    """Return the envelope in a JSON value.

    Raises:
        DecryptionError: if it is none, or is of a later version.
    """
    if not is_sealed_object(value) or not isinstance(value, dict):
        raise DecryptionError("this is no encrypted message")
    fields = value[FIELD]
    if fields["v"] != VERSION or isinstance(fields["v"], bool):
        raise DecryptionError(
            f"it is encrypted in version {quoted(fields['v'], limit=20)} of the format, and this "
            f"program reads version {VERSION}; upgrade it"
        )
    kind = next((kind for kind in _KINDS if kind in fields), None)
    # Version, key, nonce and data, and one place.
    if kind is None or len(fields) != 5:  # noqa: PLR2004
        raise DecryptionError(f"its field {FIELD!r} is damaged")
    key_id, name, nonce, data = fields["key"], fields[kind], fields["nonce"], fields["data"]
    if not type(key_id) is type(name) is type(nonce) is type(data) is str:
        raise DecryptionError(f"its field {FIELD!r} is damaged")
    readable = value.copy()
    del readable[FIELD]
    ciphertext = _bytes_of(data)
    if len(ciphertext) < _TAG_BYTES:
        raise DecryptionError(f"its field {FIELD!r} is damaged")
    return Envelope(key_id, Place(kind, name), readable, _nonce_of(nonce), ciphertext)


def envelope_of(body: str) -> Envelope:
    """Return the envelope in the JSON of a message.

    Raises:
        DecryptionError: if there is none, or it is of a later version.
    """
    return envelope_from(_read(body))


def key_id_of(body: str) -> str | None:
    """Return the id of the key of an encrypted message, as far as one can be read."""
    start = _KEY_ID.match(body)
    if start is not None:
        return start[1]
    value: Any = _read(body)
    found = value[FIELD]["key"] if is_sealed_object(value) else None
    return found if isinstance(found, str) else None


def unseal(
    envelope: Envelope, find: Callable[[str], EncryptionKey | None], place: Place | None = None
) -> str:
    """Return the text of an envelope.

    Args:
        envelope: the envelope.
        find: finds a key by its id.
        place: what the text must be bound to. Default: what it says itself.

    Raises:
        UnknownEncryptionKeyError: if the key is not there.
        DecryptionError: if the key is another one, if the text or what is readable was changed, or
            if it belongs elsewhere.
    """
    key = find(envelope.key_id)
    if key is None:
        raise UnknownEncryptionKeyError(envelope.key_id)
    if place is not None and place != envelope.place:
        raise DecryptionError(
            f"it was encrypted for {envelope.place}, and found in {place}; only a replay by a "
            "program with the keys moves an encrypted job to another queue"
        )
    data = _associated(envelope.key_id, envelope.place, envelope.readable)
    try:
        text: bytes = key.cipher.decrypt(envelope.nonce, envelope.ciphertext, data)
        return text.decode()
    except Exception as error:
        if not isinstance(error, UnicodeDecodeError) and type(error).__name__ != "InvalidTag":
            raise
    raise DecryptionError(
        f"it cannot be decrypted with key {quoted(envelope.key_id)}: the message, its identifiers "
        "or its key were changed, or another key has this id here"
    )


def _associated(key_id: str, place: Place, readable: Mapping[str, Any]) -> bytes:
    """Return what is authenticated beside the text: JSON is unambiguous, and its names sorted."""
    associated = ["meshhook", VERSION, key_id, place.kind, place.name, readable]
    try:
        return orjson.dumps(associated, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        # Nothing that was encrypted: such as a number of a hundred digits.
        raise DecryptionError("its identifiers were changed") from None


def _nonce_of(text: str) -> bytes:
    # Of this length no bits are left behind the last byte.
    if len(text) == _NONCE_CHARACTERS:
        try:
            nonce = binascii.a2b_base64(text, strict_mode=True)
        except ValueError:
            pass
        else:
            if len(nonce) == NONCE_BYTES:
                return nonce
    raise DecryptionError(f"its field {FIELD!r} is damaged")


def _bytes_of(text: str) -> bytes:
    # For long texts thirty times as fast as that of Python. One text, one message: it takes no
    # other alphabet, no escapes, and no bits behind the last byte.
    if text.isascii() and "-" not in text and "_" not in text and "\\" not in text:
        try:
            found: bytes = _BASE64.validate_json(f'"{text}"')
        except ValueError:
            pass
        else:
            return found
    raise DecryptionError(f"its field {FIELD!r} is damaged")


def _read(body: str) -> object:
    try:
        return orjson.loads(body)
    except ValueError:
        pass
    try:
        return json.loads(body)  # it may be nested more deeply than orjson reads
    except (ValueError, RecursionError):
        return None
