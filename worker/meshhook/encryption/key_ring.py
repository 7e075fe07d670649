"""The key ring: the first key encrypts, all of them decrypt."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from math import inf
from typing import TYPE_CHECKING, Any, Self

from meshhook.arguments import checked_flag, kind_of
from meshhook.encryption.key_sources import GivenKeys, KeyFile, KeyFunction, KeySource, keys_of
from meshhook.errors import EncryptionKeysUnavailableError, InvalidSettingError
from meshhook.observability.loggers import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from meshhook.encryption.encryption_key import EncryptionKey

_log = get_logger("meshhook.encryption")

RETRY_SECONDS = 5.0
"""After how long keys that could not be had are asked for again."""
MAX_AGE_SECONDS = 300.0
UNKNOWN_CHECK_SECONDS = 10.0
KEYS_VARIABLE = "MESHHOOK_ENCRYPTION_KEYS"
KEY_FILE_VARIABLE = "MESHHOOK_ENCRYPTION_KEY_FILE"


class KeyRing:
    """The keys of a program. Threads, tasks and services may share one ring.

    The first key encrypts, and all decrypt. Neither its text nor its repr shows a secret.
    """

    def __init__(
        self,
        keys: Mapping[str, bytes | str] | Iterable[tuple[str, bytes | str]],
        *,
        keeps_error_messages: bool = False,
    ) -> None:
        """Take the keys: ids, and 32 bytes or their base64 each.

        Args:
            keys: the keys, in their order.
            keeps_error_messages: whether the history, dead letters, logs and traces have the
                message and the stack of an exception of an encrypted job, which often hold values
                of the payload. Default false: they have its type.

        Raises:
            InvalidSettingError: if there is no key, or one is not 32 bytes, or the package
                `cryptography` is missing.
        """
        self._begin(GivenKeys(keys_of(keys)), keeps_error_messages=keeps_error_messages)

    def _begin(self, source: KeySource, *, keeps_error_messages: bool) -> None:
        self.keeps_error_messages = checked_flag("keeps_error_messages", keeps_error_messages)
        self._source = source
        self._keys: dict[str, EncryptionKey] = {}
        self._check_at = -inf
        self._asked_at = -inf
        self._lock = threading.Lock()
        self._loading: tuple[asyncio.AbstractEventLoop, asyncio.Future[None]] | None = None
        if isinstance(source, GivenKeys):
            self.prepare_now()

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], *, keeps_error_messages: bool = False) -> Self:
        """Return the ring of a file with one `id:base64` a line, the first of which encrypts.

        It is read when it is needed, and again within a second after it has changed. Nobody but
        its owner may read it, as with the key of a TLS certificate.

        Args:
            path: the file. `meshhook encryption new-key FILE` makes one.
            keeps_error_messages: as above.

        Raises:
            InvalidSettingError: if `path` is no path. What is wrong with the file is said when it
                is read.
        """
        return cls._of(KeyFile(path), keeps_error_messages=keeps_error_messages)

    @classmethod
    def from_function(
        cls,
        load: Callable[[], Any],
        *,
        max_age_seconds: float = MAX_AGE_SECONDS,
        keeps_error_messages: bool = False,
    ) -> Self:
        """Return the ring of a function that returns the keys, such as with the help of a KMS.

        It is called when keys are needed first, again when they are old, and at most every 10
        seconds while a message names a key that is unknown. If it fails later, the keys known
        stay.

        Args:
            load: a function without arguments, plain or async, that returns what `KeyRing` takes.
            max_age_seconds: after how long to call it again, 1 to 86,400 seconds. Default 300.
            keeps_error_messages: as above.

        Raises:
            InvalidSettingError: if an argument is wrong.
        """
        source = KeyFunction(
            load, max_age_seconds=max_age_seconds, unknown_check_seconds=UNKNOWN_CHECK_SECONDS
        )
        return cls._of(source, keeps_error_messages=keeps_error_messages)

    @classmethod
    def from_environment(cls, *, keeps_error_messages: bool = False) -> Self | None:
        """Return the ring that the environment names, or None if it names none.

        `MESHHOOK_ENCRYPTION_KEY_FILE` is the path of a key file; `MESHHOOK_ENCRYPTION_KEYS` has the
        keys themselves, with commas between them.

        Args:
            keeps_error_messages: as above.

        Raises:
            InvalidSettingError: if both are set, or a key is wrong.
        """
        path = os.environ.get(KEY_FILE_VARIABLE, "").strip()
        text = os.environ.get(KEYS_VARIABLE, "").strip()
        if path and text:
            raise InvalidSettingError(f"set {KEY_FILE_VARIABLE} or {KEYS_VARIABLE}, not both")
        if path:
            return cls.from_file(path, keeps_error_messages=keeps_error_messages)
        if not text:
            return None
        from meshhook.encryption.encryption_key import keys_from_lines  # noqa: PLC0415 - rare

        keys = keys_from_lines(text, f"environment variable {KEYS_VARIABLE}")
        return cls._of(GivenKeys(keys), keeps_error_messages=keeps_error_messages)

    @classmethod
    def _of(cls, source: KeySource, *, keeps_error_messages: bool) -> Self:
        ring = cls.__new__(cls)
        ring._begin(source, keeps_error_messages=keeps_error_messages)  # noqa: SLF001 - its own
        return ring

    @property
    def key_ids(self) -> tuple[str, ...]:
        """The ids of the keys known so far, in their order."""
        return tuple(self._keys)

    @property
    def first(self) -> EncryptionKey:
        """The key that encrypts.

        Raises:
            EncryptionKeysUnavailableError: if the keys were never had.
        """
        for key in self._keys.values():
            return key
        raise EncryptionKeysUnavailableError("the encryption keys are not loaded yet")

    @property
    def is_stale(self) -> bool:
        """Whether to call `prepare` before the next use."""
        return time.monotonic() >= self._check_at

    def find(self, key_id: str) -> EncryptionKey | None:
        """Return a key by its id, if it is known."""
        return self._keys.get(key_id)

    def may_learn(self, key_id: str) -> bool:
        """Return whether a key is unknown and `learn` would look for it now."""
        if key_id in self._keys:
            return False
        return time.monotonic() - self._asked_at >= self._source.unknown_check_seconds

    async def learn(self, key_id: str) -> None:
        """Ask for the keys again if one is unknown, unless that was done a moment ago."""
        if self.may_learn(key_id):
            self._check_at = -inf
            await self.prepare()

    def learn_now(self, key_id: str) -> None:
        """Do what `learn` does, and block."""
        if self.may_learn(key_id):
            self._check_at = -inf
            self.prepare_now()

    async def prepare(self) -> None:
        """Load the keys, or look whether they have changed, if it is time.

        Raises:
            InvalidSettingError, EncryptionKeysUnavailableError: if there are no keys. Later, what
                is known stays, and the log says why.
        """
        if not self.is_stale:
            return
        loop = asyncio.get_running_loop()
        if self._loading is not None and self._loading[0] is loop:
            await asyncio.shield(self._loading[1])
            return
        task = asyncio.ensure_future(self._load())
        task.add_done_callback(self._loaded)
        self._loading = loop, task
        await asyncio.shield(task)

    def prepare_now(self) -> None:
        """Do what `prepare` does, and block."""
        if not self.is_stale:
            return
        with self._lock:
            if not self.is_stale:
                return
            self._asked_at = time.monotonic()
            try:
                self._take(self._source.load_now())
            except (InvalidSettingError, EncryptionKeysUnavailableError) as error:
                self._keep_known(error)

    async def keep_fresh(self) -> None:
        """Look for changes of the keys until cancelled."""
        while self._source.check_seconds < inf:
            await asyncio.sleep(max(self._check_at - time.monotonic(), 0.05))
            await self.prepare()

    async def _load(self) -> None:
        self._asked_at = time.monotonic()
        try:
            self._take(await self._source.load())
        except (InvalidSettingError, EncryptionKeysUnavailableError) as error:
            self._keep_known(error)

    def _loaded(self, task: asyncio.Future[None]) -> None:
        if self._loading is not None and self._loading[1] is task:
            self._loading = None
        if not task.cancelled():
            task.exception()  # whoever waits gets it; nobody may wait any more

    def _take(self, keys: dict[str, EncryptionKey] | None) -> None:
        if keys is not None and list(keys.values()) != list(self._keys.values()):
            if self._keys:
                _log.info("encryption keys changed", keys=",".join(keys), first=next(iter(keys)))
            self._keys = keys
        self._check_at = time.monotonic() + self._source.check_seconds

    def _keep_known(self, error: Exception) -> None:
        if not self._keys:
            raise error
        self._check_at = time.monotonic() + RETRY_SECONDS
        _log.warning("encryption keys not read; those known stay", error=str(error))

    def __repr__(self) -> str:
        """Name the keys known so far, without their secrets."""
        return f"<KeyRing {', '.join(self._keys) or '(not loaded)'}>"

    def __reduce__(self) -> Any:
        """Refuse to be pickled: that would write the secrets."""
        raise TypeError("a key ring is not pickled; make one in each process")


def checked_ring(encryption: KeyRing | None) -> KeyRing | None:
    """Return the ring given as an argument.

    Raises:
        InvalidSettingError: if it is none; the value is not shown.
    """
    if encryption is None or isinstance(encryption, KeyRing):
        return encryption
    raise InvalidSettingError(f"encryption is a KeyRing, got {kind_of(encryption)}")


def withholds_errors(ring: KeyRing | None) -> bool:
    """Return whether errors about messages that a ring encrypts are named by their type only."""
    return ring is not None and not ring.keeps_error_messages
