"""Encryption keys for tests."""

from __future__ import annotations

import secrets

from meshhook.encryption.encryption_key import KEY_BYTES
from meshhook.encryption.key_ring import KeyRing


def make_key_ring(*key_ids: str, keeps_error_messages: bool = False) -> KeyRing:
    """Return a ring of new random keys, for an app or a service under test.

    Args:
        key_ids: the ids of the keys; the first encrypts. Default: one, `test`.
        keeps_error_messages: as for `meshhook.KeyRing`. Default false.

    Raises:
        InvalidSettingError: if an id is none, two are the same, or the package `cryptography` is
            missing.
    """
    keys = [(key_id, secrets.token_bytes(KEY_BYTES)) for key_id in key_ids or ("test",)]
    return KeyRing(keys, keeps_error_messages=keeps_error_messages)
