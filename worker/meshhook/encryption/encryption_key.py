"""Encryption keys: an id that everybody may read, and 32 secret bytes."""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from typing import TYPE_CHECKING, Any

from meshhook.errors import InvalidSettingError
from meshhook.escaping import quoted
from meshhook.known_secrets import known_secrets

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

KEY_BYTES = 32
"""The length of a key of AES-256, in bytes."""
MAX_KEYS = 100
"""The most keys of a ring."""
_KEY_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")


class EncryptionKey:
    """One key: its id and its cipher. Neither its text nor its repr shows the secret."""

    __slots__ = ("_secret", "cipher", "key_id")

    key_id: str
    """1 to 40 characters of a-z, A-Z, 0-9, `.`, `_` and `-`; every message names it."""
    cipher: Any
    """AES-256-GCM with this key."""

    def __init__(self, key_id: str, secret: bytes | str) -> None:
        """Take the id, and 32 bytes or their base64.

        Raises:
            InvalidSettingError: if the id or the secret is none; the message shows no secret.
        """
        self.key_id = checked_key_id(key_id)
        self._secret = _checked_secret(key_id, secret)
        # What quotes the key by accident is hidden.
        known_secrets.remember(base64.b64encode(self._secret).decode())
        self.cipher = _aes_gcm()(self._secret)

    def __eq__(self, other: object) -> bool:
        """Return whether it is the same key under the same id."""
        if not isinstance(other, EncryptionKey):
            return NotImplemented
        return self.key_id == other.key_id and secrets.compare_digest(self._secret, other._secret)

    def __hash__(self) -> int:
        """Hash the id."""
        return hash(self.key_id)

    def __repr__(self) -> str:
        """Name the key, without its secret."""
        return f"<EncryptionKey {self.key_id}>"

    def __reduce__(self) -> Any:
        """Refuse to be pickled: that would write the secret."""
        raise TypeError("an encryption key is not pickled; load the key ring in each process")

    def as_line(self) -> str:
        """Return the key as a line of a key file: secret."""
        return f"{self.key_id}:{base64.b64encode(self._secret).decode()}"


def checked_key_id(key_id: object) -> str:
    """Return a key's id.

    Raises:
        InvalidSettingError: if it is none. It is not shown: a secret may stand in its place.
    """
    if not isinstance(key_id, str) or not _KEY_ID.fullmatch(key_id):
        raise InvalidSettingError(
            "the id of an encryption key has 1 to 40 characters of a-z, A-Z, 0-9, ., _ and -, and "
            "starts with a letter or digit, such as k1"
        )
    return key_id


def new_key(key_id: str) -> EncryptionKey:
    """Return a new random key.

    Raises:
        InvalidSettingError: if the id is none.
    """
    return EncryptionKey(key_id, secrets.token_bytes(KEY_BYTES))


def checked_keys(keys: Iterable[EncryptionKey]) -> dict[str, EncryptionKey]:
    """Return keys by id, in their order.

    Raises:
        InvalidSettingError: if there are none or more than 100, or two have the same id.
    """
    found: dict[str, EncryptionKey] = {}
    for key in keys:
        if key.key_id in found:
            raise InvalidSettingError(f"two encryption keys have the id {quoted(key.key_id)}")
        found[key.key_id] = key
    if not 1 <= len(found) <= MAX_KEYS:
        raise InvalidSettingError(f"a key ring has 1 to {MAX_KEYS} keys, got {len(found)}")
    return found


def keys_from_lines(text: str, where: str) -> dict[str, EncryptionKey]:
    """Return the keys of a text with one `id:base64` in each line, the first of which encrypts.

    Empty lines and lines that start with `#` are left out. In others commas part keys, too, for a
    variable.

    Args:
        text: the text.
        where: where it is from, for error messages.

    Raises:
        InvalidSettingError: naming the line; no part of it is shown.
    """
    keys = []
    # Some editors begin a file with a byte order mark, which nobody sees.
    parts = _parts_of(text.removeprefix("\ufeff"))
    for number, part in enumerate(parts, start=1):
        stripped = part.strip()
        if not stripped or stripped.startswith("#"):
            continue
        key_id, colon, secret = stripped.partition(":")
        try:
            if not colon:
                raise InvalidSettingError("a key is written as id:base64")  # noqa: TRY301 - one place adds where
            keys.append(EncryptionKey(key_id.strip(), secret.strip()))
        except InvalidSettingError as error:
            raise InvalidSettingError(f"{where}, key or line {number}: {error}") from None
    try:
        return checked_keys(keys)
    except InvalidSettingError as error:
        raise InvalidSettingError(f"{where}: {error}") from None


def _parts_of(text: str) -> Iterator[str]:
    """Yield the lines of a text, of which those without a comment are parted at commas as well."""
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            yield line  # a key behind a comma in it is no key
        else:
            yield from line.split(",")


def _checked_secret(key_id: str, secret: object) -> bytes:
    if isinstance(secret, str):
        try:
            secret = binascii.a2b_base64(secret.encode("ascii"), strict_mode=True)
        except (ValueError, UnicodeEncodeError):
            raise InvalidSettingError(
                f"the encryption key {quoted(key_id)} is not base64; make one with: "
                "meshhook encryption new-key FILE --id ID"
            ) from None
    if not isinstance(secret, bytes | bytearray | memoryview):
        raise InvalidSettingError(
            f"the encryption key {quoted(key_id)}: expected bytes or base64, got "
            f"{type(secret).__name__}"
        )
    if len(secret) != KEY_BYTES:
        raise InvalidSettingError(
            f"the encryption key {quoted(key_id)} has {len(secret)} bytes; AES-256 takes "
            f"{KEY_BYTES}. Make one with: meshhook encryption new-key FILE --id ID"
        )
    return bytes(secret)


def _aes_gcm() -> Any:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - an extra
    except ImportError:
        raise InvalidSettingError(
            "encryption needs the package cryptography: pip install 'meshhook-queue[crypto]'"
        ) from None
    return AESGCM
