"""From a request to its user: without authentication, by password, or by a proxy's headers."""

from __future__ import annotations

import asyncio
import base64
import binascii
from ipaddress import ip_address
from typing import Protocol

from starlette.requests import HTTPConnection

from meshhook.console.login_limits import LoginLimits
from meshhook.console.passwords import Passwords, parse_users
from meshhook.console.settings import ConsoleSettings, is_loopback
from meshhook.console.users import MAX_NAME_LENGTH, Role, User
from meshhook.observability.loggers import get_logger

_log = get_logger("meshhook.console")


class RefusedError(Exception):
    """A request that is not answered with what it asks for."""

    def __init__(
        self,
        status: int,
        message: str,
        headers: dict[str, str] | None = None,
        *,
        kept: str | None = None,
    ) -> None:
        """Take the HTTP status, what to tell the user, headers, and what the user has written."""
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers or {}
        self.kept = kept


class Authentication(Protocol):
    """Finds the user of a request."""

    async def user_of(self, request: HTTPConnection) -> User:
        """Return the user.

        Raises:
            RefusedError: if there is none, or not from there.
        """


def authentication_of(settings: ConsoleSettings) -> Authentication:
    """Return what the settings ask for.

    Raises:
        InvalidSettingError: if the users are wrong, naming the line.
    """
    if settings.authentication == "basic" and settings.users is not None:
        return ByPassword(Passwords(parse_users(settings.users.get_secret_value())), LoginLimits())
    if settings.authentication == "proxy":
        return ByProxy(settings)
    return Unauthenticated(only_loopback=settings.needs_loopback)


class Unauthenticated:
    """Everybody on this machine is an operator."""

    def __init__(self, *, only_loopback: bool) -> None:
        """Say whether requests of other machines are refused."""
        self._only_loopback = only_loopback

    async def user_of(self, request: HTTPConnection) -> User:
        """Return the one user."""
        if self._only_loopback and not is_loopback(client_address(request)):
            raise RefusedError(
                403,
                "Without authentication, the console answers this machine only. "
                "Set MESHHOOK_CONSOLE_AUTHENTICATION to basic or proxy.",
            )
        return User("anonymous", Role.OPERATOR)


class ByPassword:
    """HTTP Basic, with limits on how often it may fail."""

    def __init__(self, passwords: Passwords, limits: LoginLimits) -> None:
        """Take the passwords, and the limits."""
        self._passwords = passwords
        self._limits = limits
        self._checks: dict[tuple[str, str], asyncio.Task[User | None]] = {}

    async def user_of(self, request: HTTPConnection) -> User:
        """Return the user whose name and password the request has."""
        found = _basic_of(request.headers.get("authorization", ""))
        if found is None:
            raise _login_needed()
        name, password = found
        if (user := self._passwords.known(name, password)) is not None:
            return user
        # A browser may send several requests at once: the same password is checked once for all.
        check = self._checks.get(found)
        if check is None:
            check = self._begin_check(client_address(request), name, password)
        if (user := await asyncio.shield(check)) is None:
            raise _login_needed()
        return user

    def _begin_check(self, address: str, name: str, password: str) -> asyncio.Task[User | None]:
        if wait := self._limits.wait_seconds(address, name):
            raise RefusedError(
                429,
                f"Too many logins have failed. Try again in {wait} seconds.",
                {"retry-after": str(wait)},
            )
        # Counted before it is known, or any number of guesses could be sent at once.
        self._limits.note_failure(address, name)
        check = asyncio.create_task(self._check(address, name, password), name="check of a login")
        self._checks[name, password] = check
        check.add_done_callback(lambda _: self._checks.pop((name, password), None))
        return check

    async def _check(self, address: str, name: str, password: str) -> User | None:
        user = await self._passwords.check(name, password)
        if user is None:
            _log.warning("a login to the console failed", user=name, address=address)
        else:
            self._limits.forget_one(address, name)
        return user


class ByProxy:
    """The headers of a proxy that has authenticated the user, from its addresses only."""

    def __init__(self, settings: ConsoleSettings) -> None:
        """Take the addresses, the headers and the groups from the settings."""
        self._settings = settings

    async def user_of(self, request: HTTPConnection) -> User:
        """Return the user that the proxy names."""
        settings = self._settings
        address = client_address(request)
        if not self._is_proxy(address):
            raise RefusedError(
                403,
                f"The console is reached through its proxy only, and {address or 'this address'} "
                "is not one of the addresses in MESHHOOK_CONSOLE_PROXY_ADDRESSES.",
            )
        names = [_as_utf8(each) for each in request.headers.getlist(settings.user_header)]
        if len(names) != 1 or not names[0].strip() or len(names[0]) > MAX_NAME_LENGTH:
            raise RefusedError(401, f"The proxy names no user in {settings.user_header}.")
        listed = request.headers.getlist(settings.groups_header)
        if len(listed) > 1:
            # One of them may be the user's own, beside which the proxy has put its own.
            raise RefusedError(401, f"The proxy sends {settings.groups_header} more than once.")
        groups = {each.strip() for each in _as_utf8("".join(listed)).split(",")} - {""}
        name = names[0].strip()
        if groups & set(settings.operator_groups):
            return User(name, Role.OPERATOR)
        if not settings.viewer_groups or groups & set(settings.viewer_groups):
            return User(name, Role.VIEWER)
        raise RefusedError(403, "You are in none of the groups that may look at the console.")

    def _is_proxy(self, address: str) -> bool:
        try:
            found = ip_address(address)
        except ValueError:
            return False
        found = getattr(found, "ipv4_mapped", None) or found
        return any(found in network for network in self._settings.proxy_addresses)


def client_address(request: HTTPConnection) -> str:
    """Return the address that a request came from, whatever its headers say."""
    return request.client.host if request.client is not None else ""


def _as_utf8(value: str) -> str:
    """Return the value of a header, of which each byte was taken for a character, as UTF-8."""
    try:
        return value.encode("latin-1").decode()
    except UnicodeError:
        return value  # Latin-1, as proxies sent it once


def _login_needed() -> RefusedError:
    headers = {"www-authenticate": 'Basic realm="MeshHook console", charset="UTF-8"'}
    return RefusedError(401, "Log in with your name and password.", headers)


def _basic_of(header: str) -> tuple[str, str] | None:
    scheme, _, text = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        pair = base64.b64decode(text.strip(), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
    name, parting, password = pair.partition(":")
    return (name, password) if parting else None
