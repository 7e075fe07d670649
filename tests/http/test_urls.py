"""Which URLs are taken, before any name is looked up."""

from __future__ import annotations

import socket
from ipaddress import ip_network
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import HttpUrl, TypeAdapter, ValidationError

from meshhook.http import UrlRefusedError
from meshhook.http.addresses import AddressGuard
from meshhook.http.urls import UrlPolicy, destination, literal_address, parsed_url
from support.fuzzing import examples
from support.hostile import TEXTS, is_safe_line

URLS = TypeAdapter(HttpUrl)
POLICY = UrlPolicy(AddressGuard())
INSIDE = UrlPolicy(
    AddressGuard(allowed=[ip_network("10.0.0.0/8")]), allows_http=True, ports={80, 8080}
)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("https://example.com/hooks/1?x=%20y", "example.com", 443),
        ("HTTPS://EXAMPLE.com", "example.com", 443),
        ("https://example.com:8443/", "example.com", 8443),
        ("https://xn--mnchen-3ya.de/", "xn--mnchen-3ya.de", 443),
        ("https://münchen.de/ä", "xn--mnchen-3ya.de", 443),
        ("https://a_b.internal/", "a_b.internal", 443),
        ("https://receiver/", "receiver", 443),
        ("https://1.1.1.1/", "1.1.1.1", 443),
        ("https://[2606:4700::1111]:444/", "2606:4700::1111", 444),
        ("https://0x7f.example/", "0x7f.example", 443),
        ("https://1.1.1.1.example.com/", "1.1.1.1.example.com", 443),
    ],
)
def test_urls_with_one_meaning_are_read(text: str, host: str, port: int) -> None:
    """Names, also of other scripts, and addresses in their usual notation."""
    url = parsed_url(text)
    assert (url.raw_host, url.port) == (host, port)


ODD = [
    "",
    "example.com",
    "//example.com/",
    "ftp://example.com/",
    "file:///etc/passwd",
    "gopher://127.0.0.1:6379/_FLUSHALL",
    "https:/example.com",
    "https:///path",
    "https://",
    "https://:443/",
    " https://example.com/",
    "https://example.com/a b",
    "https://exa\tmple.com/",
    "https://example.com/\r\nX: y",
    "https://example.com\\@127.0.0.1/",
    "https://example.com/\x00",
    "https://user@example.com/",
    "https://user:p4ssw0rd@example.com/",
    "https://@example.com/",
    "https://example.com@127.0.0.1/",
    "https://example.com:443@127.0.0.1/",
    "https://example.com:/",
    "https://example.com:0/",
    "https://example.com:65536/",
    "https://example.com:-1/",
    "https://example.com:+443/",
    "https://example.com:\uff180/",
    "https://example.com:0x50/",
    "https://example.com:443x/",
    "https://2130706433/",
    "https://017700000001/",
    "https://0x7f000001/",
    "https://0x7f.1/",
    "https://127.1/",
    "https://127.0.1/",
    "https://0177.0.0.1/",
    "https://127.0.0.01/",
    "https://127.0.0.1./",
    "https://127.0.0.0x1/",
    "https://1.2.3.4.5/",
    "https://256.1.1.1/",
    "https://0x/",
    "https://①②⑦.0.0.1./",
    "https://[::1%25lo]/",
    "https://[fe80::1%eth0]/",
    "https://[::1",
    "https://::1/",
    "https://[::127.0.0.1.5]/",
    "https://[1.1.1.1]/",
    "https://[v1.x]/",
    "https://[]/",
    "https://%31%32%37.0.0.1/",
    "https://example%2ecom/",
    "https://example.com./",
    "https://.example.com/",
    "https://a..b/",
    "https://-a.b/",
    "https://a-.b/",
    "https://a!b/",
    "https://" + "a" * 64 + ".com/",
    "https://" + "a." * 127 + "com/",
    "https://example.com/" + "x" * 5_000,
    "https://exa\u00admple.com\u202e/",
]


@pytest.mark.parametrize("text", ODD)
def test_odd_urls_are_refused(text: str) -> None:
    """Other schemes, credentials, spaces, and notations that programs read differently."""
    with pytest.raises(UrlRefusedError, match=r"^the URL ") as caught:
        parsed_url(text)
    assert "p4ssw0rd" not in str(caught.value)
    assert is_safe_line(str(caught.value))


