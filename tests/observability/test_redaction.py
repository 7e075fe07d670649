"""What is hidden of what is logged."""

from __future__ import annotations

import pytest

from meshhook.observability.redaction import HIDDEN, MAX_TEXT_CHARACTERS, hidden


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
    ],
)
def test_passwords_in_texts(text: str, shown: str) -> None:
    """In URLs, connection strings and JSON."""
    assert hidden("text", text) == shown


@pytest.mark.parametrize(
    "value",
    [
        b"postgresql://me:hunter2@host/name",
        bytearray(b"password=hunter2"),
        ("postgresql://me:hunter2@host/name",),
        {"nested": [{"api_key": "hunter2"}]},
        {"postgresql://me:hunter2@host/name"},
    ],
)
def test_values_of_any_kind(value: object) -> None:
    """Bytes, tuples, sets and what lies within."""
    assert "hunter2" not in repr(hidden("value", value))


@pytest.mark.parametrize("name", ["password", "webhook_secret", "Authorization", "database_url"])
def test_fields_by_their_names(name: str) -> None:
    """Whatever their values look like."""
    assert hidden(name, ["hunter2"]) == HIDDEN


@pytest.mark.parametrize(
    "text",
    [
        "a://b:" * 200_000,
        "a://" * 300_000,
        "password" * 150_000,
        "a" * 1_200_000,
        "://@:" * 200_000,
    ],
)
def test_a_long_text_is_cut_and_takes_no_time(text: str) -> None:
    """A pattern that looks at the rest again and again would take hours for it."""
    assert len(hidden("text", text)) < 2 * MAX_TEXT_CHARACTERS
