"""What an answer means."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from meshhook import DeadLetter, RetryAfter
from meshhook.http import ReceiverError
from meshhook.http.answers import Answer, failure
from support.hostile import is_safe_line

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
WHERE = "https://example.com"


def judged(answer: Answer) -> Exception | None:
    """Return what is raised for an answer."""
    return failure(answer, WHERE, now=NOW, max_retry_after_seconds=3600)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_a_2xx_is_done(status: int) -> None:
    """Whatever its body says."""
    assert judged(Answer(status, body=b"error")) is None


@pytest.mark.parametrize("status", [429, 503])
def test_a_wait_that_is_asked_for_is_kept(status: int) -> None:
    """With the status as the error type, and for all deliveries of the same key."""
    found = judged(Answer(status, retry_after="7"))
    assert isinstance(found, RetryAfter)
    assert (found.delay_seconds, found.error_type) == (7, f"HTTP {status}")
    assert found.hold_key


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599, 999])
def test_what_may_pass_is_an_ordinary_failure(status: int) -> None:
    """So the queue's backoff applies."""
    found = judged(Answer(status))
    assert isinstance(found, ReceiverError)
    assert found.status == status
    assert str(found).startswith(f"{WHERE} answered {status}")


@pytest.mark.parametrize("status", [100, 101, 300, 304, 400, 401, 403, 404, 409, 413, 422, 451])
def test_anything_else_is_permanent(status: int) -> None:
    """Grouped by the status."""
    found = judged(Answer(status, retry_after="7"))
    assert isinstance(found, DeadLetter)
    assert found.error_type == f"HTTP {status}"
    assert not found.hold_key


def test_a_410_says_that_the_destination_is_gone() -> None:
    """As permanent as the others; and its key waits until somebody resumes it."""
    found = judged(Answer(410))
    assert isinstance(found, DeadLetter)
    assert found.hold_key
    assert str(found) == f"the destination is gone: {WHERE} answered 410 Gone"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_names_the_way_out(status: int) -> None:
    """It is not followed by default."""
    assert "follow_redirects" in str(judged(Answer(status, location="https://other/")))


def test_the_body_is_shown_short_and_harmless() -> None:
    """On one line, with control characters escaped, and what is no UTF-8 replaced."""
    body = b"no\n\n  such\x1b]0;x\x07 thing \xff" + "\u202e".encode() + b"y" * 5_000
    text = str(judged(Answer(404, body=body, is_cut=True)))
    assert text.startswith(rf"{WHERE} answered 404 Not Found: no such\x1b]0;x\x07 thing ")
    assert len(text) < 400
    assert is_safe_line(text)


def test_a_body_that_went_on_is_marked() -> None:
    """So nobody takes the beginning for all of it."""
    assert str(judged(Answer(404, body=b"no", is_cut=True))).endswith("404 Not Found: no…")
    assert str(judged(Answer(404, body=b"no"))).endswith("404 Not Found: no")
