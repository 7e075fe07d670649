"""Which URLs a delivery may go to: a pure decision, made before any name is looked up."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from yarl import URL

from meshhook.errors import UrlRefusedError
from meshhook.escaping import quoted
from meshhook.http.addresses import Address, AddressGuard

MAX_URL_LENGTH: Final = 4_096
"""The most characters of a URL."""
_MAX_NAME_LENGTH = 253
_AUTHORITY = re.compile(r"(?:https?)://([^/?#]*)", re.IGNORECASE)
_PORT = re.compile(r":([0-9]{1,5})\Z")
_NUMERIC_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")


def parsed_url(text: str) -> URL:
    """Return a URL of http or https that has one meaning, for every program that reads it.

    Raises:
        UrlRefusedError: if it is no such URL, contains credentials, or if its host is an address in
            a notation that programs read differently. The message shows no more than the host.
    """
    if not isinstance(text, str):
        raise UrlRefusedError(f"is text, got {quoted(text, limit=60)}")
    if len(text) > MAX_URL_LENGTH:
        raise UrlRefusedError(f"has {len(text)} characters; at most {MAX_URL_LENGTH} are taken")
    if not text.isprintable() or " " in text or "\\" in text:
        raise UrlRefusedError("contains a space, a backslash or a character that is not seen")
    found = _AUTHORITY.match(text)
    if found is None:
        raise UrlRefusedError("must start with https:// (or http://)")
    authority = found[1]
    if "@" in authority:
        raise UrlRefusedError("contains credentials before the host; leave them out")
    if "%" in authority:
        raise UrlRefusedError(
            f"has the host {quoted(authority, limit=100)}; zones and percent signs are not taken"
        )
    try:
        url = URL(text)
        host, port = url.raw_host, url.port
    except ValueError:
        raise UrlRefusedError(
            f"has the host {quoted(authority, limit=100)}, not a valid one"
        ) from None
    _check_port(authority, url, port)
    if not host:
        raise UrlRefusedError("has no host")
    if authority.startswith("["):
        _check_ipv6(host)
    else:
        _check_host(host)
    return url


def literal_address(url: URL) -> Address | None:
    """Return the address that a parsed URL has in place of a name, or None."""
    try:
        return ipaddress.ip_address(url.raw_host or "")
    except ValueError:
        return None


def destination(url: URL) -> str:
    """Return scheme, host and port of a parsed URL: path and query may be secret."""
    return str(url.origin())


@dataclass(frozen=True, slots=True)
class UrlPolicy:
    """Which URLs of those that can be parsed are taken."""

    guard: AddressGuard
    """Decides on addresses, which a URL may have in place of a name."""
    allows_http: bool = False
    """Whether http:// is taken too. Default false: only https://."""
    ports: Collection[int] | None = None
    """The ports that are taken. Default: all."""

    def checked(self, text: str) -> URL:
        """Return a URL that a delivery may go to, if the addresses of its name may be connected to.

        Raises:
            UrlRefusedError: if it is not taken, with the reason.
        """
        url = parsed_url(text)
        if url.scheme == "http" and not self.allows_http:
            raise UrlRefusedError("starts with http://, and only https:// is taken (allow_http)")
        if self.ports is not None and url.port not in self.ports:
            taken = ", ".join(str(port) for port in sorted(self.ports))
            raise UrlRefusedError(f"has port {url.port}; those taken are {taken} (allowed_ports)")
        address = literal_address(url)
        reason = None if address is None else self.guard.refusal(address)
        if reason is not None:
            raise UrlRefusedError(f"has the address {address}, which {reason} (allowed_networks)")
        return url


def _check_port(authority: str, url: URL, port: int | None) -> None:
    after_host = authority[authority.rfind("]") + 1 :]
    if ":" in after_host and (not _PORT.search(authority) or not port):
        raise UrlRefusedError("has a port that is none: 1 to 65535")
    if port is None:
        raise UrlRefusedError(f"has the scheme {url.scheme}; http and https are taken")


def _check_ipv6(host: str) -> None:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        shown = quoted(host, limit=100)
        raise UrlRefusedError(f"has the host {shown}, which is not a valid address") from None


def _check_host(host: str) -> None:
    shown = quoted(host, limit=100)
    labels = host.split(".")
    if _NUMERIC_LABEL.fullmatch(labels[-1]) or (not labels[-1] and _is_numeric(labels[-2:-1])):
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            raise UrlRefusedError(
                f"has the host {shown}; write an address as four decimal numbers"
            ) from None
        return
    if not labels[-1]:
        raise UrlRefusedError(f"has the host {shown}; leave out the dot at its end")
    if len(host) > _MAX_NAME_LENGTH or not all(_LABEL.fullmatch(label) for label in labels):
        raise UrlRefusedError(f"has the host {shown}, which is not a name of DNS")


def _is_numeric(labels: list[str]) -> bool:
    return bool(labels) and _NUMERIC_LABEL.fullmatch(labels[0]) is not None
