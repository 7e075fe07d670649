"""The handler, against real HTTP servers on the loopback."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from meshhook import App, Job
from meshhook.http import UrlRefusedError, WebhookDelivery
from meshhook.testing import QueueDatabase, make_job, run_job
from support.receivers import SECRET, Receiver, delivery_to, make_handler, running_receiver
from support.waiting import eventually


@pytest.mark.parametrize("status", [200, 202, 204])
async def test_a_2xx_is_done(receiver: Receiver, status: int) -> None:
    """The job has succeeded."""
    receiver.status = status
    assert (await run_job(make_handler(), delivery_to(receiver.url))).outcome == "succeeded"


@pytest.mark.parametrize("status", [429, 503])
async def test_a_receiver_says_when_to_come_back(receiver: Receiver, status: int) -> None:
    """In seconds or as a date, at most as long as is allowed."""
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=900), usegmt=True)
    handler = make_handler(max_retry_after_seconds=1_000)
    delays = []
    for header in ("7", date, "86400"):
        receiver.status, receiver.headers = status, {"Retry-After": header}
        result = await run_job(handler, delivery_to(receiver.url))
        assert (result.outcome, result.error_type) == ("retried", f"HTTP {status}")
        delays.append(result.delay_seconds)
    assert delays == [7, pytest.approx(900, abs=60), 1_000]


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_what_may_pass_is_retried_with_backoff(receiver: Receiver, status: int) -> None:
    """The delay is that of the queue."""
    receiver.status = status
    result = await run_job(make_handler(), delivery_to(receiver.url), attempt=3)
    assert (result.outcome, result.delay_seconds) == ("retried", 4)
    assert result.error_type == "ReceiverError"
    assert f"answered {status} " in (result.error_message or "")


@pytest.mark.parametrize("status", [301, 302, 307, 400, 401, 404, 422])
async def test_anything_else_is_a_dead_letter(receiver: Receiver, status: int) -> None:
    """At once, grouped by the status; a redirect is not followed."""
    receiver.status, receiver.headers = status, {"Location": receiver.url}
    result = await run_job(make_handler(), delivery_to(receiver.url))
    assert (result.outcome, result.error_type) == ("dead_lettered", f"HTTP {status}")
    assert len(receiver.requests) == 1


async def test_an_error_does_not_show_path_and_query(receiver: Receiver) -> None:
    """They are as good as a password for many receivers."""
    receiver.status = 404
    result = await run_job(make_handler(), delivery_to(receiver.url))
    refused = await run_job(make_handler(), delivery_to("http://127.0.0.1:1/hook?token=t0ken"))
    for each in (result, refused):
        assert "http://127.0.0.1:" in (each.error_message or "")
        assert "hook" not in (each.error_message or "")
        assert "t0ken" not in f"{each.error_message} {each.error_stack}"


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_destination_that_is_gone_is_told_of(receiver: Receiver, *, is_async: bool) -> None:
    """The callback gets the job before that becomes a dead letter."""
    receiver.status = 410
    gone: list[str] = []

    def note(job: Job[WebhookDelivery]) -> None:
        gone.append(job.payload.url)

    async def note_slowly(job: Job[WebhookDelivery]) -> None:
        await asyncio.sleep(0)
        note(job)

    handler = make_handler(on_gone=note_slowly if is_async else note)
    result = await run_job(handler, delivery_to(receiver.url))
    assert (result.outcome, result.error_type) == ("dead_lettered", "HTTP 410")
    assert (result.error_message or "").startswith("the destination is gone: ")
    assert gone == [receiver.url]


async def test_a_callback_that_fails_is_called_again(receiver: Receiver) -> None:
    """The attempt fails, and the next one asks the receiver again."""
    receiver.status = 410

    def fail(_: Job[Any]) -> None:
        raise LookupError("no database")

    result = await run_job(make_handler(on_gone=fail), delivery_to(receiver.url))
    assert (result.outcome, result.error_type) == ("retried", "LookupError")


async def test_a_refused_connection_is_retried() -> None:
    """And the error names where to."""
    result = await run_job(make_handler(), delivery_to("http://127.0.0.1:1/"))
    assert (result.outcome, result.error_type) == ("retried", "ReceiverUnreachableError")
    assert "http://127.0.0.1:1 cannot be" in (result.error_message or "")


async def test_a_name_that_is_not_known_is_retried() -> None:
    """It may be known again later."""
    result = await run_job(make_handler(), delivery_to("https://receiver.invalid/"))
    assert (result.outcome, result.error_type) == ("retried", "ReceiverUnreachableError")
    assert "the name of https://receiver.invalid cannot be" in (result.error_message or "")


async def test_a_name_server_that_is_silent_is_a_timeout(receiver: Receiver) -> None:
    """Looking up is a part of connecting."""

    async def silent(host: str, port: int) -> list[str]:
        await asyncio.Event().wait()
        return [host, str(port)]

    handler = make_handler(lookup=silent, connect_timeout_seconds=0.05)
    async with handler:
        result = await run_job(handler, delivery_to("http://receiver.example/"))
    assert (result.outcome, result.error_type) == ("retried", "ReceiverTimeoutError")
    assert "could not be connected to within 0.05 seconds" in (result.error_message or "")


async def test_connections_are_used_again(receiver: Receiver) -> None:
    """By deliveries one after the other, also after errors with a body."""
    receiver.statuses, receiver.body = [500, 404, 200], b"why"
    handler = make_handler()
    for _ in range(5):
        await run_job(handler, delivery_to(receiver.url))
    assert len(set(receiver.peers)) == 1


async def test_no_connection_is_kept_beyond_the_limit(receiver: Receiver) -> None:
    """A connection that may not be kept is closed after its delivery."""
    handler = make_handler(max_idle_connections=0)
    for _ in range(3):
        await run_job(handler, delivery_to(receiver.url))
    assert len(set(receiver.peers)) == 3


async def test_a_destination_gets_no_more_at_once_than_allowed(receiver: Receiver) -> None:
    """The others wait, without spending their time-out."""
    receiver.is_silent = True
    handler = make_handler(max_connections_per_destination=2, total_timeout_seconds=60)
    async with asyncio.TaskGroup() as tasks:
        started = [
            tasks.create_task(handler.deliver(make_job(WebhookDelivery(url=receiver.url, body=n))))
            for n in range(5)
        ]
        await eventually(lambda: len(receiver.requests) == 2)
        started.pop(0).cancel()
        await eventually(lambda: len(receiver.requests) == 3)
        for each in started:
            each.cancel()


async def test_closing_the_handler_closes_its_connections(receiver: Receiver) -> None:
    """The next delivery opens another."""
    handler = make_handler()
    async with handler:
        await run_job(handler, delivery_to(receiver.url))
    await handler.close()
    await run_job(handler, delivery_to(receiver.url))
    assert len(set(receiver.peers)) == 2


def test_an_event_loop_that_ends_closes_the_connections() -> None:
    """Nobody has to close the handler: a warning about what is left open would fail this."""
    handler = make_handler()

    async def deliver() -> None:
        async with running_receiver() as receiver:
            await run_job(handler, delivery_to(receiver.url))

    asyncio.run(deliver())
    asyncio.run(deliver())


async def test_a_307_is_followed_where_that_is_allowed(receiver: Receiver) -> None:
    """With the same body; other redirects would turn the delivery into a GET."""
    handler = make_handler(follow_redirects=2)
    receiver.headers = {"Location": "/elsewhere"}
    receiver.statuses = [307, 308, 200]
    assert (await run_job(handler, delivery_to(receiver.url))).outcome == "succeeded"
    assert [target for _, target in receiver.targets] == [
        "/hook?token=t0ken",
        "/elsewhere",
        "/elsewhere",
    ]
    assert len({body for _, body in receiver.requests}) == 1
    for statuses in ([302], [307, 307, 307]):
        receiver.statuses = [*statuses]
        result = await run_job(handler, delivery_to(receiver.url))
        assert (result.outcome, result.error_type) == ("dead_lettered", f"HTTP {statuses[-1]}")


async def test_headers_of_a_delivery_do_not_go_to_another_destination(receiver: Receiver) -> None:
    """They may be a password; the signature goes along."""
    headers = {"Authorization": "Bearer s3cr3t", "X-Api-Key": "s3cr3t", "Content-Type": "text/x"}
    handler = make_handler(follow_redirects=2)
    async with running_receiver() as other:
        receiver.statuses = [307, 307]
        receiver.headers = {"Location": "/near"}
        other.headers = {}
        await run_job(handler, delivery_to(receiver.url, headers=headers))
        receiver.statuses, receiver.headers = [307], {"Location": other.url}
        result = await run_job(handler, delivery_to(receiver.url, headers=headers))
    assert result.outcome == "succeeded"
    assert all(got["authorization"] == "Bearer s3cr3t" for got, _ in receiver.requests)
    assert len(receiver.requests) == 4
    [(got, _)] = other.requests
    assert "s3cr3t" not in str(got)
    assert got["content-type"] == "text/x"
    assert got["webhook-signature"].startswith("v1,")


async def test_a_delivery_that_waited_is_signed_with_the_moment_it_is_sent(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Receivers refuse one that is some minutes old."""
    moments = [datetime(2026, 11, 30, 12, 0, tzinfo=UTC)]

    class Clock(datetime):
        @classmethod
        def now(cls, _: object = None) -> Any:
            return moments[-1]

    monkeypatch.setattr("meshhook.http.handler.datetime", Clock)
    receiver.is_silent = True
    handler = make_handler(max_connections_per_destination=1)
    jobs = [make_job(WebhookDelivery(url=receiver.url, body=n)) for n in range(2)]
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(handler.deliver(jobs[0]))
        await eventually(lambda: receiver.requests)
        second = tasks.create_task(handler.deliver(jobs[1]))
        await asyncio.sleep(0)  # it waits for the slot of the first
        moments.append(moments[0] + timedelta(minutes=10))
        first.cancel()
        await eventually(lambda: len(receiver.requests) == 2)
        second.cancel()
    sent = [int(headers["webhook-timestamp"]) for headers, _ in receiver.requests]
    assert sent[1] - sent[0] == 600


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://10.0.0.1/",
        "http://[::1]/",
        "http://2130706433/",
        "//127.1/",
        "http://user:pw@127.0.0.1/",
        "file:///etc/passwd",
        "http://127.0.0.1:1000000/",
        "http://private.example/",
    ],
)
async def test_a_redirect_is_checked_like_the_first_url(receiver: Receiver, location: str) -> None:
    """It leads nowhere where a delivery could not go directly."""

    async def lookup(host: str, _: int) -> list[str]:
        return {"private.example": ["10.1.2.3"]}[host]

    receiver.status, receiver.headers = 307, {"Location": location}
    handler = make_handler(follow_redirects=5, lookup=lookup)
    result = await run_job(handler, delivery_to(receiver.url))
    assert result.outcome == "dead_lettered"
    assert result.error_type in ("UrlRefused", "AddressRefused")
    assert len(receiver.requests) == 1


