r"""Escaping of untrusted text for terminals, logs and Kubernetes conditions.

A message, its headers, an error or a server's answer may contain anything: terminal control
sequences, line breaks that forge a second log line, characters that reverse the reading order or
are invisible. All of these are shown as Python escapes: `\x1b`, `\u202e`, `\U000e0041`. Words of
every script, emoji and combining marks stay as they are.
"""

from __future__ import annotations

import json
import re
import reprlib
import unicodedata
from typing import Final

MIN_LIMIT: Final = 40
"""The least limit: the remark on how much was cut must fit."""
VALUE_LIMIT: Final = 200
"""How many characters of a wrong value a message quotes."""

_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_BEFORE_ESCAPE = frozenset("\\nrtxuU")
_SPACES = "\u00a0\u202f\u3000"
"""Seen, and everyday: the spaces of French numbers and of CJK texts."""
_SEEN_FORMATS = frozenset(
    "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"
)
"""Signs of Arabic, Syriac and Kaithi that Unicode calls format characters though they are seen."""
_UNSEEN = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""Unicode calls them letters, marks or symbols, and nothing is seen."""

# Anything else is looked at. The ranges left out are scripts without a gap.
_SUSPECT = re.compile(
    r"[^ -\[\]-~\u00a1-\u00ac\u00ae-\u02ff\u0400-\u0482\u048a-\u052f\u3041-\u3096\u30a0-\u30ff"
    r"\u3400-\u4dbf\u4e00-\u9ffc\uac00-\ud7a3]"
)
_JOINED_SCRIPTS = re.compile(
    "[\u0600-\u0dff\u0f00-\u109f\u1700-\u18af\u1900-\u1aff\u1b00-\u1c4f\ua840-\uabff\ufb50-\ufdff"
    "\ufe70-\ufefc\U00010a00-\U00011fff]"
)
"""Scripts whose letters are joined or parted by U+200C and U+200D."""
_PICTURES = re.compile("[\u00a9\u00ae\u203c-\u3299\U0001f000-\U0001faff]")
"""What U+200D makes one emoji of."""
_IDEOGRAPHS = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


def shown(text: str, *, limit: int | None = None, lines: bool = False) -> str:
    r"""Return an untrusted text made safe to show; different texts stay different unless cut.

    A backslash that would read as an escape is doubled, so that the text can be decoded again.

    Args:
        text: the text.
        limit: the most characters to return, at least 40. A longer text ends in
            `… (1234 more characters)`. Default: no limit.
        lines: whether line feeds are kept. Default false: they become `\n`.
    """
    return _cut(text, limit, keeps="\n" if lines else "", doubles=True)


def shown_sentence(text: str, *, limit: int | None = None, lines: bool = True) -> str:
    """Return a text composed of untrusted parts, made safe to show.

    Parts that are escaped already are not escaped again: no backslash is doubled.

    Args:
        text: the text.
        limit: as for `shown`.
        lines: whether line feeds are kept. Default true.
    """
    return _cut(text, limit, keeps="\n" if lines else "", doubles=False)


def shown_json(document: str) -> str:
    """Return an equivalent JSON document that is safe to print on a terminal.

    Args:
        document: as `json.dumps` makes it, with or without indentation.
    """
    if document.isascii() and document.replace("\n", "").isprintable():
        return document
    return _SUSPECT.sub(_in_json, document)


def quoted(value: object, *, limit: int = VALUE_LIMIT) -> str:
    """Return an invalid value as messages quote it: like `repr`, short, whatever its type.

    Args:
        value: the value; one whose `repr` fails is shown by its type.
        limit: the most characters to return, at least 40. Default 200.
    """
    if isinstance(value, str):
        text = repr(value[:limit])
        if len(value) > limit or len(text) > limit:
            return f"'{shown(value, limit=max(MIN_LIMIT, limit - 2))}'"
        return shown_sentence(text, lines=False)
    try:
        text = repr(value) if isinstance(value, float | bool | None) else _short.repr(value)
    except Exception:  # noqa: BLE001 - objects of others may do anything
        text = f"<{type(value).__name__}>"
    return shown_sentence(text, limit=limit, lines=False)


class _Short(reprlib.Repr):
    """A `repr` that is short for values of any size, in bounded time."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = VALUE_LIMIT

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to write out numbers of more than 4,300 digits.
        if x.bit_length() > 4 * VALUE_LIMIT:
            return f"<int of {x.bit_length()} bits>"
        return super().repr_int(x, level)


_short = _Short()


