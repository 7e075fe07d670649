"""Ask the console of the tests for a page, from within the cluster.

On standard input: {"method", "url", "headers", "form"}. On standard output: {"status", "headers",
"text"}. A redirect is not followed. With `--stream` it reads the answer until the console ends it.

Where a request reaches nobody it is sent again for a minute: once a pod is Ready, its Service may
refuse connections for a second or more.
"""

from __future__ import annotations

import json
import sys
import time
import urllib.request
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode

PATIENCE_SECONDS = 60


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def main() -> None:
    """Ask, and print the answer."""
    asked = json.load(sys.stdin)
    form = asked.get("form")
    request = urllib.request.Request(  # noqa: S310 - the tests' own addresses
        asked["url"],
        data=None if form is None else urlencode(form).encode(),
        headers=asked.get("headers", {}),
        method=asked.get("method", "GET"),
    )
    answer = _answer(request)
    if "--stream" in sys.argv:
        print("open", flush=True)
        text = answer.read()
        print(f"ended after {len(text)} bytes", flush=True)
        return
    print(
        json.dumps(
            {
                "status": answer.status,
                "headers": {name.lower(): value for name, value in answer.headers.items()},
                "text": answer.read().decode(),
            }
        )
    )


def _answer(request: urllib.request.Request) -> Any:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return urllib.request.build_opener(_Stay).open(request, timeout=PATIENCE_SECONDS)
        except HTTPError as error:
            return error
        except URLError:  # only of a request that was not sent
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


if __name__ == "__main__":
    main()
