"""Texts for databases whose encoding covers less than Unicode."""

from __future__ import annotations

import codecs

_CODECS = {
    **{f"LATIN{n}": f"iso8859-{part}" for n, part in enumerate((1, 2, 3, 4, 9, 10, 13, 14, 15), 1)},
    "LATIN10": "iso8859-16",
    **{f"ISO_8859_{part}": f"iso8859-{part}" for part in (5, 6, 7, 8)},
    **{f"WIN{page}": f"cp{page}" for page in (866, 874, *range(1250, 1259))},
    "KOI8R": "koi8-r",
    "KOI8U": "koi8-u",
    "EUC_JP": "euc_jp",
    "EUC_JIS_2004": "euc_jis_2004",
    "EUC_CN": "gb2312",
    "EUC_KR": "euc_kr",
    "JOHAB": "johab",
}
"""The encodings that a database may have, by PostgreSQL's names, and Python's names for them."""
_HOLD_ALL = {None, "UTF8", "SQL_ASCII"}
ASCII = "ASCII"
"""Stands for an unknown encoding: every encoding covers ASCII."""


def holds_all(encoding: str | None) -> bool:
    """Return whether an encoding covers every character; None, for an unknown one, does."""
    return encoding in _HOLD_ALL


def fitted_text(text: str, encoding: str | None) -> str:
    """Return a text in which question marks replace characters that an encoding lacks.

    Args:
        text: the text.
        encoding: the encoding of a database by PostgreSQL's name. One that is not known here is
            taken to cover ASCII; None: it covers all of Unicode.
    """
    if holds_all(encoding) or text.isascii():
        return text
    try:
        codec = codecs.lookup(_CODECS.get(encoding or "", "ascii"))
    except LookupError:
        codec = codecs.lookup("ascii")
    return codec.decode(codec.encode(text, "replace")[0])[0]
