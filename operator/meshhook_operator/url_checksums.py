"""Checksums of the workers' database URLs: a new one has the workers replaced.

Many people may read a checksum in a Deployment, so it takes a tenth of a second to compute: in a
thread, when a Deployment is first written with it, and never for a database that was not reached
and has no workers.
"""

from __future__ import annotations

import asyncio
import hashlib

HURRIED_AT_ONCE = 3
"""How many are computed at once for Deployments whose queue was read. Fewer than the event loop
has threads, in which it looks up the API server's name, too."""
_COST = 2**14


class UrlChecksums:
    """Makes checksums, and limits how many are computed at once."""

    def __init__(self) -> None:
        """Take nothing; nothing is computed yet."""
        self._hurried = asyncio.Semaphore(HURRIED_AT_ONCE)
        self._patient = asyncio.Semaphore(1)

    def of(self, url: str, salt: str) -> UrlChecksum:
        """Return the checksum of a URL, to be computed when it is needed."""
        return UrlChecksum(url, salt, hurried=self._hurried, patient=self._patient)


class UrlChecksum:
    """The checksum of one URL. Two are equal if their URLs and salts are."""

    def __init__(
        self, url: str, salt: str, *, hurried: asyncio.Semaphore, patient: asyncio.Semaphore
    ) -> None:
        """Take what it is made from, and the limits; nothing is computed yet."""
        self._url = url
        self._salt = salt
        self._hurried = hurried
        self._patient = patient
        self._value: str | None = None

    def __eq__(self, other: object) -> bool:
        """Compare what they are made from, which takes no time."""
        if not isinstance(other, UrlChecksum):
            return NotImplemented
        return (self._url, self._salt) == (other._url, other._salt)

    def __hash__(self) -> int:
        """Return that of what it is made from."""
        return hash((self._url, self._salt))

    def __repr__(self) -> str:
        """Show nothing, since the URL holds a password."""
        return "UrlChecksum(...)"

    async def compute(self, *, is_hurried: bool) -> str:
        """Return it: eight hexadecimal digits that do not disclose the URL.

        Args:
            is_hurried: whether a queue that was read waits for it. The others wait for each other,
                so that hundreds of databases that cannot be reached hold up no workers.
        """
        if self._value is None:
            async with self._hurried if is_hurried else self._patient:
                if self._value is None:
                    self._value = await asyncio.to_thread(_digest, self._url, self._salt)
        return self._value


def _digest(url: str, salt: str) -> str:
    return hashlib.scrypt(url.encode(), salt=salt.encode(), n=_COST, r=8, p=1, dklen=4).hex()
