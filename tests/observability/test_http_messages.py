"""Requests and connections of the monitoring port: any bytes, and who makes room for whom."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshhook.observability.http_connections import Connection, Stage, one_to_cut, source_of
from meshhook.observability.http_messages import (
    MAX_HEAD_BYTES,
    BadRequestError,
    Request,
    read_request,
    write_response,
)

PIECES = [b"GET", b" ", b"/metrics", b"?name[]=", b"HTTP/1.1", b"\r\n", b"\n", b"\r\n\r\n", b":"]


@given(
    st.one_of(st.binary(), st.lists(st.sampled_from(PIECES) | st.binary(max_size=5)).map(b"".join))
)
def test_any_bytes_are_a_request_or_refused_or_not_all(received):
    """Nothing else happens, and what is refused has an answer of one head and one body."""
    try:
        found = read_request(received)
    except BadRequestError as error:
        head, _, body = write_response(error.response).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 ")
        assert b"Content-Length: %d" % len(body) in head
    else:
        assert found is None or isinstance(found, Request)


def test_a_request_is_read_when_its_headers_end():
    """What comes after them is disregarded."""
    text = b"GET /metrics/?a=b HTTP/1.1\r\nACCEPT:  x \r\nHost: pod\r\n\r\nGET /other"
    assert read_request(text[:40]) is None
    assert read_request(text) == Request("GET", "/metrics", "a=b", {"accept": "x", "host": "pod"})


def test_headers_end_somewhere():
    """What never ends is refused at the limit, and not kept."""
    endless = b"GET / HTTP/1.1\r\n" + b"x" * MAX_HEAD_BYTES
    assert read_request(endless[: MAX_HEAD_BYTES - 1]) is None
    with pytest.raises(BadRequestError, match="at most 16384 bytes"):
        read_request(endless[:MAX_HEAD_BYTES])


@pytest.mark.parametrize(
    ("host", "source"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_who_a_connection_counts_for(host, source):
    """One host has a whole /64 of IPv6; IPv4 within IPv6 is IPv4."""
    assert source_of((host, 1234)) == source


@pytest.fixture
def unused() -> Iterator[socket.socket]:
    """A socket that nothing is done with."""
    with socket.socket() as found:
        yield found


def test_the_oldest_of_the_busiest_makes_room(unused):
    """Of those, one that has its answer goes before one that still waits for something."""

    def connection(source: str, stage: Stage = Stage.READING) -> Connection:
        return Connection(unused, source, 0.0, stage)

    oldest, *crowd = connection("a"), connection("b"), connection("b", Stage.ANSWERING)
    assert one_to_cut([oldest, *crowd]) is crowd[0]
    leaving = connection("b", Stage.LEAVING)
    assert one_to_cut([oldest, *crowd, leaving]) is leaving
    assert one_to_cut([oldest, connection("b")]) is oldest