def test_full_width_digits_are_an_address() -> None:
    """A host of another script is checked in the form in which it is looked up."""
    with pytest.raises(UrlRefusedError, match=r"127\.0\.0\.1, which is loopback"):
        POLICY.checked("https://\uff11\uff12\uff17.0.0.1/")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("http://example.com/", "only https:// is taken"),
        ("https://127.0.0.1/", "loopback"),
        ("https://[::1]/", "loopback"),
        ("https://[::ffff:7f00:1]/", "mapped"),
        ("https://[64:ff9b::a9fe:a9fe]/", "NAT64"),
        ("https://169.254.169.254/latest/meta-data", "link-local"),
    ],
)
def test_the_policy_refuses_http_and_special_addresses(text: str, reason: str) -> None:
    """By default, with the reason."""
    with pytest.raises(UrlRefusedError, match=reason):
        POLICY.checked(text)


def test_the_policy_may_allow_http_networks_and_ports() -> None:
    """Each by its own setting, and nothing more."""
    assert INSIDE.checked("http://10.1.2.3:8080/").port == 8080
    assert INSIDE.checked("http://receiver/").port == 80
    with pytest.raises(UrlRefusedError, match=r"port 443; those taken are 80, 8080"):
        INSIDE.checked("https://receiver/")
    with pytest.raises(UrlRefusedError, match="private"):
        INSIDE.checked("http://192.168.1.1/")


def test_a_destination_has_no_path() -> None:
    """Path and query of many receivers are secret."""
    url = parsed_url("https://hooks.example.com:8443/services/T0/B0/secret?key=secret#x")
    assert destination(url) == "https://hooks.example.com:8443"


HOSTS = st.one_of(
    st.text(st.sampled_from("0123456789abcdefx.:[]%@-_/\\"), max_size=24),
    st.integers(0, 2**32 + 9).map(str),
    st.integers(0, 2**32).map(hex),
    st.integers(0, 2**32).map(lambda number: f"0{number:o}"),
    st.lists(
        st.one_of(
            st.integers(0, 300).map(str),
            st.integers(0, 300).map(hex),
            st.integers(0, 300).map(lambda number: f"0{number:o}"),
        ),
        min_size=1,
        max_size=5,
    ).map(".".join),
    st.ip_addresses(v=6).map(lambda address: f"[{address}]"),
    st.from_regex(r"[a-z0-9.-]{1,20}", fullmatch=True),
)


@examples(500)
@given(host=HOSTS, rest=st.sampled_from(["", "/", ":443/", "?a", "#b", "/x@y", ":80"]))
def test_all_programs_read_the_same_host(host: str, rest: str) -> None:
    """The C library, Python and the parser of browsers agree on what is taken, or it is refused."""
    text = f"https://{host}{rest}"
    try:
        url = parsed_url(text)
    except UrlRefusedError:
        return
    taken = url.raw_host
    assert taken
    assert urlsplit(text).hostname == taken
    try:
        packed = socket.inet_aton(taken)
    except OSError:
        pass
    else:
        # Whatever the C library takes for an address is written in the one usual way.
        assert socket.inet_ntoa(packed) == taken
    if literal_address(url) is None:
        assert ":" not in taken
        assert not taken.rpartition(".")[2].isdigit()
    try:
        browser = URLS.validate_python(text)
    except ValidationError:
        return
    assert (browser.host or "").strip("[]") == str(literal_address(url) or taken)
    assert browser.port == url.port


@examples(300)
@given(
    text=TEXTS | TEXTS.map(lambda text: "https://" + text) | st.text().map("https://a/{}".format)
)
def test_any_text_is_read_or_named(text: str) -> None:
    """No other error comes out, and its text is short and harmless."""
    try:
        url = POLICY.checked(text)
    except UrlRefusedError as error:
        refusal = str(error)
    else:
        assert (url.user, url.password) == (None, None)
        assert url.raw_host
        return
    assert len(refusal) < 500
    assert is_safe_line(refusal)
