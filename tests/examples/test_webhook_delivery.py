"""The example handler, against a real HTTP server."""

import asyncio
import base64
import importlib
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from standardwebhooks.webhooks import Webhook

from meshhook.testing import AttemptResult, run_job

SECRET = "whsec_" + base64.b64encode(b"a secret for tests only!").decode()
BODY = {"action": "opened", "title": "Größe"}


def delivery_to(url: str) -> dict[str, Any]:
    """Return the payload of a delivery."""
    return {"url": url, "event": "issues", "delivery_id": "msg_1", "body": BODY}


@dataclass
class Server:
    """A receiver that answers as a test says, and keeps what it got."""

    url: str = ""
    status: int = 200
    statuses: list[int] = field(default_factory=list)
    """The first answers; after them comes `status`."""
    headers: dict[str, str] = field(default_factory=dict)
    is_silent: bool = False
    requests: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        """Keep the request, and answer."""
        self.requests.append((dict(request.headers), await request.read()))
        if self.is_silent:
            await asyncio.Event().wait()
        status = self.statuses.pop(0) if self.statuses else self.status
        return web.Response(status=status, headers=self.headers)


@pytest.fixture
async def server():
    """A running receiver."""
    server = Server()
    app = web.Application()
    app.router.add_post("/hook", server.answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    yield server
    await runner.cleanup()


@pytest.fixture
def example(monkeypatch):
    """The example's module, imported with a secret and a short time-out."""
    monkeypatch.setenv("WEBHOOK_SECRET", SECRET)
    monkeypatch.setenv("WEBHOOK_TIMEOUT_SECONDS", "0.5")
    return importlib.import_module("meshhook.demo.webhook_delivery")


@pytest.fixture
def send(example, server):
    """Runs the handler on one delivery to the server, and returns the result."""

    async def send(url: str | None = None, **options: Any) -> AttemptResult:
        return await run_job(
            example.deliver,
            delivery_to(url or server.url),
            **options,
        )

    return send


async def test_a_delivery_is_signed_and_carries_its_event(server, send):
    """The receiver can verify the signature over the very bytes that it got."""
    await send()

    [(headers, body)] = server.requests
    assert Webhook(SECRET).verify(body, headers) == BODY
    assert headers["x-github-event"] == "issues"
    assert headers["Content-Type"] == "application/json"


async def test_the_id_is_the_same_in_every_attempt(server, send):
    """Every attempt has the same id, by which a receiver can drop a second delivery."""
    await send()
    await send(attempt=2)

    assert [headers["webhook-id"] for headers, _ in server.requests] == ["msg_1", "msg_1"]


@pytest.mark.parametrize("status", [200, 202, 204])
async def test_a_2xx_is_done(server, send, status):
    """A 2xx answer means that the job is done."""
    server.status = status
    assert (await send()).outcome == "succeeded"


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_a_5xx_is_an_ordinary_failure(server, send, example, status):
    """A server error is retried with the queue's backoff."""
    server.status = status
    result = await send(attempt=3)
    assert (result.outcome, result.delay_seconds) == ("retried", 4)
    assert result.error_type == "ReceiverError"
    assert f"answered HTTP {status}" in result.error_message


async def test_no_answer_in_time_is_an_ordinary_failure(server, send, example):
    """A receiver that does not answer in time is retried, and the message says how long it took."""
    server.is_silent = True
    result = await send()
    assert (result.outcome, result.error_type) == ("retried", "ReceiverError")
    assert result.error_message == "no answer within 0.5 seconds"


async def test_a_refused_connection_is_an_ordinary_failure(send, unused_tcp_port):
    """A refused connection is retried, and the error names the address."""
    result = await send(f"http://127.0.0.1:{unused_tcp_port}/hook")
    assert (result.outcome, result.error_type) == ("retried", "ClientConnectorError")
    assert str(unused_tcp_port) in result.error_message


@pytest.mark.parametrize("status", [301, 400, 401, 404, 410, 422])
async def test_any_other_answer_is_permanent(server, send, status):
    """The job becomes a dead letter at once, grouped by the status; redirects are not followed."""
    server.status, server.headers = status, {"Location": server.url + "/elsewhere"}
    result = await send()
    assert (result.outcome, result.error_type) == ("dead_lettered", f"HTTP {status}")
    assert len(server.requests) == 1


async def test_a_429_is_retried_when_the_receiver_says(server, send):
    """The delay of the Retry-After header takes the place of the backoff."""
    server.status, server.headers = 429, {"Retry-After": "7"}
    result = await send()
    assert (result.outcome, result.delay_seconds) == ("retried", 7)
    assert result.error_type == "HTTP 429"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        ("999999999", 3600),
        ("9" * 400, 3600),
        (None, 30),
        ("", 30),
        ("soon", 30),
        ("-5", 30),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("Wed, 21 Oct 2015 07:28:00 -0000", 0),
        ("Wed, 21 Oct 99999999999999999999 07:28:00 GMT", 30),
    ],
)
def test_retry_after_is_read_with_care(example, header, seconds):
    """Never negative, never more than an hour, and 30 seconds where it makes no sense."""
    assert example.retry_after_seconds(header) == seconds


