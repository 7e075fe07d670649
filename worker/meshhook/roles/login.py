"""A role's password: read from a URL, and sent to the server only as a SCRAM-SHA-256 verifier."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import stringprep
import unicodedata
from dataclasses import dataclass, field

from meshhook.errors import InvalidSettingError
from meshhook.postgres.url import parse_database_url

_ITERATIONS = 4096
_SALT_BYTES = 16


@dataclass(frozen=True, slots=True)
class Login:
    """The user name and password of a login."""

    user: str
    password: str = field(repr=False)


def login_from_url(url: str, source: str) -> Login:
    """Return the user name and the password in a database URL.

    Args:
        url: postgresql://user:password@host:port/database.
        source: what to call it in an error, such as the name of a variable. The URL is not shown.

    Raises:
        InvalidSettingError: if it is not valid, or lacks one of the two.
    """
    try:
        target = parse_database_url(url)
    except InvalidSettingError as error:
        raise InvalidSettingError(f"{source}: {error}") from None
    if not target.user or not target.password:
        raise InvalidSettingError(
            f"{source}: the URL names no {'password' if target.user else 'user'}; "
            "expected postgresql://user:password@host:5432/name"
        )
    return Login(target.user, target.password)


def scram_verifier(password: str, salt: bytes | None = None) -> str:
    """Return the verifier that PostgreSQL stores for a password, as in RFC 5802 and RFC 7677.

    The server accepts it in place of the password, which it then never sees: neither its log nor
    pg_stat_statements can contain it.

    Args:
        password: the password, in any characters but NUL.
        salt: 16 random bytes; None: new ones.
    """
    salt = secrets.token_bytes(_SALT_BYTES) if salt is None else salt
    salted = hashlib.pbkdf2_hmac("sha256", _prepared(password).encode(), salt, _ITERATIONS)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    stored_key = hashlib.sha256(client_key).digest()
    salt_text, stored_text, server_text = (
        base64.b64encode(part).decode() for part in (salt, stored_key, server_key)
    )
    return f"SCRAM-SHA-256${_ITERATIONS}:{salt_text}${stored_text}:{server_text}"


def _prepared(password: str) -> str:
    """Return a password normalized by SASLprep (RFC 4013); one that it prohibits is unchanged.

    PostgreSQL does the same on its side, and so do clients.
    """
    if password.isascii():
        return password
    mapped = "".join(
        " " if stringprep.in_table_c12(each) else each
        for each in password
        if not stringprep.in_table_b1(each)
    )
    text = unicodedata.normalize("NFKC", mapped)
    forbidden = (
        stringprep.in_table_a1,
        stringprep.in_table_c12,
        stringprep.in_table_c21_c22,
        stringprep.in_table_c3,
        stringprep.in_table_c4,
        stringprep.in_table_c5,
        stringprep.in_table_c6,
        stringprep.in_table_c7,
        stringprep.in_table_c8,
        stringprep.in_table_c9,
    )
    if not text or any(test(each) for each in text for test in forbidden):
        return password
    if any(stringprep.in_table_d1(each) for each in text) and (
        any(stringprep.in_table_d2(each) for each in text)
        or not (stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1]))
    ):
        return password
    return text
