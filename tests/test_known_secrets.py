"""Secrets that a process has been given are hidden by their value, however they are written."""

from __future__ import annotations

import base64
import html
import json
import string
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshhook.errors import InvalidSettingError
from meshhook.known_secrets import HIDDEN, MAX_CHARACTERS, MAX_SECRETS, KnownSecrets, known_secrets
from meshhook.postgres.url import parse_database_url

ODD = "p@s:w/o?r#d%1 é\u20ac'\"\\`$&;,"


def hiding(*secrets: str) -> KnownSecrets:
    """Return what knows some secrets."""
    found = KnownSecrets()
    for secret in secrets:
        found.remember(secret)
    return found


def written(secret: str) -> dict[str, str]:
    """Return ways in which programs write a text."""
    data = secret.encode()
    return {
        "plain": secret,
        "repr": repr([secret]),
        "ascii": ascii({"a": secret}),
        "repr in repr": repr([repr([secret])]),
        "bytes": repr(data),
        "json": json.dumps({"a": secret}),
        "json, not ascii": json.dumps(secret, ensure_ascii=False),
        "json in json": json.dumps(json.dumps(secret)),
        "percent": quote(secret, safe=""),
        "percent, with /": quote(secret),
        "form": quote_plus(secret),
        "percent, small": quote(secret, safe="").lower() if secret.islower() else secret,
        "percent twice": quote(quote(secret, safe=""), safe=""),
        "html": html.escape(secret),
        "sql": "'" + secret.replace("'", "''") + "'",
        "libpq": "'" + secret.replace("\\", r"\\").replace("'", r"\'") + "'",
    }


@pytest.mark.parametrize("secret", [ODD, "correct-horse", "Tr0ub4dor&3", "ÄÖÜäöü߀"])
def test_a_secret_is_found_however_it_is_written(secret: str) -> None:
    """As it is, quoted, escaped once or twice, percent-encoded."""
    known = hiding("another-one", secret)
    for way, text in written(secret).items():
        shown = known.hide(f"before {text} behind")
        assert HIDDEN in shown, way
        assert text not in shown, way
        assert shown.startswith("before ")
        assert shown.endswith(" behind")


@given(
    st.text(st.characters(codec="utf-8"), min_size=7, max_size=40).filter(lambda s: len(set(s)) > 3)
)
def test_any_secret_is_found(secret: str) -> None:
    """Whatever characters it has."""
    known = hiding(secret)
    for way, text in written(secret).items():
        assert HIDDEN in known.hide(f"<{text}>"), way


@pytest.mark.parametrize("before", ["", "a", "ab", "postgresql://me:"])
@pytest.mark.parametrize("behind", ["", "@host/jobs"])
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_base64_of_a_secret_or_of_a_url_with_it(before: str, behind: str, encode: object) -> None:
    """As Secrets of Kubernetes hold them: nothing is left that leads back to six characters."""
    assert callable(encode)
    secret = "hunter2-hunter3?>"
    text = encode(f"{before}{secret}{behind}".encode()).decode()
    shown = hiding(secret).hide(text)
    assert HIDDEN in shown
    left, _, right = shown.partition(HIDDEN)
    for part in (left, right, *(right[i:] for i in range(4))):
        data = base64.b64decode(part[: len(part) // 4 * 4] + "====", altchars=b"-_")
        assert not any(secret[i : i + 6].encode() in data for i in range(len(secret) - 5))


@pytest.mark.parametrize(
    "secret", ["", "a", "pw", "12345", "postgres", "Password", "worker", "-" * 20, "      ", "me"]
)
def test_what_would_shred_every_text_is_left_alone(secret: str) -> None:
    """Short ones, and words of every log, are hidden by what stands around them alone."""
    text = "worker me of postgres 12345 -------------------- has a password:      no"
    assert hiding(secret).hide(text) == text


def test_a_password_that_is_the_name_of_something_is_left_alone() -> None:
    """As in trials: the user, the database or the host would be hidden everywhere."""
    known = KnownSecrets()
    known.remember("orders", names=("Orders", None))
    assert known.hide("orders") == "orders"


def test_the_oldest_are_forgotten() -> None:
    """A program that reads URLs for ever keeps the newest."""
    known = hiding(*(f"secret-{i:05}" for i in range(MAX_SECRETS)))
    known.remember("secret-00000")
    known.remember("one-more-secret")
    assert known.hide("secret-00000 secret-00001 one-more-secret") == (
        f"{HIDDEN} secret-00001 {HIDDEN}"
    )


def test_a_very_long_secret() -> None:
    """Its rest is hidden with it."""
    secret = (string.ascii_letters * 100)[: MAX_CHARACTERS * 2]
    assert hiding(secret).hide(f"a {secret} b") == f"a {HIDDEN} b"
    assert hiding(ODD * 100).hide(f"a {ODD * 100} b").count("€") < 70


def test_one_secret_that_begins_as_another() -> None:
    """The longer one is hidden as a whole."""
    assert hiding("hunter2", "hunter2-hunter3").hide("hunter2-hunter3 hunter2") == (
        f"{HIDDEN} {HIDDEN}"
    )


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:m4rked-w0rd@h/db",
        "postgresql://me:m4rked%2Dw0rd@h/db",
        "postgresql://h/db?password=m4rked-w0rd",
        "postgresql://h/db?sslmode=require&sslpassword=m4rked-w0rd",
        "postgresql://h/db?password=m4rked-w0rd&sslmode=wrong",
        "postgresql://h/db?password=a&m4rked-w0rd=x&sslmode=wrong",
    ],
)
def test_what_a_url_holds_is_remembered(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it stands, also where the rest of the URL is wrong."""
    monkeypatch.setattr(known_secrets, "_secrets", {})
    monkeypatch.setattr(known_secrets, "_is_current", False)
    try:
        parse_database_url(url)
    except InvalidSettingError:
        assert "wrong" in url
    assert known_secrets.hide("m4rked-w0rd") == HIDDEN
    assert known_secrets.hide("db h me sslmode") == "db h me sslmode"
