"""Keeping secrets out of what is logged: by the names of fields, and by what texts look like."""

from __future__ import annotations

import re
from typing import Any

HIDDEN = "(hidden)"
MAX_TEXT_CHARACTERS = 32_768
"""How much of a text is kept."""

_SECRET_NAME = re.compile(
    r"passw|secret|token|authorization|cookie|api_?key|private_?key|credential|database_url|dsn",
    re.IGNORECASE,
)
_WORD = re.compile(r"\S+")
# What may stand behind the name of a secret: `password=x`, `"password": "x"`, `password='x y'`.
_NAMED = re.compile(
    r"""((?:passw(?:or)?d|pwd|passphrase|secret|api_?key)["']?(?:=|["']:\s?))"""
    r"""("[^"\n]*"?|'[^'\n]*'?|[^\s,;&"')}\]]+)""",
    re.IGNORECASE,
)
_SCHEME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+.-")


def hidden(name: object, value: Any) -> Any:
    """Return the value of a field without the secrets in it, whatever it is.

    Texts longer than 32,768 characters are cut; every step takes time in proportion to its input.
    """
    # The names that start with an underscore are structlog's own.
    if value is None or isinstance(value, bool | int | float) or str(name)[:1] == "_":
        return value
    if isinstance(name, str) and _SECRET_NAME.search(name):
        return HIDDEN
    if isinstance(value, str):
        return hide_in_text(value)
    if isinstance(value, bytes | bytearray):
        return hide_in_text(value.decode("utf-8", "backslashreplace"))
    return _hidden_within(value)


def _hidden_within(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: hidden(key, item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [hidden("", item) for item in value]
    return value


def hide_in_text(text: str) -> str:
    """Return a text, cut if it is very long, without the passwords in it that can be told."""
    if len(text) > MAX_TEXT_CHARACTERS:
        cut = len(text) - MAX_TEXT_CHARACTERS
        text = f"{text[:MAX_TEXT_CHARACTERS]} … {cut} characters cut"
    if "://" in text:
        text = _WORD.sub(lambda match: _without_password(match[0]), text)
    return _NAMED.sub(rf"\1{HIDDEN}", text)


def _without_password(word: str) -> str:
    """Hide what stands between the user's name and the last @ of a word that is or holds a URL.

    A password that was not percent-encoded may hold @ and / itself.
    """
    scheme, separator, rest = word.partition("://")
    last = rest.rfind("@")
    if not separator or last < 0 or scheme[-1:] not in _SCHEME_CHARACTERS:
        return word
    colon = rest.find(":")
    slash = rest.find("/")
    if not 0 <= colon < last or 0 <= slash < colon:
        return word
    return f"{scheme}://{rest[: colon + 1]}{HIDDEN}{rest[last:]}"
