"""Message bodies and stack traces as people read them."""

from __future__ import annotations

import json

from meshhook.cli.failures import printable
from meshhook.cli.output import say

MAX_SHOWN_CHARACTERS = 2_000


def print_body(body: str) -> None:
    """Print a message's JSON, indented; a long one is cut."""
    try:
        text = json.dumps(json.loads(body), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        text = body
    say("body")
    print_text(text)


def print_text(text: str) -> None:
    """Print lines of text below a title; a long one is cut, and says so."""
    shown = text[:MAX_SHOWN_CHARACTERS]
    for line in shown.splitlines():
        say(f"  {printable(line)}")
    if len(shown) < len(text):
        say(f"  … {len(text) - len(shown):,} more characters; --json has them all")
