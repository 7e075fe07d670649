"""What a delivery writes on the span of its attempt: OpenTelemetry's attributes of HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry import trace

if TYPE_CHECKING:
    from yarl import URL


def note_request(url: URL | None, resend_count: int) -> None:
    """Record where a delivery goes, if the current attempt is traced.

    Path and query are left out: those of many receivers are as good as passwords.

    Args:
        url: the URL; None if it is from an encrypted job, whose payload no trace tells.
        resend_count: how many attempts came before this one.
    """
    span = trace.get_current_span()
    if not span.is_recording():
        return
    span.set_attribute("http.request.method", "POST")
    if url is not None:
        span.set_attribute("url.full", f"{url.origin()}/REDACTED")
        span.set_attribute("url.scheme", url.scheme)
        span.set_attribute("server.address", url.raw_host or "")
        span.set_attribute("server.port", url.port or 0)
    if resend_count:
        span.set_attribute("http.request.resend_count", resend_count)


def note_answer(status: int, body_bytes: int) -> None:
    """Record the status of the answer, and how many bytes of its body were read."""
    span = trace.get_current_span()
    if span.is_recording():
        span.set_attribute("http.response.status_code", status)
        span.set_attribute("http.response.body.size", body_bytes)