async def test_a_url_may_be_checked_before(receiver: Receiver) -> None:
    """When a customer enters it."""
    handler = make_handler()
    handler.check_url(receiver.url)
    with pytest.raises(UrlRefusedError, match="private"):
        handler.check_url("http://192.168.0.1/")


async def test_a_traced_attempt_has_the_attributes_of_http(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names and values are those of OpenTelemetry; path and query are not among them."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    receiver.status, receiver.body = 503, b"later"
    job = make_job(WebhookDelivery(url=receiver.url, body={}), attempt=3)
    with (
        provider.get_tracer("test").start_as_current_span("process webhooks"),
        pytest.raises(Exception, match="answered 503"),
    ):
        await make_handler().deliver(job)
    [span] = exporter.get_finished_spans()
    assert span.attributes == {
        "http.request.method": "POST",
        "http.request.resend_count": 2,
        "http.response.body.size": 5,
        "http.response.status_code": 503,
        "server.address": "127.0.0.1",
        "server.port": receiver.port,
        "url.full": f"http://127.0.0.1:{receiver.port}/REDACTED",
        "url.scheme": "http",
    }
    assert not trace.get_current_span().is_recording()


async def test_the_trace_of_an_encrypted_job_does_not_say_where_it_goes(
    receiver: Receiver,
) -> None:
    """The destination stands in the payload."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    job = make_job(WebhookDelivery(url=receiver.url, body={}))
    job.is_encrypted = True
    with provider.get_tracer("test").start_as_current_span("process webhooks"):
        await make_handler().deliver(job)
    [span] = exporter.get_finished_spans()
    assert span.attributes == {
        "http.request.method": "POST",
        "http.response.body.size": 0,
        "http.response.status_code": 200,
    }


async def test_a_receiver_that_recovers_gets_its_delivery(
    receiver: Receiver, meshhook_database: QueueDatabase
) -> None:
    """With the same id each time, through the queue."""
    receiver.statuses, receiver.headers = [503, 500, 200], {"Retry-After": "120"}
    await meshhook_database.create_queue("webhooks")
    await meshhook_database.enqueue("webhooks", delivery_to(receiver.url))
    drained = await meshhook_database.drain({"webhooks": make_handler()}, with_retries=True)
    assert drained.counts == {"retried": 2, "succeeded": 1}
    assert [each.error_type for each in drained.attempts] == ["HTTP 503", "ReceiverError", None]
    assert len({headers["webhook-id"] for headers, _ in receiver.requests}) == 1


async def test_an_app_declares_it_like_any_handler(receiver: Receiver, database_url: str) -> None:
    """And enqueues deliveries through it."""
    app = App(database_url)
    webhooks = app.job("webhooks")(make_handler(secret=SECRET))
    async with app.workers():
        await webhooks.enqueue(WebhookDelivery(url=receiver.url, body={"a": 1}))
        await asyncio.wait_for(receiver.arrived.wait(), 60)
    assert receiver.requests[0][1] == b'{"a":1}'