def test_retry_after_may_be_a_date(example):
    """The delay is the time until then."""
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    assert example.retry_after_seconds(date) == pytest.approx(90, abs=2)


@pytest.mark.parametrize("secret", ["", "whsec_", "not base64!"])
def test_a_missing_or_malformed_secret_stops_the_worker(example, monkeypatch, secret):
    """The message names the variable, and does not show the secret."""
    monkeypatch.setenv("WEBHOOK_SECRET", secret)
    with pytest.raises(RuntimeError, match="WEBHOOK_SECRET must be") as caught:
        example._signer_from_environment()
    assert caught.value.__suppress_context__
    assert "not base64" not in str(caught.value)


async def test_a_payload_needs_a_url_of_http(server, send):
    """The model rejects other addresses before anything is sent."""
    result = await send("file:///etc/passwd")
    assert (result.outcome, result.error_type) == ("dead_lettered", "InvalidPayload")
    assert "url: " in result.error_message
    assert server.requests == []


async def test_a_receiver_that_recovers_gets_its_delivery(example, server, meshhook_database):
    """A delivery that fails at first is retried until the receiver accepts it."""
    server.statuses = [503, 429, 200]
    server.headers = {"Retry-After": "120"}
    await meshhook_database.create_queue("webhooks")
    await meshhook_database.enqueue("webhooks", delivery_to(server.url))

    drained = await meshhook_database.drain({"webhooks": example.deliver}, with_retries=True)

    assert drained.counts == {"retried": 2, "succeeded": 1}
    assert [each.error_type for each in drained.attempts] == ["ReceiverError", "HTTP 429", None]
    await meshhook_database.refute_enqueued("webhooks")


async def test_a_receiver_that_is_gone_for_good_leaves_a_dead_letter(
    example, server, meshhook_database
):
    """A delivery that keeps failing becomes a dead letter, and a replay delivers it."""
    server.statuses = [503, 503, 200]
    await meshhook_database.create_queue("webhooks", max_retry_attempts=2)
    await meshhook_database.enqueue("webhooks", delivery_to(server.url), run_id="run-1")
    await meshhook_database.drain({"webhooks": example.deliver}, with_retries=True)
    await meshhook_database.assert_dead_lettered(
        "webhooks", {"delivery_id": "msg_1"}, run_id="run-1", error_type="ReceiverError", attempts=2
    )

    await meshhook_database.replay("webhooks")

    drained = await meshhook_database.drain({"webhooks": example.deliver})
    assert drained.counts == {"succeeded": 1}
    await meshhook_database.assert_dead_lettered("webhooks", count=0)


async def test_deliveries_share_one_session(example, server, send):
    """Connections stay open between jobs."""
    await send()
    first = example._http_session()
    await send()
    assert example._http_session() is first


def test_the_session_is_closed_with_the_event_loop(example):
    """A worker that ends leaves no open connection behind."""

    async def use() -> aiohttp.ClientSession:
        session: aiohttp.ClientSession = example._http_session()
        return session

    session = asyncio.run(use())
    assert session.closed
