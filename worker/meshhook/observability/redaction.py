"""Redaction: the only place that hides secrets in logs, traces and the history.

It goes by names of fields, by patterns in texts, and by value for secrets that this process was
given. Every step takes time proportional to its input.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from meshhook.known_secrets import HIDDEN, known_secrets

MAX_TEXT_CHARACTERS = 32_768
"""The most characters of a text that are kept."""
MAX_DEPTH = 20
"""The depth to which nested values are shown."""
MAX_ITEMS = 2_000
"""How many values of a nested value are shown."""
MAX_CHARACTERS = 8 * MAX_TEXT_CHARACTERS
"""The most characters kept of all texts in one value."""

_NOT_SHOWN = "…"
_SECRET_NAME = re.compile(
    r"passw|pwd|passphrase|secret|token|authorization|cookie|api_?key|private_?key|credential"
    r"|database_url|dsn|otlp\w{0,20}headers",
    re.IGNORECASE,
)
_WORD = re.compile(r"\S+")
# In quotes, in those of JSON within JSON, or without any.
_QUOTED = (
    r"""(?:"(?:[^"\\\n]|\\.)*"?|'(?:[^'\\\n]|\\.)*'?|\\{2,}["'][^"'\n]*"""
    r"""|\\"(?:[^"\\\n]|\\\\(?:\\.)?|\\[^"\\\n])*(?:\\")?"""
    r"""|\\'(?:[^'\\\n]|\\\\(?:\\.)?|\\[^'\\\n])*(?:\\')?"""
)
# A value that was known is hidden already, or a part of one.
_BEFORE = re.escape(HIDDEN)
_VALUE = rf"""{_QUOTED}|(?:{_BEFORE}|[^\s,;&"')}}\]])+)"""
_LIST = rf"""{_QUOTED}|[^\s"']+)"""
_LEAD = r"""(?:\\{0,3}["'])?\s{0,2}"""
# What stands behind the name of a secret: `password=x`, `"password": "x"`, `password='x y'`.
_NAMED = re.compile(
    rf"""((?:passw(?:or)?d|pwd|passphrase|api[_-]?key){_LEAD}[=:]\s{{0,2}}|"""
    rf"""(?:secret|token|access[_-]?key|private[_-]?key|credentials?)(?:{_LEAD}=\s{{0,2}}"""
    rf"""|\\{{0,3}}["']\s{{0,2}}:\s{{0,2}})|"""
    rf"""(?:authorization|cookie){_LEAD}[=:]\s{{0,2}}"""
    rf"""(?:(?:basic|bearer|digest|negotiate)\s)?)({_VALUE})|"""
    rf"""(otlp[a-z_]{{0,20}}headers{_LEAD}[=:]\s{{0,2}})({_LIST})""",
    re.IGNORECASE,
)
_SHAPED = re.compile(
    # What follows the name of a login's scheme; base64 that begins with `postgres`, as in a Secret.
    rf"(\bbearer\s+)(?:(?:{_BEFORE}[\w.~+/=-]*)+|[\w.~+/=-]{{16,}})"
    rf"|(\bbasic\s+)[A-Za-z0-9+/]{{16,}}=*|()cG9zdGdyZX(?:{_BEFORE}|[\w+/-])*=*",
    re.IGNORECASE | re.ASCII,
)
_PLACEHOLDER = "password"  # in messages that say what a URL looks like
_WHITE = " \n\t"
_MAX_WORD_CHARACTERS = 2_000
_URL_HINTS = ("://", "%3a%2f%2f", r":\/\/")
_NAMED_HINTS = (
    *("passw", "pwd", "passphrase", "key", "secret", "token", "credential"),
    *("headers", "authorization", "cookie"),
)
_SHAPED_HINTS = ("bearer", "basic", "cg9zdgdyzx")
_SCHEME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+.-")
_USERLESS_SCHEMES = ("http", "https")
_PORT = re.compile(r"[0-9]{1,5}(?![^/?,)\]}\"'\s])")
_MAX_SPACED_CHARACTERS = 128


def hidden(name: object, value: Any) -> Any:
    """Return the value of a field with its secrets hidden, whatever its type.

    Anything but numbers and collections becomes text. Long texts and deep or large collections are
    cut, as the constants of this module say.
    """
    # The names that start with an underscore are structlog's own.
    if value is None or isinstance(value, bool | int | float) or str(name)[:1] == "_":
        return value
    try:
        return _Hiding().value(name, value, 0)
    except Exception:  # noqa: BLE001 - a collection of others may raise anything
        return _NOT_SHOWN


class _Hiding:
    """The limits that are left for one value."""

    def __init__(self) -> None:
        self._items = MAX_ITEMS
        self._characters = MAX_CHARACTERS

    def value(self, name: object, value: Any, depth: int) -> Any:
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(name, str) and _SECRET_NAME.search(name[:MAX_TEXT_CHARACTERS]):
            return HIDDEN
        self._items -= 1
        if self._items < 0 or depth > MAX_DEPTH:
            return _NOT_SHOWN
        if isinstance(value, Mapping):
            items = list(value.items())[: self._items + 1]
            return {self._key(key): self.value(key, item, depth + 1) for key, item in items}
        if isinstance(value, list | tuple | set | frozenset):
            return [self.value("", item, depth + 1) for item in list(value)[: self._items + 1]]
        return self._text(_as_text(value))

    def _key(self, key: Any) -> Any:
        return (
            key if key is None or isinstance(key, bool | int | float) else self._text(_as_text(key))
        )

    def _text(self, text: str) -> str:
        text = hide_in_text(text)
        self._characters -= len(text)
        return text if self._characters >= 0 else _NOT_SHOWN


def _as_text(value: Any) -> str:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value[:MAX_CHARACTERS]).decode("utf-8", "backslashreplace")
    try:
        return str.__str__(str(value))
    except Exception as error:  # noqa: BLE001 - whatever a __str__ raises
        return f"({type(value).__name__} that cannot be shown: {type(error).__name__})"


def hide_in_text(text: str) -> str:
    """Return a text with recognizable secrets hidden; a long text is cut in the middle."""
    if len(text) <= MAX_TEXT_CHARACTERS:
        return _hide(text)
    # Half a secret would not be recognized, so the words at the cut go as well.
    half = MAX_TEXT_CHARACTERS // 2
    head, tail = text[:half], text[-half:]
    head = head[: max(half - _MAX_WORD_CHARACTERS, *(head.rfind(each) for each in _WHITE))]
    starts = [at for each in _WHITE if (at := tail.find(each, 0, _MAX_WORD_CHARACTERS)) >= 0]
    tail = tail[min(starts, default=_MAX_WORD_CHARACTERS) :]
    cut = len(text) - len(head) - len(tail)
    return f"{_hide(head)} … {cut} characters cut … {_hide(tail)}"


def _hide(text: str) -> str:
    text = known_secrets.hide(text)
    # Searching for a few words is many times faster than matching the patterns.
    small = text.lower()
    if any(each in small for each in _URL_HINTS):
        text = _without_logins(text)
    if any(each in small for each in _NAMED_HINTS):
        text = _NAMED.sub(_after_its_name, text)
    if any(each in small for each in _SHAPED_HINTS):
        text = _SHAPED.sub(_after_its_name, text)
    return text


def _after_its_name(found: re.Match[str]) -> str:
    return next(each for each in found.groups() if each is not None) + HIDDEN


def _without_logins(text: str) -> str:
    parts: list[str] = []
    end = 0
    for found in _WORD.finditer(text):
        word = found[0]
        if found.start() < end or not ("://" in word or "%" in word or "\\/" in word):
            continue  # or it belongs to a password with spaces in it
        shown, word_end = _without_login(word, text, found.end())
        if shown != word:
            parts += text[end : found.start()], shown
            end = word_end
    return "".join(parts) + text[end:] if parts else text


def _without_login(word: str, text: str, end: int) -> tuple[str, int]:
    """Return a word with its password hidden, and where the replaced part ends in the text."""
    for marks in _MARKS:
        shown = _without_password(word, *marks)
        if shown != word:
            return shown, end
    rest = _spaced_password(word, text, end)
    if rest <= end:
        return word, end
    return word[: word.find(":", word.find("://") + 3) + 1] + HIDDEN, rest


_MARKS = (
    # How a URL parts its scheme, user, password and host: as it is, escaped, percent-encoded.
    (re.compile("://"), re.compile(":"), "@", re.compile("/")),
    (re.compile(r":\\/\\/"), re.compile(":"), "@", re.compile("/")),
    (re.compile("%3a%2f%2f", re.IGNORECASE), re.compile("%3a", re.IGNORECASE), "%40", _WORD),
)


def _without_password(
    word: str, separator: re.Pattern[str], colon: re.Pattern[str], at: str, slash: re.Pattern[str]
) -> str:
    """Hide the part between the user's name and the last @ of a word that contains a URL.

    A password that was not percent-encoded may itself contain @ and /.
    """
    found = separator.search(word)
    if found is None or word[found.start() - 1 : found.start()] not in _SCHEME_CHARACTERS:
        return word
    begin = found.end()
    last = word.rfind(at, begin)
    if last < 0:
        return word
    first_colon = colon.search(word, begin, last)
    first_slash = slash.search(word, begin, last) if slash is not _WORD else None
    if first_colon is not None and (
        first_slash is None or first_colon.start() < first_slash.start()
    ):
        begin = first_colon.end()
        is_secret = word[begin:last] != _PLACEHOLDER
    else:
        # A key in place of the user, as in the URLs of some APIs.
        is_secret = first_slash is None and word[: found.start()].lower().endswith(
            _USERLESS_SCHEMES
        )
    return f"{word[:begin]}{HIDDEN}{word[last:]}" if is_secret else word


def _spaced_password(word: str, text: str, end: int) -> int:
    """Return where a password with spaces in it ends whose URL begins with a word; 0 if none does.

    Such a URL is not valid, and yet some programs take it.
    """
    begin = word.find("://")
    colon = word.find(":", begin + 3)
    if begin < 1 or colon < 0 or "/" in word[begin + 3 : colon] or "@" in word[begin + 3 :]:
        return 0
    if word[begin - 1] not in _SCHEME_CHARACTERS or _PORT.match(word, colon + 1):
        return 0
    line_end = text.find("\n", end, end + _MAX_SPACED_CHARACTERS)
    return text.rfind("@", end, line_end if line_end >= 0 else end + _MAX_SPACED_CHARACTERS)
