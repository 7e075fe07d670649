"""Asking a monitoring port, as Prometheus and the kubelet do."""

from __future__ import annotations

import asyncio
import http.client
from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """An HTTP answer."""

    status: int
    headers: dict[str, str]
    """By lower-case name."""
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()


def ask(
    port: int, path: str, *, method: str = "GET", host: str = "127.0.0.1", **headers: str
) -> Answer:
    """Make a request and return the answer; underscores in header names stand for hyphens."""
    connection = http.client.HTTPConnection(host, port, timeout=30)
    try:
        connection.request(
            method, path, headers={name.replace("_", "-"): v for name, v in headers.items()}
        )
        answer = connection.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, found, answer.read())
    finally:
        connection.close()


async def ask_aside(port: int, path: str) -> Answer:
    """Make a request from a thread, so that the event loop goes on."""
    return await asyncio.to_thread(ask, port, path)
