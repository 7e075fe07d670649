"""Writing key files: adding keys, and choosing the one that encrypts."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from pathlib import Path

from meshhook.encryption.encryption_key import EncryptionKey, checked_key_id, checked_keys, new_key
from meshhook.encryption.key_sources import KeyFile
from meshhook.errors import EncryptionKeysUnavailableError, InvalidSettingError
from meshhook.escaping import quoted


def add_key(path: Path, key_id: str) -> list[str]:
    """Add a new random key at the end of a file, which is made if it is not there.

    Returns:
        The ids of its keys, in their order.

    Raises:
        InvalidSettingError: if the id is none, or the file has a key of that id.
        EncryptionKeysUnavailableError: if the file cannot be read or written.
    """
    checked_key_id(key_id)
    keys = KeyFile(path).load_now() if path.exists() else None
    return _write(path, [*(keys or {}).values(), new_key(key_id)])


def use_key(path: Path, key_id: str) -> list[str]:
    """Put a key of a file first, so that it encrypts.

    Returns:
        The ids of its keys, in their order.

    Raises:
        InvalidSettingError: if the file has no such key.
        EncryptionKeysUnavailableError: if the file cannot be read or written.
    """
    keys = KeyFile(path).load_now() or {}
    if key_id not in keys:
        raise InvalidSettingError(
            f"the key file {str(path)!r} has no key {quoted(key_id, limit=60)}; it has: "
            f"{', '.join(keys)}"
        )
    first = keys.pop(key_id)
    return _write(path, [first, *keys.values()])


def _write(path: Path, keys: list[EncryptionKey]) -> list[str]:
    """Replace a file in one step, so that nobody reads half of it, with the owner that it had."""
    path = path.resolve()  # what a symbolic link leads to is replaced, and not the link
    ids = list(checked_keys(keys))
    lines = "".join(f"{key.as_line()}\n" for key in keys)
    try:
        before = path.stat() if path.exists() else None
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "w") as file:
                if before is not None:
                    _keep_access(name, before)
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)  # noqa: PTH105 - the same
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise EncryptionKeysUnavailableError(
            f"the key file {str(path)!r} cannot be written: {error.strerror or error}"
        ) from None
    return ids


def _keep_access(name: str, before: os.stat_result) -> None:
    """Give a new file the owner and mode of the one that it replaces: workers may be another user.

    Raises:
        PermissionError: if only root or that owner could.
    """
    mode = before.st_mode & 0o777
    # By the name that it has now.
    found = os.stat(name)  # noqa: PTH116
    if (found.st_uid, found.st_gid) != (before.st_uid, before.st_gid):
        try:
            os.chown(name, before.st_uid, before.st_gid)
        except PermissionError:
            # A group that nothing is granted to does not matter.
            if found.st_uid != before.st_uid or mode & stat.S_IRWXG:
                raise PermissionError(
                    errno.EPERM, f"it belongs to user {before.st_uid} and group {before.st_gid}"
                ) from None
    os.chmod(name, mode)  # noqa: PTH101
