"""The handler of the console's tests: it fails where the message says so."""

from __future__ import annotations

from typing import Any


def handle(job: Any) -> None:
    """Fail unless the message has an address that is right."""
    url = job.payload["url"]
    if not url.startswith("https://"):
        raise ValueError(f"{url} is no address")
