"""What is hidden of what is logged."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshhook.known_secrets import HIDDEN, KnownSecrets
from meshhook.observability import redaction
from meshhook.observability.loggers import get_logger
from meshhook.observability.logs import configure_logging
from meshhook.observability.redaction import (
    MAX_CHARACTERS,
    MAX_DEPTH,
    MAX_ITEMS,
    MAX_TEXT_CHARACTERS,
    hidden,
)
from support.logging_setup import logging_as_before


@pytest.mark.parametrize("is_known", [False, True])
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:hunter2@host/name", "postgresql://me:(hidden)@host/name"),
        ("to <amqp://me:hunt/er@2@host>, too", "to <amqp://me:(hidden)@host>, too"),
        ("https://host:80/a@b", "https://host:(hidden)@b"),
        ("https://host/a:b@c", "https://host/a:b@c"),
        ("https://host:80/a", "https://host:80/a"),
        ("host=h password=hunter2 user=u", "host=h password=(hidden) user=u"),
        ("host=h password='hunter2 x' user=u", "host=h password=(hidden) user=u"),
        ('{"password": "hunter2", "n": 1}', '{"password": (hidden), "n": 1}'),
        ("the password is wrong", "the password is wrong"),
        ("postgresql://me:hunt er2@host failed", "postgresql://me:(hidden)@host failed"),
        ('postgresql://me:"hu\'nt#?\u00e9%"@host', "postgresql://me:(hidden)@host"),
        ("postgresql%3A%2F%2Fme%3Ahunter2%40host", "postgresql%3A%2F%2Fme%3A(hidden)%40host"),
        (r"postgresql:\/\/me:hunter2@host", r"postgresql:\/\/me:(hidden)@host"),
        ("postgresql://h:5432/n: ask me@x.org", "postgresql://h:5432/n: ask me@x.org"),
        ("postgresql://me@host/name", "postgresql://me@host/name"),
        ("postgresql://user:password@host/name", "postgresql://user:password@host/name"),
        ("git clone https://key@host/x", "git clone https://(hidden)@host/x"),
        (
            "postgresql://h?user=u&password=hun%20t&x=1",
            "postgresql://h?user=u&password=(hidden)&x=1",
        ),
        ("password='hunter\\'2 x' user=u", "password=(hidden) user=u"),
        ('password="hunter\\"2 x" user=u', "password=(hidden) user=u"),
        (r'{"a": "{\"password\": \"hun\\\"ter\"}"}', r'{"a": "{\"password\": (hidden)}"}'),
        ("sslpassword=hunter2 sslkey=/key", "sslpassword=(hidden) sslkey=/key"),
        ("PGPASSWORD=hunter2\nPATH=/bin", "PGPASSWORD=(hidden)\nPATH=/bin"),
        ("environ({'PGPASSWORD': 'hunter2'})", "environ({'PGPASSWORD': (hidden)})"),
        ("password: hunter2", "password: (hidden)"),
        ("Authorization: Bearer hunter2", "Authorization: Bearer (hidden)"),
        ("Authorization: Basic aHVudGVyMg==", "Authorization: Basic (hidden)"),
        ("'authorization': 'Bearer hunter2'", "'authorization': (hidden)"),
        ("sent Bearer hunter2.hunter2.hunter2", "sent Bearer (hidden)"),
        ("OTEL_EXPORTER_OTLP_HEADERS=team=hunter2,a=b x", "OTEL_EXPORTER_OTLP_HEADERS=(hidden) x"),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS='a=b c'", "OTEL_EXPORTER_OTLP_TRACES_HEADERS=(hidden)"),
        ("url: cG9zdGdyZXNxbDovL21lOmh1bnRlcjI=", "url: (hidden)"),
        ("?access_token=hunter2&x=1", "?access_token=(hidden)&x=1"),
        ("invalid token: }", "invalid token: }"),
        ("no such secret: jobs-db", "no such secret: jobs-db"),
        ("basic authentication failed", "basic authentication failed"),
        (
            'password authentication failed for user "u"',
            'password authentication failed for user "u"',
        ),
    ],
)
def test_passwords_in_texts(text: str, shown: str, is_known: bool, known: KnownSecrets) -> None:
    """In URLs, connection strings and JSON; the same where the value is hidden already."""
    if is_known:
        known.remember("hunter2")
    assert hidden("text", text) == shown


@pytest.mark.parametrize(
    "value",
    [
        b"postgresql://me:hunter2@host/name",
        bytearray(b"password=hunter2"),
        ("postgresql://me:hunter2@host/name",),
        {"nested": [{"api_key": "hunter2"}]},
        {"postgresql://me:hunter2@host/name"},
        {"postgresql://me:hunter2@host/name": 1},
        {b"password=hunter2": b"password=hunter2"},
        memoryview(b"password=hunter2"),
        ValueError("password=hunter2"),
        [ExceptionGroup("password=hunter2", [ValueError("password=hunter2")])],
        Path("/password=hunter2"),
    ],
)
def test_values_of_any_kind(value: object) -> None:
    """Bytes, tuples, sets, exceptions and what lies within."""
    shown = hidden("value", value)
    assert "hunter2" not in repr(shown)
    assert "hunter2" not in str(shown)


class Unshowable:
    """What cannot be shown."""

    def __str__(self) -> str:
        """Fail."""
        raise ValueError("password=hunter2")


def test_what_cannot_be_shown_is_named() -> None:
    """A record is written all the same."""
    assert hidden("value", Unshowable()) == "(Unshowable that cannot be shown: ValueError)"


def test_what_has_no_end_is_cut() -> None:
    """Loops, depth, numbers and lengths within one value."""
    loop: list[object] = ["x"]
    loop += [loop, loop]
    assert "…" in repr(hidden("value", loop))
    deep: object = "password=hunter2"
    for _ in range(5_000):
        deep = [deep]
    assert repr(hidden("value", deep)).count("[") == MAX_DEPTH + 1
    assert len(hidden("value", list("x" * 100_000))) <= MAX_ITEMS + 1
    long = hidden("value", ["x " * MAX_TEXT_CHARACTERS] * 100)
    assert sum(map(len, long)) < MAX_CHARACTERS + 100


def test_everything_of_an_exception_is_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    """Causes, contexts, notes and members of groups, as they are logged."""
    stream = io.StringIO()
    configure_logging("json", stream=stream)
    try:
        raise_all()
    except ExceptionGroup as error:
        error.add_note("password=hunter2")
        logging.getLogger("other").warning("failed: %s", "password=hunter2", exc_info=True)
        logging.getLogger("other").warning("with a stack", stack_info=True)
        get_logger("meshhook.test").exception("failed", error=error, of=[error])
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert len(lines) == 3
    assert lines[0]["exception"].count(HIDDEN) >= 5
    assert "hunter2" not in stream.getvalue()


def raise_all() -> None:
    """Raise an error that has whatever an error can have."""
    try:
        try:
            dict[str, str]()["password=hunter2"]
        except KeyError as error:
            raise LookupError("password=hunter2") from error
    except LookupError:
        members = [ValueError("password=hunter2"), TypeError("Bearer hunter2hunter2hunter2")]
        raise ExceptionGroup("password=hunter2", members)  # noqa: B904 - the context is looked at


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """What a test sets up ends with it."""
    with logging_as_before():
        yield


@pytest.mark.parametrize("name", ["password", "webhook_secret", "Authorization", "database_url"])
def test_fields_by_their_names(name: str) -> None:
    """Whatever their values look like."""
    assert hidden(name, ["hunter2"]) == HIDDEN


@pytest.mark.parametrize(
    "text",
    [
        "a://b:" * 200_000,
        "a://" * 300_000,
        "a://b: " * 200_000,
        "%3a%2f%2fb%3a" * 100_000,
        "password" * 150_000,
        "password='\\" * 100_000,
        'password=\\"\\\\' * 80_000,
        'password="' + "\\\\" * 600_000,
        "password" + " " * 1_200_000 + "=",
        "a" * 1_200_000,
        "\\" * 1_200_000,
        " " * 1_200_000,
        "://@:" * 200_000,
        "bearer " * 170_000,
        "authorization: basic " * 60_000,
        "cG9zdGdyZX" * 120_000,
        "otlp_" * 240_000,
        "hunter2-hunter" * 80_000,
    ],
    ids=lambda text: text[:16],
)
def test_a_long_text_takes_time_in_proportion(
    text: str, known: KnownSecrets, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pattern that looks at the rest again and again would take hours for one of a megabyte."""
    known.remember("hunter2-hunter2")
    assert len(hidden("text", text)) < MAX_TEXT_CHARACTERS + 100
    monkeypatch.setattr(redaction, "MAX_TEXT_CHARACTERS", 10_000_000)
    hidden("text", text)


def test_half_a_secret_is_not_left_at_the_cut(known: KnownSecrets) -> None:
    """Wherever the cut is, the words at it go as well."""
    known.remember("hunter2-hunter2")
    for shift in range(0, 40, 3):
        half = "x " * (MAX_TEXT_CHARACTERS // 4 - shift)
        for secret in ("postgresql://me:hunter-hunter@host", "hunter2-hunter2"):
            shown = hidden("text", half + secret + half + secret + half)
            assert "hunter" not in shown


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> KnownSecrets:
    """What this process knows, empty at first."""
    found = KnownSecrets()
    monkeypatch.setattr(redaction, "known_secrets", found)
    return found
