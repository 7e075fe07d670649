"""The part of HTTP/1 that a monitoring port needs: one request without a body, one response."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

MAX_HEAD_BYTES: Final = 16_384
"""The most bytes of a request line and its headers together."""

_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")
_REQUEST_LINE = re.compile(r"([A-Z]{1,20}) (\S+) HTTP/(\d)\.\d")


@dataclass(frozen=True, slots=True)
class Request:
    """A client's request."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    """Headers by lower-case name; the last one if a name occurs twice."""


@dataclass(frozen=True, slots=True)
class Response:
    """The response to a client."""

    status: HTTPStatus
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


class BadRequestError(ValueError):
    """The bytes received are not a valid request; the response says why."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        """Take the status and a text for the client."""
        super().__init__(reason)
        self.response = plain(status, f"{reason}\n")


def plain(status: HTTPStatus, text: str, **headers: str) -> Response:
    """Return a response of plain text."""
    return Response(
        status, text.encode(), {"Content-Type": "text/plain; charset=utf-8"} | dict(headers)
    )


def read_request(received: bytes | bytearray) -> Request | None:
    """Return the request that was received, or None if it is incomplete.

    Bytes after its headers, such as a body or a second request, are ignored.

    Raises:
        BadRequestError: it is not an HTTP request, or its headers are too long.
    """
    # No method starts otherwise, and a client that speaks TLS need not wait for the deadline.
    if received and not 0x41 <= received[0] <= 0x5A:  # noqa: PLR2004 - A to Z
        raise BadRequestError(HTTPStatus.BAD_REQUEST, "this port speaks plain HTTP/1.1")
    end = _END_OF_HEAD.search(received, 0, MAX_HEAD_BYTES)
    if end is None:
        if len(received) >= MAX_HEAD_BYTES:
            raise BadRequestError(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                f"a request has at most {MAX_HEAD_BYTES} bytes",
            )
        return None
    line, *fields = received[: end.start()].decode("latin-1").split("\n")
    found = _REQUEST_LINE.fullmatch(line.rstrip("\r"))
    if found is None:
        raise BadRequestError(HTTPStatus.BAD_REQUEST, "the first line is not a request's")
    method, target, version = found.groups()
    if version != "1":
        raise BadRequestError(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "this port speaks HTTP/1.1")
    try:
        url = urlsplit(target)
    except ValueError:
        raise BadRequestError(HTTPStatus.BAD_REQUEST, "the URL cannot be read") from None
    headers = {}
    for each in fields:
        name, _, value = each.partition(":")
        headers[name.strip().lower()] = value.strip()
    return Request(method, url.path.rstrip("/"), url.query, headers)


def write_response(response: Response, *, with_body: bool = True) -> bytes:
    """Return the bytes of a response; the connection is closed after it."""
    status = response.status
    head = {
        "Server": "meshhook",
        **response.headers,
        "Content-Length": str(len(response.body)),
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "Connection": "close",
    }
    lines = [f"HTTP/1.1 {status.value} {status.phrase}", *(f"{k}: {v}" for k, v in head.items())]
    text = "".join(f"{line}\r\n" for line in lines) + "\r\n"
    return text.encode("latin-1") + (response.body if with_body else b"")
