"""Which hosts the databases of JobQueues may be on, as the operator's settings say. Pure."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple, TypeAlias

_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_PORT = 65_535
_NAME = re.compile(r"(?:\*\.)?[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_-]+)*")
_HOST = re.compile(r"[a-z0-9_.-]+")
_LOOKS_NUMERIC = re.compile(r"[0-9./]+|.*[:/].*")
_RULE = (
    "expected a name (db.example.com), a suffix (*.db.svc.cluster.local), an address or a CIDR "
    "(10.0.0.0/8), each with :port or without, parted by commas; IPv6 with a port in brackets "
    "([fd00::/8]:5432)"
)


class _Pattern(NamedTuple):
    name: str | None
    """A name, or a suffix that begins with a dot."""
    network: _Network | None
    port: int | None
    """None means every port."""


class DatabaseHosts:
    """The hosts that connections may lead to."""

    def __init__(self, patterns: str = "") -> None:
        """Read patterns that are parted by commas; none at all allow every host.

        Raises:
            ValueError: naming the pattern that cannot be read, and the rule.
        """
        self._patterns = tuple(
            _pattern(text.strip()) for text in patterns.split(",") if text.strip()
        )

    @property
    def allows_all(self) -> bool:
        """Whether there are no patterns."""
        return not self._patterns

    def allows_name(self, host: str, port: int) -> bool:
        """Whether a host may be connected to by its name, whatever address it has."""
        if self.allows_all:
            return True
        name = _normal(host)
        return _HOST.fullmatch(name) is not None and any(
            name == each.name or (each.name.startswith(".") and name.endswith(each.name))
            for each in self._patterns
            if each.name is not None and each.port in (None, port)
        )

    def needs_address(self, port: int) -> bool:
        """Whether the address of a host may allow it though its name does not."""
        return any(
            each.network is not None and each.port in (None, port) for each in self._patterns
        )

    def allows_address(self, address: str, port: int) -> bool:
        """Whether an address, as a lookup has found it, may be connected to."""
        if self.allows_all:
            return True
        found = _plain(ipaddress.ip_address(address.partition("%")[0]))
        return any(
            each.network is not None and each.port in (None, port) and found in each.network
            for each in self._patterns
        )

    @staticmethod
    def refusal(host: str, port: int | None) -> str:
        """Return what to say of a host that is not allowed."""
        place = host if port is None else f"{host}:{port}"
        return (
            f"the database URL leads to {place!a}, which the operator does not connect to: its "
            "administrator allows hosts by MESHHOOK_OPERATOR_ALLOWED_DATABASE_HOSTS "
            "(operator.allowedDatabaseHosts in the chart)"
        )


def _pattern(text: str) -> _Pattern:
    host, port = text, None
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")):
            raise _invalid(text)
        port = _port(rest[1:], text) if rest else None
    elif text.count(":") == 1:
        host, _, rest = text.partition(":")
        port = _port(rest, text)
    if _LOOKS_NUMERIC.fullmatch(host):
        try:
            return _Pattern(None, ipaddress.ip_network(host), port)
        except ValueError as error:
            raise ValueError(f"{text!a}: {error}; {_RULE}") from None
    name = _normal(host)
    if not _NAME.fullmatch(name):
        raise _invalid(text)
    return _Pattern(name.removeprefix("*"), None, port)


def _port(text: str, pattern: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= MAX_PORT):
        raise _invalid(pattern)
    return int(text)


def _invalid(pattern: str) -> ValueError:
    return ValueError(f"{pattern!a} is no pattern of a host; {_RULE}")


def _normal(host: str) -> str:
    name = host.removesuffix(".")
    try:
        # As a lookup takes it: full-width letters and dots are the plain ones.
        return name.encode("idna").decode().lower()
    except UnicodeError:
        return name.lower()


def _plain(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
