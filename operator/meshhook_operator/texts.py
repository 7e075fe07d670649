"""Texts of others, in conditions, events and the log: escaped, short, without secrets."""

from __future__ import annotations

from meshhook.escaping import shown_sentence
from meshhook.observability.redaction import hide_in_text

MESSAGE_LIMIT = 500
"""How many characters of a text are shown."""


def capped(text: str) -> str:
    """Return a text on one line: secrets hidden, what acts shown as escapes, its end cut off."""
    return shown_sentence(hide_in_text(text), limit=MESSAGE_LIMIT, lines=False)
