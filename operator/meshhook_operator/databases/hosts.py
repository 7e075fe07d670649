"""Which hosts the operator's settings allow for the databases of JobQueues. Pure."""

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
    "expected names (db.example.com), suffixes (*.db.svc.cluster.local), addresses or CIDRs "
    "(10.0.0.0/8), separated by commas, each optionally with :port; IPv6 with a port in brackets "
    "([fd00::/8]:5432)"
)


class _Pattern(NamedTuple):
    name: str | None
    """A name, or a suffix that begins with a dot."""
    network: _Network | None
    port: int | None
    """None means every port."""


class DatabaseHosts:
    """The hosts that may be connected to."""

    def __init__(self, patterns: str = "") -> None:
        """Read patterns separated by commas. Without any, every host is allowed.

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
        """Whether the name of a host is allowed, whatever address it has."""
        if self.allows_all:
            return True
        name = _normal(host)
        return _HOST.fullmatch(name) is not None and any(
            name == each.name or (each.name.startswith(".") and name.endswith(each.name))
            for each in self._patterns
            if each.name is not None and each.port in (None, port)
        )

    def needs_address(self, port: int) -> bool:
        """Whether a host whose name is not allowed may be allowed by its address."""
        return any(
            each.network is not None and each.port in (None, port) for each in self._patterns
        )

    def allows_address(self, address: str, port: int) -> bool:
        """Whether an address that a lookup has returned is allowed."""
        if self.allows_all:
            return True
        found = _plain(ipaddress.ip_address(address.partition("%")[0]))
        return any(
            each.network is not None and each.port in (None, port) and found in each.network
            for each in self._patterns
        )

    @staticmethod
    def refusal(host: str, port: int | None) -> str:
        """Return the message for a host that is not allowed."""
        place = host if port is None else f"{host}:{port}"
        return (
            f"the database URL leads to {place!a}, which is not allowed: the administrator of the "
            "operator lists the allowed hosts in MESHHOOK_OPERATOR_ALLOWED_DATABASE_HOSTS "
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
    return ValueError(f"{pattern!a} is not a pattern for hosts; {_RULE}")


def _normal(host: str) -> str:
    name = host.removesuffix(".")
    try:
        # As lookups do, treat full-width letters and dots like plain ones.
        return name.encode("idna").decode().lower()
    except UnicodeError:
        return name.lower()


def _plain(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
