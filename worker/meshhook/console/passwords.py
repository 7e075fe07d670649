"""Users with passwords, of which only Argon2 hashes are kept."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable

from argon2 import PasswordHasher, extract_parameters
from argon2.exceptions import Argon2Error, InvalidHashError

from meshhook.console.users import MAX_NAME_LENGTH, Role, User
from meshhook.errors import InvalidSettingError
from meshhook.escaping import quoted

MIN_PASSWORD_LENGTH = 12
MAX_PASSWORD_LENGTH = 1_000
_KNOWN_SECONDS = 300.0
_MAX_KNOWN = 1_000

_hasher = PasswordHasher()


def hash_password(password: str) -> str:
    """Return the hash of a password, for `MESHHOOK_CONSOLE_USERS`.

    Raises:
        InvalidSettingError: if it has less than 12 or more than 1,000 characters.
    """
    if not MIN_PASSWORD_LENGTH <= len(password) <= MAX_PASSWORD_LENGTH:
        raise InvalidSettingError(
            f"a password has {MIN_PASSWORD_LENGTH} to {MAX_PASSWORD_LENGTH} characters, got one of "
            f"{len(password)}"
        )
    return _hasher.hash(password)


def parse_users(text: str) -> dict[str, tuple[User, str]]:
    """Return the users by name, each with the hash of the password.

    Raises:
        InvalidSettingError: naming the line that is wrong, without its hash.
    """
    users: dict[str, tuple[User, str]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, role, hashed = (*line.strip().split(":", 2), "", "")[:3]
        where = f"line {number} of the console's users"
        if not name or len(name) > MAX_NAME_LENGTH or not name.isprintable():
            raise InvalidSettingError(f"{where}: it is NAME:ROLE:HASH, and the name is missing")
        if role not in list(Role):
            raise InvalidSettingError(
                f"{where}: the role of {quoted(name)} is viewer or operator, got {quoted(role)}"
            )
        try:
            extract_parameters(hashed)
        except InvalidHashError:
            raise InvalidSettingError(
                f"{where}: what stands for the password of {quoted(name)} is no Argon2 hash; make "
                "one: meshhook console --hash-password"
            ) from None
        if name in users:
            raise InvalidSettingError(f"{where}: {quoted(name)} stands there twice")
        users[name] = User(name, Role(role)), hashed
    if not users:
        raise InvalidSettingError("the console's users: there is none; a line is NAME:ROLE:HASH")
    return users


class Passwords:
    """Checks names and passwords. One that was right is known again for five minutes."""

    def __init__(
        self, users: dict[str, tuple[User, str]], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Take the users, as `parse_users` returns them."""
        self._users = users
        self._clock = clock
        # Whoever is unknown takes as long as one whose password is wrong.
        self._nobody = _hasher.hash(secrets.token_urlsafe(24))
        self._salt = secrets.token_bytes(32)
        self._known: OrderedDict[bytes, tuple[User, float]] = OrderedDict()
        # Each check takes memory and a processor on purpose.
        self._line = asyncio.Semaphore(2)

    def known(self, name: str, password: str) -> User | None:
        """Return the user if name and password were right a short while ago."""
        found = self._known.get(self._mark(name, password))
        return found[0] if found is not None and found[1] > self._clock() else None

    async def check(self, name: str, password: str) -> User | None:
        """Return the user whose name and password these are; None if they are wrong."""
        user, hashed = self._users.get(name, (None, self._nobody))
        if len(password) > MAX_PASSWORD_LENGTH:
            return None
        async with self._line:
            is_right = await asyncio.to_thread(_is_right, hashed, password)
        if user is None or not is_right:
            return None
        self._known[self._mark(name, password)] = user, self._clock() + _KNOWN_SECONDS
        while len(self._known) > _MAX_KNOWN:
            self._known.popitem(last=False)
        return user

    def _mark(self, name: str, password: str) -> bytes:
        text = f"{len(name)}:{name}{password}".encode(errors="surrogatepass")
        return hmac.digest(self._salt, text, hashlib.sha256)


def _is_right(hashed: str, password: str) -> bool:
    try:
        return _hasher.verify(hashed, password)
    except (Argon2Error, UnicodeEncodeError):
        return False
