"""Message bodies and stack traces as people read them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from meshhook.cli.output import say
from meshhook.escaping import shown_json, shown_sentence

MAX_SHOWN_CHARACTERS = 2_000

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"?|[{}\[\],:]|[^\s{}\[\],:"]+', re.DOTALL)


def print_body(body: str, title: str = "body") -> None:
    """Print JSON below a title, indented; a long one is cut, and says so."""
    say(title)
    text = ""
    # Token by token: numbers stay as they are written, and what is not shown is not read.
    for place, token in _indented(body):
        text += token
        if len(text) > MAX_SHOWN_CHARACTERS:
            excess = len(text) - MAX_SHOWN_CHARACTERS
            _print_lines(shown_json(text[:MAX_SHOWN_CHARACTERS]))
            _say_cut(len(body) - place + min(excess, len(token.lstrip())))
            return
    _print_lines(shown_json(text))


def print_text(text: str) -> None:
    """Print lines of text below a title; a long one is cut, and says so."""
    kept = text[:MAX_SHOWN_CHARACTERS]
    _print_lines(shown_sentence(kept))
    if len(kept) < len(text):
        _say_cut(len(text) - len(kept))


def _print_lines(text: str) -> None:
    for line in text.split("\n"):
        say(f"  {line}")


def _say_cut(characters: int) -> None:
    say(f"  … {characters:,} more characters; --json has them all")


def _indented(document: str) -> Iterator[tuple[int, str]]:
    """Yield a document's tokens with the space before each, and how far the document was read."""
    depth = 0
    before = ""
    for match in _TOKEN.finditer(document):
        token = match[0]
        space = ""
        if token in {"}", "]"}:
            depth = max(0, depth - 1)
            space = "" if before in {"{", "["} else _line(depth)
        elif before in {"{", "[", ","}:
            space = _line(depth)
        elif before == ":":
            space = " "
        if token in {"{", "["}:
            depth += 1
        before = token
        yield match.end(), space + token


def _line(depth: int) -> str:
    # Deeper ones stand below each other: the indentation alone would be longer than what is shown.
    return "\n" + "  " * min(depth, 100)
