"""Which network addresses a delivery may connect to: a pure decision."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# IANA's registries of special purposes, written out: what `ipaddress` calls private or global
# differs between versions of Python. The first network that matches gives its name.
_SPECIAL: Final[tuple[tuple[Network, str], ...]] = tuple(
    (ipaddress.ip_network(network), kind)
    for network, kind in (
        ("0.0.0.0/8", "this host"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "shared by customers of a provider (CGNAT)"),
        ("127.0.0.0/8", "loopback"),
        ("168.63.129.16/32", "the platform address of Azure"),
        ("169.254.0.0/16", "link-local, as are metadata services"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "reserved for protocols"),
        ("192.0.2.0/24", "for documentation"),
        ("192.88.99.0/24", "a relay of 6to4"),
        ("192.168.0.0/16", "private"),
        ("198.18.0.0/15", "for benchmarks"),
        ("198.51.100.0/24", "for documentation"),
        ("203.0.113.0/24", "for documentation"),
        ("224.0.0.0/4", "multicast"),
        ("255.255.255.255/32", "broadcast"),
        ("240.0.0.0/4", "reserved"),
        ("::/128", "this host"),
        ("::1/128", "loopback"),
        ("::ffff:0:0/96", "IPv4 mapped into IPv6"),
        ("::/96", "IPv4 in an obsolete form of IPv6"),
        ("64:ff9b::/96", "IPv4 behind NAT64"),
        ("64:ff9b:1::/48", "IPv4 behind NAT64"),
        ("100::/64", "discarded"),
        ("2001::/32", "IPv4 behind Teredo"),
        ("2001::/23", "reserved for protocols"),
        ("2001:db8::/32", "for documentation"),
        ("2002::/16", "IPv4 behind 6to4"),
        ("3fff::/20", "for documentation"),
        ("fc00::/7", "private"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "private, in an obsolete form"),
        ("ff00::/8", "multicast"),
    )
)
_GLOBAL_IPV6: Final = IPv6Network("2000::/3")
_NAT64: Final = IPv6Network("64:ff9b::/96")
_COMPATIBLE: Final = IPv6Network("::/96")
_ISATAP: Final = (0x0000_5EFE, 0x0200_5EFE)
"""The upper half of an interface identifier whose lower half is an IPv4 address."""


class AddressGuard:
    """Decides which addresses may be connected to: public ones, and those that were allowed."""

    def __init__(self, *, allowed: Iterable[Network] = (), refused: Iterable[Network] = ()) -> None:
        """Take networks that are exceptions.

        Args:
            allowed: networks that may be connected to although they are not public. Default: none.
            refused: networks that must not be connected to, whatever else holds. Default: none.
        """
        self._allowed = tuple(allowed)
        self._refused = tuple(refused)

    def refusal(self, address: Address) -> str | None:
        """Return why an address must not be connected to, or None if it may be.

        An IPv6 address that carries an IPv4 address is refused. If it is in an allowed network, the
        IPv4 address is checked as well.
        """
        if isinstance(address, IPv6Address) and address.scope_id is not None:
            return "has a zone"
        if _is_in(address, self._refused):
            return "is refused by the settings"
        inner = embedded_ipv4(address)
        if _is_in(address, self._allowed):
            return None if inner is None else self.refusal(inner)
        if isinstance(address, IPv6Address):
            if int(address) >> 32 & 0xFFFF_FFFF in _ISATAP:
                return "is IPv4 behind ISATAP"
            if address not in _GLOBAL_IPV6 and _kind(address) is None:
                return "is not a public address"
        kind = _kind(address)
        return None if kind is None else f"is {kind}"


def embedded_ipv4(address: Address) -> IPv4Address | None:
    """Return the IPv4 address that an IPv6 address leads to, or None if it carries none."""
    if isinstance(address, IPv4Address):
        return None
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    is_compatible = address in _COMPATIBLE and int(address) > 1
    if address in _NAT64 or is_compatible or int(address) >> 32 & 0xFFFF_FFFF in _ISATAP:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return None


def parsed_network(text: str) -> Network:
    """Return a network from text such as `10.1.0.0/16`; an address alone is a network of one.

    Raises:
        ValueError: if it is none, or if bits behind the prefix are set.
    """
    return ipaddress.ip_network(text.strip())


def _kind(address: Address) -> str | None:
    return next((kind for network, kind in _SPECIAL if address in network), None)


def _is_in(address: Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks)
