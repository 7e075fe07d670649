"""The encryption keys of a command: an option, or the environment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from meshhook.cli.failures import UsageError
from meshhook.encryption.envelope import is_sealed, key_id_of
from meshhook.encryption.key_ring import KEY_FILE_VARIABLE, KeyRing
from meshhook.encryption.messages import decrypted_body, decrypted_result
from meshhook.escaping import shown

KeyFileOption = Annotated[
    Path | None,
    typer.Option(
        "--encryption-key-file",
        metavar="FILE",
        help=f"The file with the encryption keys. Default: {KEY_FILE_VARIABLE}.",
    ),
]

DecryptOption = Annotated[
    bool, typer.Option("--decrypt", help="Decrypt what is encrypted; it needs the keys.")
]


def key_ring(file: Path | None = None) -> KeyRing | None:
    """Return the keys of a file, else those of the environment; None if there are none.

    Raises:
        InvalidSettingError: if the environment names keys in two ways, or keys that are none.
    """
    return KeyRing.from_environment() if file is None else KeyRing.from_file(file)


def needed_ring(file: Path | None) -> KeyRing:
    """Return the keys of a command that needs some, loaded.

    Raises:
        UsageError: if there are none.
        InvalidSettingError, EncryptionKeysUnavailableError: if they cannot be read.
    """
    ring = key_ring(file)
    if ring is None:
        raise UsageError(
            f"this needs the encryption keys: --encryption-key-file FILE, or {KEY_FILE_VARIABLE}"
        )
    ring.prepare_now()
    return ring


def ring_to_decrypt(file: Path | None, *, decrypt: bool) -> KeyRing | None:
    """Return the keys of a command that was asked to decrypt; None if it was not.

    Raises:
        UsageError: if there are no keys, or a file is named for nothing.
        InvalidSettingError, EncryptionKeysUnavailableError: if they cannot be read.
    """
    if decrypt:
        return needed_ring(file)
    if file is not None:
        raise UsageError("--encryption-key-file goes with --decrypt")
    return None


def encryption_of(body: str | None) -> str | None:
    """Return how a message is encrypted, for people; None if it is not."""
    if body is None or not is_sealed(body):
        return None
    return f"encrypted with key {shown(key_id_of(body) or '?', limit=60)}; --decrypt shows it"


def shown_body(body: str, ring: KeyRing, queue: str) -> str:
    """Return a message decrypted; one that is not encrypted as it is.

    Raises:
        EncryptionError: if it cannot be decrypted.
    """
    return decrypted_body(body, ring, queue) if is_sealed(body) else body


def shown_result(result: str, ring: KeyRing, queue: str, msg_id: int) -> str:
    """Return the JSON of a result decrypted; of one that is not encrypted as it is.

    Raises:
        EncryptionError: if it cannot be decrypted.
    """
    return json.dumps(decrypted_result(json.loads(result), ring, queue, msg_id))
