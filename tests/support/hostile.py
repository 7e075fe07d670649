"""Texts and values that others may send, and what must not come out where they are shown."""

from __future__ import annotations

import decimal
import enum
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
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


def _loop() -> list[Any]:
    loop: list[Any] = []
    loop.append(loop)
    return loop


def _deep() -> list[Any]:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    return deep


HOSTILE_VALUES: dict[str, Any] = {
    "unshowable": Unshowable(),
    "many lines": ManyLines(),
    "unshowable error": UnshowableError(),
    "long number": 10**5_000,
    "NaN": float("nan"),
    "infinity": float("inf"),
    "decimal": decimal.Decimal("1e999999"),
    "bytes": b"\x00\xff\x1b",
    "loop": _loop(),
    "deep": _deep(),
    "keys": {Unshowable(): 1, (1, "\n"): 2, None: 3},
    "set": {"\x1b", "b"},
    "half a character": "\ud800",
    "long": "\x1b" * 1_000_000,
}


class Color(enum.Enum):
    """An enumeration whose values are odd."""

    ODD = "\x1b"


class OddText(str):
    """Text that shows as something else."""

    __slots__ = ()

    def __repr__(self) -> str:
        """Return it."""
        return "a\nb\x1b"


class OddMapping(dict[Any, Any]):
    """A mapping that fails when it is looked at."""

    def __iter__(self) -> Iterator[Any]:
        """Fail."""
        raise RuntimeError("no")

    def items(self) -> Any:
        """Fail."""
        raise RuntimeError("no")


ODD_NUMBERS = {
    "long": 10**5_000,
    "1e400": 10**400,
    "minus 0": -0.0,
    "2**63": 2**63,
    "2**31": 2**31,
}
ODD_OBJECTS = {
    "enumeration": Color.ODD,
    "text": OddText("x"),
    "mapping": OddMapping(a=1),
    "object": object(),
    "type": int,
    "function": len,
    "longest time": timedelta.max,
    "time before": timedelta(-1),
    "first moment": datetime.min,  # noqa: DTZ901 - of no zone, as is meant
    "last day": date.max,
}


@dataclass(frozen=True)
class Odd:
    """Stands for a value that cannot be shown, as a failing test would."""

    name: str

    @property
    def value(self) -> Any:
        """The value."""
        return {**HOSTILE_VALUES, **ODD_NUMBERS, **ODD_OBJECTS}[self.name]


def of_odd(value: Any) -> Any:
    """Return what a drawn value stands for."""
    return value.value if isinstance(value, Odd) else value


NUMBERS: st.SearchStrategy[Any] = (
    st.integers() | st.floats() | st.sampled_from([0, -1, 2**31 - 1, 2**63 - 1, True, False, 1e308])
)
ANYTHING: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    NUMBERS,
    TEXTS,
    st.binary(max_size=20),
    st.sampled_from([*HOSTILE_VALUES, *ODD_NUMBERS, *ODD_OBJECTS]).map(Odd),
    st.decimals(),
    st.lists(NUMBERS | TEXTS | st.none(), max_size=3),
    st.dictionaries(TEXTS | NUMBERS | st.none(), TEXTS | NUMBERS | st.none(), max_size=3),
    st.recursive(
        st.none() | NUMBERS | TEXTS,
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
        max_leaves=5,
    ),
)
"""Whatever a caller may put in the place of an argument; see `of_odd`."""


_ACTS = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff"
    "\U000e0000-\U000e007f]"
)
"""Controls, separators of lines, what turns the reading order, half characters, what is unseen."""


def is_safe_line(text: str) -> bool:
    """Say whether a text is one line that a terminal only shows, and an encoder can write."""
    return not _ACTS.search(text)
