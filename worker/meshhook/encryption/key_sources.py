"""Where the keys of a ring come from: given once, a file, or a function that asks a KMS."""

from __future__ import annotations

import asyncio
import inspect
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshhook.arguments import checked_seconds
from meshhook.encryption.encryption_key import EncryptionKey, checked_keys, keys_from_lines
from meshhook.errors import EncryptionKeysUnavailableError, InvalidSettingError
from meshhook.escaping import quoted

if TYPE_CHECKING:
    from collections.abc import Callable

FILE_CHECK_SECONDS = 1.0
"""How long a file may have changed before that is seen."""
MAX_FILE_BYTES = 65_536
LOAD_TIMEOUT_SECONDS = 30.0
"""How long an asynchronous function may take to return the keys."""


class KeySource(ABC):
    """Where keys come from."""

    check_seconds: float
    """After how long to ask again."""
    unknown_check_seconds: float
    """How often, at most, to ask for a key that is unknown."""

    @abstractmethod
    async def load(self) -> dict[str, EncryptionKey] | None:
        """Return the keys, or None if they have not changed.

        Raises:
            InvalidSettingError, EncryptionKeysUnavailableError: they cannot be had.
        """

    @abstractmethod
    def load_now(self) -> dict[str, EncryptionKey] | None:
        """Do what `load` does, and block."""


class GivenKeys(KeySource):
    """Keys that never change."""

    check_seconds = unknown_check_seconds = inf

    def __init__(self, keys: dict[str, EncryptionKey]) -> None:
        """Take the keys."""
        self._keys = keys

    async def load(self) -> dict[str, EncryptionKey] | None:
        """Return the keys."""
        return self._keys

    def load_now(self) -> dict[str, EncryptionKey] | None:
        """Return the keys."""
        return self._keys


