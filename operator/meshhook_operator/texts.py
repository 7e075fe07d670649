"""Text from servers and users in conditions, events and the log: escaped, short, no secrets."""

from __future__ import annotations

from meshhook.escaping import shown_sentence
from meshhook.observability.redaction import hide_in_text

MESSAGE_LIMIT = 500
"""The most characters that are shown."""


def capped(text: str, *, limit: int = MESSAGE_LIMIT) -> str:
    """Return a text on one line: secrets hidden, control characters escaped, cut if long.

    Args:
        text: the text.
        limit: the most characters that are shown.
    """
    return shown_sentence(hide_in_text(text), limit=limit, lines=False)
