"""A password that is looked for in everything that programs say."""

from __future__ import annotations

from urllib.parse import quote, urlsplit

from meshhook.known_secrets import ways_to_write

PASSWORD = "Zq7@wXv9:Kp3/Jt5?Rm8#Bn2%Lc4 Hd6'Gf1\"Ys0\\Vé2&Wk"
"""With every character that has a meaning somewhere."""
LEAST = 6
"""How many characters in a row of it, in whatever form, count as a leak."""
_ORDINARY = frozenset("0123456789ABCDEFabcdef%\\u")


def _parts() -> frozenset[str]:
    found = {
        form[i : i + LEAST]
        for form in {PASSWORD, *ways_to_write(PASSWORD)}
        for i in range(len(form) - LEAST + 1)
    }
    # Not what is nothing but an escape, such as `%5C%22`.
    return frozenset(part for part in found if not set(part) <= _ORDINARY)


PARTS = _parts()


def leaks(text: str | bytes) -> list[str]:
    """Return the parts of the password that a text holds, each with what stands around it."""
    if isinstance(text, bytes):
        text = text.decode(errors="backslashreplace")
    starts = [i for i in range(len(text) - LEAST + 1) if text[i : i + LEAST] in PARTS]
    return [text[max(0, i - 60) : i + 60] for i in starts[:5]]


def marked_url(url: str, *, user: str, password: str = PASSWORD) -> str:
    """Return a URL with another user, and the password."""
    parts = urlsplit(url)
    place = f"{parts.hostname}:{parts.port}{parts.path}"
    return f"postgresql://{user}:{quote(password, safe='')}@{place}"