class KeyFile(KeySource):
    """A file with one `id:base64` a line, which is read again when it has changed."""

    check_seconds = unknown_check_seconds = FILE_CHECK_SECONDS

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Take its path.

        Raises:
            InvalidSettingError: if it is no path.
        """
        if not isinstance(path, str | os.PathLike) or not str(path) or "\0" in str(path):
            raise InvalidSettingError(f"path is that of a key file, got {quoted(path)}")
        self.path = Path(path)
        self._seen: tuple[int, ...] | None = None

    async def load(self) -> dict[str, EncryptionKey] | None:
        """Read the file; that takes no longer than to change threads for it."""
        return self.load_now()

    def load_now(self) -> dict[str, EncryptionKey] | None:
        """Read the file if it has changed.

        Raises:
            EncryptionKeysUnavailableError: if it cannot be read, or others can read it.
            InvalidSettingError: naming the line that is wrong.
        """
        try:
            with self.path.open("rb") as file:
                found = os.fstat(file.fileno())
                seen = (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)
                if seen == self._seen:
                    return None
                _check_permissions(self.path, found)
                data = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise EncryptionKeysUnavailableError(
                f"the key file {str(self.path)!r} cannot be read: {error.strerror or error}"
            ) from None
        where = f"the key file {str(self.path)!r}"
        if len(data) > MAX_FILE_BYTES:
            raise InvalidSettingError(f"{where} has more than {MAX_FILE_BYTES:,} bytes")
        try:
            text = data.decode()
        except UnicodeDecodeError:
            raise InvalidSettingError(
                f"{where} is not text; a key is written as id:base64"
            ) from None
        keys = keys_from_lines(text, where)
        self._seen = seen
        return keys


class KeyFunction(KeySource):
    """A function of the caller, such as one that decrypts the keys with a KMS."""

    def __init__(
        self, function: Callable[[], Any], *, max_age_seconds: float, unknown_check_seconds: float
    ) -> None:
        """Take the function, after how long to call it again, and how often for an unknown key."""
        if not callable(function):
            raise InvalidSettingError("load is a function without arguments that returns keys")
        self._function = function
        self.check_seconds = checked_seconds("max_age_seconds", max_age_seconds, 1, 86_400)
        self.unknown_check_seconds = unknown_check_seconds

    async def load(self) -> dict[str, EncryptionKey] | None:
        """Call it: in a thread, if it is a plain function."""
        try:
            async with asyncio.timeout(LOAD_TIMEOUT_SECONDS):
                if inspect.iscoroutinefunction(self._function):
                    found = await self._function()
                else:
                    found = await asyncio.to_thread(self._called)
                    if inspect.isawaitable(found):
                        found = await found
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise _unavailable(error) from None  # the caller's function has raised it
        except Exception as error:  # noqa: BLE001 - whatever the caller's function raises
            raise _unavailable(error) from None
        return _keys_from(found)

    def load_now(self) -> dict[str, EncryptionKey] | None:
        """Call it, and block. An asynchronous one runs in an event loop of its own, in a thread."""
        if inspect.iscoroutinefunction(self._function):
            return self._loaded_apart()
        try:
            found = self._called()
        except Exception as error:  # noqa: BLE001 - whatever the caller's function raises
            raise _unavailable(error) from None
        if inspect.isawaitable(found):
            if inspect.iscoroutine(found):
                found.close()
            return self._loaded_apart()
        return _keys_from(found)

    def _called(self) -> Any:
        """Call a plain function. What it yields is read here, since that is its own work, too."""
        found = self._function()
        return list(found) if isinstance(found, Iterator) else found

    def _loaded_apart(self) -> dict[str, EncryptionKey] | None:
        with ThreadPoolExecutor(1, "meshhook-keys") as pool:
            return pool.submit(lambda: asyncio.run(self.load())).result()


def keys_of(given: Any) -> dict[str, EncryptionKey]:
    """Return keys given as a mapping of ids to secrets, or as pairs of both.

    Raises:
        InvalidSettingError: naming what is wrong, without a secret.
    """
    if isinstance(given, str):
        return keys_from_lines(given, "the keys")
    pairs = given.items() if isinstance(given, Mapping) else given
    keys = []
    try:
        for each in pairs:
            if isinstance(each, EncryptionKey):
                keys.append(each)
                continue
            key_id, secret = each
            keys.append(EncryptionKey(key_id, secret))
    except (TypeError, ValueError) as error:
        if isinstance(error, InvalidSettingError):
            raise
        raise InvalidSettingError(
            "keys are a mapping of ids to 32 bytes or their base64, or a list of such pairs, got "
            f"{type(given).__name__}"
        ) from None
    return checked_keys(keys)


def _keys_from(found: object) -> dict[str, EncryptionKey]:
    try:
        return keys_of(found)
    except InvalidSettingError as error:
        raise EncryptionKeysUnavailableError(f"the function that loads the keys: {error}") from None
    except Exception as error:  # noqa: BLE001 - a mapping of the caller may ask a KMS for each key
        raise _unavailable(error) from None


def _unavailable(error: BaseException) -> EncryptionKeysUnavailableError:
    # Its text may hold a secret, such as a token.
    return EncryptionKeysUnavailableError(
        f"the function that loads the keys failed: {type(error).__name__}"
    )


def _check_permissions(path: Path, found: os.stat_result) -> None:
    if os.name == "nt" or not stat.S_ISREG(found.st_mode):
        return
    others = stat.S_IRWXG | stat.S_IRWXO
    if found.st_uid == 0:
        others &= ~stat.S_IRGRP
    if found.st_mode & others:
        raise EncryptionKeysUnavailableError(
            f"the key file {str(path)!r} can be read by others, mode "
            f"{stat.S_IMODE(found.st_mode):04o}: it must be 0600 or less, or 0640 where it belongs "
            f"to root (chmod 600 {str(path)!r}; for a Secret of Kubernetes, defaultMode: 0440)"
        )
