"""The example handler, against a real HTTP server."""

import asyncio
import base64
import importlib
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace

import aiohttp
import pytest
from aiohttp import web
from standardwebhooks.webhooks import Webhook

from meshhook import DeadLetter, RetryAfter

SECRET = "whsec_" + base64.b64encode(b"a secret for tests only!").decode()
BODY = {"action": "opened", "title": "Größe"}


@dataclass
class Server:
    """A receiver that answers as a test says, and keeps what it got."""

    url: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    is_silent: bool = False
    requests: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        """Keep the request, and answer."""
        self.requests.append((dict(request.headers), await request.read()))
        if self.is_silent:
            await asyncio.Event().wait()
        return web.Response(status=self.status, headers=self.headers)


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
    """Runs the handler on one delivery to the server."""

    async def send(url: str | None = None) -> None:
        delivery = example.WebhookDelivery(
            url=url or server.url, event="issues", delivery_id="msg_1", body=BODY
        )
        await example.deliver(SimpleNamespace(payload=delivery))

    return send


async def test_a_delivery_is_signed_and_carries_its_event(server, send):
    """The receiver can verify the signature over the very bytes that it got."""
    await send()

    [(headers, body)] = server.requests
    assert Webhook(SECRET).verify(body, headers) == BODY
    assert headers["x-github-event"] == "issues"
    assert headers["Content-Type"] == "application/json"


async def test_the_id_is_the_same_in_every_attempt(server, send):
    """By it the receiver can drop a second delivery."""
    await send()
    await send()

    assert [headers["webhook-id"] for headers, _ in server.requests] == ["msg_1", "msg_1"]


@pytest.mark.parametrize("status", [200, 202, 204])
async def test_a_2xx_is_done(server, send, status):
    """The handler returns, and so the job is done."""
    server.status = status
    assert await send() is None


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_a_5xx_is_an_ordinary_failure(server, send, example, status):
    """It is no outcome of its own, so the job is retried with backoff."""
    server.status = status
    with pytest.raises(example.ReceiverError, match=f"answered HTTP {status}"):
        await send()


async def test_no_answer_in_time_is_an_ordinary_failure(server, send, example):
    """The message says how long it waited."""
    server.is_silent = True
    with pytest.raises(example.ReceiverError, match=r"no answer within 0\.5 seconds"):
        await send()


async def test_a_refused_connection_is_an_ordinary_failure(send, unused_tcp_port):
    """The error of the HTTP client names the address."""
    with pytest.raises(OSError, match=str(unused_tcp_port)):
        await send(f"http://127.0.0.1:{unused_tcp_port}/hook")


@pytest.mark.parametrize("status", [301, 400, 401, 404, 410, 422])
async def test_any_other_answer_is_permanent(server, send, status):
    """The job becomes a dead letter at once, grouped by the status; redirects are not followed."""
    server.status, server.headers = status, {"Location": server.url + "/elsewhere"}
    with pytest.raises(DeadLetter) as caught:
        await send()
    assert caught.value.error_type == f"HTTP {status}"
    assert len(server.requests) == 1


async def test_a_429_is_retried_when_the_receiver_says(server, send):
    """The delay of the Retry-After header takes the place of the backoff."""
    server.status, server.headers = 429, {"Retry-After": "7"}
    with pytest.raises(RetryAfter) as caught:
        await send()
    assert (caught.value.delay_seconds, caught.value.error_type) == (7, "HTTP 429")


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


def test_a_payload_needs_a_url_of_http(example):
    """The model rejects other addresses before anything is sent."""
    with pytest.raises(ValueError, match="url"):
        example.WebhookDelivery.model_validate_json(
            json.dumps({"url": "file:///etc/passwd", "event": "x", "delivery_id": "1", "body": {}})
        )


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
