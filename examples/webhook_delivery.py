"""Deliver webhooks: an HTTP POST with a Standard Webhooks signature, as a job handler.

Start a worker with it:

    export WEBHOOK_SECRET=whsec_... MESHHOOK_DATABASE_URL=postgresql://...
    meshhook worker workflow_jobs --handler webhook_delivery:deliver
"""

from __future__ import annotations

import asyncio
import json
import os
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

import aiohttp
from pydantic import BaseModel, HttpUrl
from standardwebhooks.webhooks import Webhook

from meshhook import DeadLetter, Job, RetryAfter, create_job_handler

TIMEOUT_SECONDS = float(os.environ.get("WEBHOOK_TIMEOUT_SECONDS", "10"))
DEFAULT_RETRY_AFTER_SECONDS = 30.0
MAX_RETRY_AFTER_SECONDS = 3600.0


class WebhookDelivery(BaseModel):
    """The payload of a job: one webhook for one receiver."""

    url: HttpUrl
    event: str
    delivery_id: str
    body: dict[str, Any]


class ReceiverError(Exception):
    """The receiver failed in a way that may pass: the job is tried again, with backoff."""


@create_job_handler(payload_model=WebhookDelivery)
async def deliver(job: Job[WebhookDelivery]) -> None:
    """Deliver one webhook. Returning means done; what is raised says how the attempt ended."""
    delivery = job.payload
    # The signature covers these very bytes, so the body is turned into text once.
    body = json.dumps(delivery.body, ensure_ascii=False, separators=(",", ":"))
    sent_at = datetime.now(UTC)
    headers = {
        "content-type": "application/json",
        "x-github-event": delivery.event,
        # The same for every attempt. A queue delivers at least once: a worker may die after the
        # receiver said yes, and by this id the receiver can drop the second delivery.
        "webhook-id": delivery.delivery_id,
        "webhook-timestamp": str(int(sent_at.timestamp())),
        "webhook-signature": _signer.sign(delivery.delivery_id, sent_at, body),
    }
    try:
        # No redirects: a receiver must not be able to point a worker at an internal address.
        async with _http_session().post(
            str(delivery.url), data=body.encode(), headers=headers, allow_redirects=False
        ) as response:
            status, retry_after = response.status, response.headers.get("Retry-After")
    except TimeoutError:
        # aiohttp's other errors (connection refused, no such host) say themselves what happened.
        raise ReceiverError(f"no answer within {TIMEOUT_SECONDS:g} seconds") from None

    if status in range(200, 300):
        return
    answer = f"HTTP {status}"
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        raise RetryAfter(retry_after_seconds(retry_after), answer, error_type=answer)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise ReceiverError(f"the receiver answered {answer}")
    # The receiver does not want this delivery, however often it comes.
    raise DeadLetter(f"the receiver answered {answer}", error_type=answer)


def retry_after_seconds(header: str | None) -> float:
    """Return how long a Retry-After header asks to wait, in seconds or until an HTTP date.

    At most an hour, so that a receiver cannot park a job for years; 30 seconds if unreadable.
    """
    text = (header or "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text), MAX_RETRY_AFTER_SECONDS)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return DEFAULT_RETRY_AFTER_SECONDS
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)  # HTTP dates are in GMT
    seconds = (moment - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS)


def _http_session() -> aiohttp.ClientSession:
    """Return the one session of this process, which keeps connections open between jobs."""
    loop = asyncio.get_running_loop()
    if loop not in _sessions:
        session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS),
            # The worker's concurrency is the limit; a second one here would eat into the time-out.
            connector=aiohttp.TCPConnector(limit=0),
        )
        _sessions[loop] = session, loop.create_task(_close_at_exit(session))
    return _sessions[loop][0]


async def _close_at_exit(session: aiohttp.ClientSession) -> None:
    """Close the session when the worker ends: asyncio then cancels the tasks that are left."""
    try:
        await asyncio.Event().wait()
    finally:
        del _sessions[asyncio.get_running_loop()]
        await session.close()


def _signer_from_environment() -> Webhook:
    try:
        return Webhook(os.environ.get("WEBHOOK_SECRET", ""))
    except Exception:  # noqa: BLE001 - whatever it was, its text must not show the secret
        raise RuntimeError(
            "WEBHOOK_SECRET must be a Standard Webhooks secret: whsec_ and then base64"
        ) from None


_sessions: dict[asyncio.AbstractEventLoop, tuple[aiohttp.ClientSession, asyncio.Task[None]]] = {}
# Read at import: without a secret the worker does not start, which beats failing every job.
_signer = _signer_from_environment()
