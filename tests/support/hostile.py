"""Texts and values that others may send, and what must not come out where they are shown."""

from __future__ import annotations

import decimal
import unicodedata
from typing import Any

from hypothesis import strategies as st

CHARACTERS = st.characters(exclude_categories=())
TEXTS = (
    st.text(CHARACTERS, max_size=40)
    | st.text(st.sampled_from("\\nxuU0a\"'= \n\r\t\x00\x1b\x9b\x85\u2028\u202e\u2066\u200d\ud800"))
    | st.sampled_from(
        [
            "",
            "[red]x[/red]",
            "[link=http://a]x[/link]",
            ":smile:",
            "\x1b]52;c;cm0gLXJm\x07",
            "\x1b]8;;http://a\x1b\\click\x1b]8;;\x1b\\",
            "%s %(name)s {0} {name}",
            "x\n2026-11-29T00:00:00Z [error] forged",
            '{"level": "error"}\n',
            "\U000e0041\U000e0042",
            "x" * 5_000,
            "\ud83d\udc00",
        ]
    )
)
"""Any text: lone surrogates, controls and what turns the reading order among them."""


class Unshowable:
    """What raises when it is shown."""

    def __repr__(self) -> str:
        """Fail."""
        raise RuntimeError("no")


class ManyLines:
    """What shows as several lines, and more."""

    def __repr__(self) -> str:
        """Return them."""
        return "a\nb\x1b[2J\u2028c"


class UnshowableError(Exception):
    """An exception that raises when it is shown."""

    def __str__(self) -> str:
        """Fail."""
        raise RuntimeError("no")


HOSTILE_VALUES: dict[str, Any] = {
    "unshowable": Unshowable(),
    "many lines": ManyLines(),
    "unshowable error": UnshowableError(),
    "long number": 10**5_000,
    "NaN": float("nan"),
    "infinity": float("inf"),
    "decimal": decimal.Decimal("1e999999"),
    "bytes": b"\x00\xff\x1b",
    "keys": {Unshowable(): 1, (1, "\n"): 2, None: 3},
    "set": {"\x1b", "b"},
    "half a character": "\ud800",
    "long": "\x1b" * 1_000_000,
}


def is_safe_line(text: str) -> bool:
    """Say whether a text is one line that a terminal only shows, and an encoder can write."""
    if len(text.splitlines()) > 1 or text.endswith("\n"):
        return False
    return not any(
        unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"}
        or character in "\u061c\u200b\u200e\u200f\ufeff"
        or "\u202a" <= character <= "\u202e"
        or "\u2060" <= character <= "\u206f"
        or "\U000e0000" <= character <= "\U000e007f"
        for character in text
    )
