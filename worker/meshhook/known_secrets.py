"""Secrets given to this process, which are hidden by value in everything it writes."""

from __future__ import annotations

import base64
import html
import json
import re
import threading
from collections.abc import Collection, Iterator
from typing import Any
from urllib.parse import quote, quote_plus

HIDDEN = "(hidden)"
LEAST_CHARACTERS = 6
"""Shorter secrets are not searched for: they would be found inside ordinary words."""
MAX_CHARACTERS = 1_000
"""Of a longer secret only the beginning is searched for; all up to the next space is hidden."""
MAX_SECRETS = 500
"""How many are remembered; the least recently given one is forgotten first."""

_LEAST_ENCODED_CHARACTERS = 7
_LEAST_KINDS = 3  # lines of dashes, or of spaces, are no secrets
# Passwords used for trials that are also ordinary names. Hiding them would hide those names.
_NO_SECRETS = frozenset(
    {"database", "hidden", "localhost", "meshhook", "password", "pgmq", "postgres", "postgresql"}
    | {"production", "public", "queues", "secret", "worker", "workers"}
)


class KnownSecrets:
    """Secrets by value, and one pattern that finds all of them in every encoding.

    The pattern is a tree, so a text is read once, whatever their number. It is thread-safe.
    """

    def __init__(self) -> None:
        """Know none."""
        self._lock = threading.Lock()
        self._secrets: dict[str, None] = {}
        self._pattern: re.Pattern[str] | None = None
        self._is_current = True

    def remember(self, secret: str | None, *, names: Collection[str | None] = ()) -> None:
        """Hide a secret from now on.

        Args:
            secret: its text. One of fewer than 6 characters is not hidden by value, nor is one that
                is a word of every log, such as `postgres`.
            names: public values beside it, such as the user's name: a secret that equals one of
                these is not hidden either.
        """
        if secret is None or len(secret) < LEAST_CHARACTERS or len(set(secret)) < _LEAST_KINDS:
            return
        folded = secret.casefold()
        if folded in _NO_SECRETS or any(folded == name.casefold() for name in names if name):
            return
        with self._lock:
            is_new = secret not in self._secrets
            self._secrets.pop(secret, None)
            self._secrets[secret] = None
            if is_new:
                if len(self._secrets) > MAX_SECRETS:
                    del self._secrets[next(iter(self._secrets))]
                self._is_current = False

    def hide(self, text: str) -> str:
        """Return a text with every secret hidden, in time proportional to its length."""
        if not self._secrets:
            return text
        pattern = self._pattern
        if not self._is_current or pattern is None:
            pattern = self._compiled()
        return pattern.sub(HIDDEN, text)

    def _compiled(self) -> re.Pattern[str]:
        with self._lock:
            written = {each for secret in self._secrets for each in ways_to_write(secret)}
            try:
                self._pattern = re.compile(_tree_pattern(written))
            except RecursionError:
                # Hundreds of forms, each with another behind it: slower to look for, one by one.
                in_order = sorted(written, key=len, reverse=True)
                self._pattern = re.compile("|".join(re.escape(each) for each in in_order))
            self._is_current = True
            return self._pattern


known_secrets = KnownSecrets()
"""The secrets of this process. Parsing a URL adds its password."""


def ways_to_write(secret: str) -> set[str]:
    """Return the forms of a secret in a text: plain, escaped, percent-encoded, in base64."""
    text = secret[:MAX_CHARACTERS]
    encoded = text.encode("utf-8", "surrogatepass")
    percent = {quote(encoded, safe=""), quote(encoded), quote(encoded, safe=_LEFT_ALONE)}
    percent |= {quote_plus(encoded), quote(quote(encoded, safe=""), safe="")}
    percent |= {re.sub("%[0-9A-F]{2}", lambda found: found[0].lower(), each) for each in percent}
    quoted = {text.replace("'", "''"), text.replace('"', '""'), html.escape(text)}
    plain = {text, *percent, *quoted}
    escaped = {form for each in plain for form in _escaped(each)}
    escaped |= {repr(encoded)[2:-1], text.encode("unicode_escape").decode()}
    escaped |= {form for each in escaped for form in _escaped(each)}
    in_base64 = {form for each in (text, *percent) for form in _in_base64(each)}
    return {each for each in plain | escaped | in_base64 if len(each) >= LEAST_CHARACTERS}


_LEFT_ALONE = "!$&'()*+,;=:"  # what needs no escape in a login


def _escaped(text: str) -> Iterator[str]:
    yield json.dumps(text)[1:-1]
    yield json.dumps(text, ensure_ascii=False)[1:-1]
    yield repr(text)[1:-1]
    yield ascii(text)[1:-1]
    yield text.replace("/", r"\/")
    # Within quotes that somebody else has put around what was escaped before.
    yield re.sub(r"([\\'])", r"\\\1", text)
    yield re.sub(r'([\\"])', r"\\\1", text)


def _in_base64(text: str) -> Iterator[str]:
    """Return the base64 forms of a text for every alignment: alone, or within a URL."""
    data = text.encode("utf-8", "surrogatepass")
    for before in range(3):
        # The first and last characters may also encode neighbouring text.
        first = -(-before * 8 // 6)
        last = (before + len(data)) * 8 // 6
        form = base64.b64encode(bytes(before) + data).decode()[first:last]
        if len(form) >= _LEAST_ENCODED_CHARACTERS:
            yield form
            yield form.translate(str.maketrans("+/", "-_"))


def _tree_pattern(words: Collection[str]) -> str:
    tree: dict[str, Any] = {}
    for word in sorted(words):
        node = tree
        for character in word:
            node = node.setdefault(character, {})
        node[""] = None
        if len(word) >= MAX_CHARACTERS:
            node["rest"] = None
    return _branch(tree)


def _branch(tree: dict[str, Any]) -> str:
    """Return the pattern of a tree; if one word is a prefix of another, the longer one wins."""
    stem = ""
    node = tree
    while len(node) == 1 and "" not in node:
        ((character, node),) = node.items()
        stem += re.escape(character)
    if "rest" in node:
        return stem + r"\S*"
    branches = [re.escape(each) + _branch(below) for each, below in node.items() if each]
    if not branches:
        return stem
    optional = "?" if "" in node else ""
    return f"{stem}(?:{'|'.join(branches)}){optional}"
