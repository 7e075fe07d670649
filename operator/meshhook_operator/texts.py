"""Texts of others, in conditions, events and lines of the log: escaped, and short."""

from __future__ import annotations

from meshhook.escaping import shown_sentence

MESSAGE_LIMIT = 500
"""How many characters of a text are shown."""


def capped(text: str) -> str:
    """Return a text on one line, with what it may hide shown as escapes, and its end cut off."""
    return shown_sentence(text, limit=MESSAGE_LIMIT, lines=False)
