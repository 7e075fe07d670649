"""Which addresses may be connected to."""

from __future__ import annotations

import ipaddress
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from meshhook.http.addresses import AddressGuard, embedded_ipv4, parsed_network

GUARD = AddressGuard()
EVERY_IPV6 = AddressGuard(allowed=[ip_network("::/0")])

REFUSED = [
    ("0.0.0.0", "this host"),  # noqa: S104 - nothing is bound to it
    ("0.1.2.3", "this host"),
    ("10.0.0.1", "private"),
    ("10.255.255.255", "private"),
    ("100.64.0.1", "CGNAT"),
    ("100.100.100.200", "CGNAT"),  # metadata at Alibaba
    ("100.127.255.255", "CGNAT"),
    ("127.0.0.1", "loopback"),
    ("127.255.255.254", "loopback"),
    ("168.63.129.16", "Azure"),
    ("169.254.169.254", "link-local"),
    ("172.16.0.1", "private"),
    ("172.31.255.255", "private"),
    ("192.0.0.192", "protocols"),  # metadata at Oracle
    ("192.0.2.1", "documentation"),
    ("192.88.99.1", "6to4"),
    ("192.168.1.1", "private"),
    ("198.18.0.1", "benchmarks"),
    ("198.51.100.1", "documentation"),
    ("203.0.113.1", "documentation"),
    ("224.0.0.1", "multicast"),
    ("239.255.255.255", "multicast"),
    ("240.0.0.1", "reserved"),
    ("255.255.255.255", "broadcast"),
    ("::", "this host"),
    ("::1", "loopback"),
    ("::127.0.0.1", "obsolete"),
    ("::ffff:127.0.0.1", "mapped"),
    ("::ffff:8.8.8.8", "mapped"),
    ("64:ff9b::7f00:1", "NAT64"),
    ("64:ff9b::8.8.8.8", "NAT64"),
    ("64:ff9b:1::1", "NAT64"),
    ("100::1", "discarded"),
    ("2001::1", "Teredo"),
    ("2001:0:53aa:64c:0:fbff:80ff:fffe", "Teredo"),
    ("2001:10::1", "protocols"),
    ("2001:db8::1", "documentation"),
    ("2002:7f00:1::", "6to4"),
    ("3fff::1", "documentation"),
    ("2606:4700::5efe:7f00:1", "ISATAP"),
    ("2606:4700::200:5efe:7f00:1", "ISATAP"),
    ("4000::1", "not a public address"),
    ("5f00::1", "not a public address"),
    ("fd00:ec2::254", "private"),  # metadata at AWS
    ("fe80::1", "link-local"),
    ("fec0::1", "private"),
    ("ff02::1", "multicast"),
    ("fe80::1%eth0", "zone"),
    ("2606:4700::1%1", "zone"),
]

PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "100.63.255.255",
    "100.128.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "192.167.255.255",
    "192.169.0.0",
    "223.255.255.255",
    "2001:200::1",
    "2606:4700::1111",
    "2a00:1450:4001:829::200e",
    "3ffe:ffff::1",
]


@pytest.mark.parametrize(("text", "reason"), REFUSED)
def test_special_addresses_are_refused_by_name(text: str, reason: str) -> None:
    """Each says of which kind it is."""
    assert reason in (GUARD.refusal(ip_address(text)) or "")


@pytest.mark.parametrize("text", PUBLIC)
def test_public_addresses_are_taken(text: str) -> None:
    """Also those right beside a special network."""
    assert GUARD.refusal(ip_address(text)) is None


@example(IPv4Address("192.0.0.9"))
@given(st.ip_addresses())
def test_whatever_is_taken_is_global_for_python_too(address: IPv4Address | IPv6Address) -> None:
    """The table of ours lets nothing through that the standard library calls special."""
    if GUARD.refusal(address) is None:
        assert address.is_global
        assert not address.is_multicast
        assert embedded_ipv4(address) is None


def carriers(inner: IPv4Address) -> list[IPv6Address]:
    """Return an IPv4 address in every form in which IPv6 carries one."""
    number = int(inner)
    return [
        IPv6Address(number),
        IPv6Address(0xFFFF << 32 | number),
        IPv6Address(0x64_FF9B << 96 | number),
        IPv6Address(0x2002 << 112 | number << 80 | 1),
        IPv6Address(0x2001_0000 << 96 | 0x0808_0808 << 64 | number ^ 0xFFFF_FFFF),
        IPv6Address(0x2606_4700 << 96 | 0x5EFE << 32 | number),
        IPv6Address(0x2606_4700 << 96 | 0x0200_5EFE << 32 | number),
    ]


@given(st.ip_addresses(v=4))
@example(IPv4Address("127.0.0.1"))
@example(IPv4Address("169.254.169.254"))
@example(IPv4Address("8.8.8.8"))
def test_an_ipv4_address_inside_ipv6_is_refused(inner: IPv4Address) -> None:
    """In all forms; where a form was allowed, the inner address is checked like any other."""
    for carrier in carriers(inner):
        assert GUARD.refusal(carrier) is not None, carrier
        if int(carrier) > 1:
            assert embedded_ipv4(carrier) == inner, carrier
            assert EVERY_IPV6.refusal(carrier) == GUARD.refusal(inner), carrier


def test_allowed_networks_are_exceptions() -> None:
    """What is allowed may be connected to, and nothing beside it."""
    guard = AddressGuard(allowed=[ip_network("10.20.0.0/16")])
    assert guard.refusal(ip_address("10.20.3.4")) is None
    assert guard.refusal(ip_address("10.21.0.1")) is not None
    assert guard.refusal(ip_address("127.0.0.1")) is not None
    assert guard.refusal(ip_address("::ffff:10.20.3.4")) is not None


def test_refused_networks_come_first() -> None:
    """They hold for public addresses, for allowed ones, and inside of IPv6."""
    guard = AddressGuard(
        allowed=[ip_network("10.0.0.0/8"), ip_network("64:ff9b::/96")],
        refused=[ip_network("10.9.0.0/16"), ip_network("1.1.1.0/24")],
    )
    assert guard.refusal(ip_address("10.8.0.1")) is None
    for text in ("10.9.0.1", "1.1.1.1", "64:ff9b::1.1.1.1"):
        assert guard.refusal(ip_address(text)) == "is refused by the settings"
    assert guard.refusal(ip_address("64:ff9b::8.8.8.8")) is None


def test_networks_are_read_strictly() -> None:
    """An address is a network of one; bits behind the prefix are an error."""
    assert parsed_network(" 10.1.0.0/16 ") == ip_network("10.1.0.0/16")
    assert parsed_network("::1") == ip_network("::1/128")
    for text in ("10.1.0.1/16", "10.1", "example.com", "", "010.0.0.0/8"):
        with pytest.raises(ValueError, match=r"."):
            parsed_network(text)


def test_the_table_covers_what_python_calls_private() -> None:
    """Every network of the standard library's tables lies in one that is refused, or is a hole."""
    constants = [ipaddress._IPv4Constants, ipaddress._IPv6Constants]  # type: ignore[attr-defined]
    for network in (each for found in constants for each in found._private_networks):
        assert GUARD.refusal(network[0]) is not None, network
        assert GUARD.refusal(network[-1]) is not None, network