def _cut(text: str, limit: int | None, *, keeps: str, doubles: bool) -> str:
    if limit is None or len(text) <= limit:
        whole = _escaped(text, keeps, doubles=doubles)
        if limit is None or len(whole) <= limit:
            return whole
    if limit < MIN_LIMIT:
        raise ValueError(f"limit: at least {MIN_LIMIT}, got {limit}")
    # Each character becomes one or more, so that no more than `limit` of them can stay.
    room = limit - MIN_LIMIT + 5
    kept = 0
    for part in _parts(text[:limit], keeps, doubles=doubles):
        if len(part) > room:
            break
        room -= len(part)
        kept += 1
    return _escaped(text[:kept], keeps, doubles=doubles) + f"… ({len(text) - kept} more characters)"


def _parts(text: str, keeps: str, *, doubles: bool) -> list[str]:
    return [
        _escape(text, i, keeps, doubles=doubles) if _SUSPECT.match(each) else each
        for i, each in enumerate(text)
    ]


def _escaped(text: str, keeps: str, *, doubles: bool) -> str:
    if text.isascii() and text.isprintable() and not (doubles and "\\" in text):
        return text
    return _SUSPECT.sub(
        lambda match: _escape(text, match.start(), keeps, doubles=doubles),
        text,
    )


def _escape(text: str, place: int, keeps: str, *, doubles: bool) -> str:
    """Return the escape of one character."""
    character = text[place]
    if character == "\\":
        if not doubles or place + 1 == len(text):
            return character
        after = text[place + 1]
        is_next = after in _BEFORE_ESCAPE or (after not in keeps and _hides(text, place + 1))
        return "\\\\" if is_next else character
    if character in keeps or not _hides(text, place):
        return character
    code = ord(character)
    if character in _SHORT:
        return _SHORT[character]
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _in_json(match: re.Match[str]) -> str:
    character = match[0]
    if character in "\n\\" or not _hides(match.string, match.start()):
        return character
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))


def _hides(text: str, place: int) -> bool:
    """Return whether a character has an effect instead of a glyph, or looks like another."""
    character = text[place]
    code = ord(character)
    if character in "\u200c\u200d":
        return not _joins(text, place)
    if _is_selector(code):
        return not _selects(text, place)
    if character.isprintable():
        return character in _UNSEEN
    if character in _SPACES or character in _SEEN_FORMATS:
        return False
    # Newer emoji and ideographs than Python knows.
    is_new = 0x1F000 <= code <= 0x1FAFF or 0x20000 <= code <= 0x3FFFD
    return not (is_new and unicodedata.category(character) == "Cn")


def _joins(text: str, place: int) -> bool:
    """Return whether a joiner is where writing needs it: in some scripts, and in emoji."""
    if place == 0 or place + 1 == len(text) or _is_selector(ord(text[place + 1])):
        return False
    before, after = text[place - 1], text[place + 1]
    is_in_emoji = (
        text[place] == "\u200d"
        and _PICTURES.match(after)
        and (_PICTURES.match(before) or before == "\ufe0f")
    )
    is_in_word = _JOINED_SCRIPTS.match(before) and _JOINED_SCRIPTS.match(after)
    return bool(is_in_emoji or is_in_word) and not (
        _hides(text, place - 1) or _hides(text, place + 1)
    )


def _is_selector(code: int) -> bool:
    return 0xFE00 <= code <= 0xFE0F or 0xE0100 <= code <= 0xE01EF or 0x180B <= code <= 0x180F


def _selects(text: str, place: int) -> bool:
    """Return whether a variation selector follows a character that it can vary.

    Sequences of selectors can hide whole texts.
    """
    if place == 0 or _is_selector(ord(text[place - 1])) or _hides(text, place - 1):
        return False
    before = text[place - 1]
    if text[place] > "\uffff":
        return bool(_IDEOGRAPHS.match(before))
    if text[place] < "\ufe00":
        return "\u1820" <= before <= "\u18aa"  # Mongolian letters
    return not before.isascii() or before in "#*0123456789"


_FORMULA_STARTS = tuple("=+-@\uff1d\uff0b\uff0d\uff20")
"""With these, also as wide characters, formulas of spreadsheets begin."""
_NEXT_FORMULA = re.compile("(;\\s*)(?=[=+@\uff1d\uff0b\uff0d\uff20-])")
"""Where a comma is in numbers, as in much of Europe, a semicolon begins the next cell."""


def spreadsheet_text(text: str) -> str:
    """Return an untrusted text for a cell of CSV: in one line, and no formula."""
    shown = "".join(each if each.isprintable() else "?" for each in text)
    shown = _NEXT_FORMULA.sub(r"\1'", shown)
    return f"'{shown}" if shown.lstrip().startswith(_FORMULA_STARTS) else shown


def spreadsheet_json(value: object) -> str:
    """Return JSON for a cell of CSV: one cell, whatever parts the cells, and no formula."""
    # Semicolons are in its texts only, where they may be escaped.
    return json.dumps(value).replace(";", "\\u003b")
