"""Reading Retry-After."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshhook.http.retry_after import retry_after_seconds

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7),
        (" 120 ", 120),
        ("3601", 3600),
        ("9" * 30, 3600),
        ("Mon, 30 Nov 2026 12:01:30 GMT", 90),
        ("Mon, 30 Nov 2026 12:01:30", 90),
        ("Mon, 30 Nov 2026 13:01:30 +0100", 90),
        ("Monday, 30-Nov-26 12:01:30 GMT", 90),
        ("Mon, 30 Nov 2099 12:00:00 GMT", 3600),
        ("0", None),
        ("-5", None),
        ("1.5", None),
        ("1e3", None),
        ("\u0667", None),
        ("", None),
        (None, None),
        ("soon", None),
        ("9" * 400, None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", None),
        ("Wed, 21 Oct 99999999999999999999 07:28:00 GMT", None),
    ],
)
def test_seconds_and_dates_are_read(header: str | None, seconds: float | None) -> None:
    """At most the longest wait; None for what makes no sense, is past, or asks for no wait."""
    assert retry_after_seconds(header, NOW, 3600) == seconds


@given(st.text(max_size=60) | st.from_regex(r"\w{3}, \d+ \w{3} \d+ \d+:\d+:\d+ \S*"))
def test_any_header_is_a_wait_or_none(header: str) -> None:
    """Never negative, and never longer than allowed."""
    seconds = retry_after_seconds(header, NOW, 60)
    assert seconds is None or 0 < seconds <= 60
