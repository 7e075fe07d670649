"""Traces of jobs as a collector receives them: OTLP over HTTP, by the messaging conventions."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics import exposition as openmetrics

from meshhook import (
    Cancel,
    Database,
    Done,
    FollowUp,
    Job,
    QueueService,
    RetryAfter,
    Snooze,
    create_job_handler,
    create_queue,
    set_queue_config,
)
from meshhook.errors import InvalidJobError, InvalidSettingError
from meshhook.observability.tracing import TracerFinder, sending
from support.hostile import is_safe_line
from support.otlp import Collector, ReceivedSpan, collector
from support.waiting import eventually
from support.workers import make_worker

Pool = asyncpg.Pool
Connection = asyncpg.Connection

pytestmark = pytest.mark.usefixtures("queue_name")


@pytest.fixture
def received() -> Iterator[Collector]:
    """A collector of its own."""
    with collector() as found:
        yield found


@pytest.fixture
def provider(received: Collector) -> Iterator[TracerProvider]:
    """A provider that exports each span at once."""
    provider = TracerProvider(resource=Resource({"service.name": "shop"}))
    exporter = OTLPSpanExporter(f"{received.endpoint}/v1/traces")
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield provider
    provider.shutdown()


async def one(received: Collector, name: str) -> ReceivedSpan:
    """Wait for the only span of a name."""
    await eventually(lambda: received.named(name))
    (span,) = received.named(name)
    return span


async def nothing(_: Job[Any]) -> None:
    """Do nothing."""


async def run_one(
    database_url: str, handler: Any, provider: TracerProvider | None, **options: Any
) -> None:
    """Run a worker until it has recorded an outcome."""
    async with make_worker(database_url, handler, tracer_provider=provider, **options) as worker:
        await eventually(lambda: worker.get_stats().processed >= 1)


async def test_a_job_from_its_producer_to_its_end(
    pool: Pool[Any], database_url: str, received: Collector, provider: TracerProvider
) -> None:
    """`send` is a producer's span; `process` a root linked to it; `settle` is linked to that."""
    queue = QueueService[Any](pool, "jobs", tracer_provider=provider)
    msg_id = await queue.enqueue({"n": 1})
    await run_one(database_url, nothing, provider, name="worker-1")
    send = await one(received, "send jobs")
    process = await one(received, "process jobs")
    settle = await one(received, "settle jobs")
    common = {"messaging.system": "pgmq", "messaging.destination.name": "jobs"}
    assert send.kind == "PRODUCER"
    assert send.attributes == common | {
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.message.id": str(msg_id),
    }
    assert process.kind == "CONSUMER"
    assert process.parent_span_id == ""
    assert process.trace_id != send.trace_id
    assert process.links == [(send.trace_id, send.span_id)]
    assert process.attributes == common | {
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.message.id": str(msg_id),
        "messaging.client.id": "worker-1",
        "meshhook.attempt": 1,
        "meshhook.outcome": "succeeded",
    }
    assert settle.kind == "CLIENT"
    assert settle.parent_span_id == ""
    assert settle.links == [(process.trace_id, process.span_id)]
    assert settle.attributes["messaging.batch.message_count"] == 1
    assert not any(span.is_error for span in received.spans)
    assert {span.resource["service.name"] for span in received.spans} == {"shop"}


async def test_a_batch_of_jobs_is_one_span(
    pool: Pool[Any], database_url: str, received: Collector, provider: TracerProvider
) -> None:
    """It is linked to the producer of each job, and has failed if one of its jobs has."""
    queue = QueueService[Any](pool, "jobs", tracer_provider=provider)
    for number in range(2):
        await queue.enqueue({"n": number})

    @create_job_handler(batch=10)
    async def handle(_: list[Job[Any]]) -> list[Any]:
        return [None, ValueError("broken")]

    async with make_worker(
        database_url, handle, tracer_provider=provider, producer_trace="parent", name="worker-1"
    ) as worker:
        await eventually(lambda: worker.get_stats().processed == 2)
    process = await one(received, "process jobs")
    sends = received.named("send jobs")
    assert process.kind == "CONSUMER"
    assert process.parent_span_id == ""
    assert sorted(process.links) == sorted((send.trace_id, send.span_id) for send in sends)
    assert process.attributes == {
        "messaging.system": "pgmq",
        "messaging.destination.name": "jobs",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.client.id": "worker-1",
        "messaging.batch.message_count": 2,
        "meshhook.outcome": "mixed",
        "error.type": "ValueError",
    }
    assert process.is_error


async def test_the_trace_goes_on_where_that_is_asked_for(
    pool: Pool[Any], database_url: str, received: Collector, provider: TracerProvider
) -> None:
    """With `parent`, the attempt is a child of the send, and has no link."""
    await QueueService[Any](pool, "jobs", tracer_provider=provider).enqueue({})
    await run_one(database_url, nothing, provider, producer_trace="parent")
    send = await one(received, "send jobs")
    process = await one(received, "process jobs")
    assert (process.trace_id, process.parent_span_id) == (send.trace_id, send.span_id)
    assert process.links == []


async def test_the_context_travels_in_a_header(
    pool: Pool[Any], received: Collector, provider: TracerProvider
) -> None:
    """A message carries a W3C traceparent, beside the headers of its producer."""
    queue = QueueService[Any](pool, "jobs", tracer_provider=provider)
    await queue.enqueue({}, headers={"tenant": "acme"})
    send = await one(received, "send jobs")
    headers = json.loads(await pool.fetchval("select headers from pgmq.q_jobs"))
    assert headers.pop("traceparent").startswith(f"00-{send.trace_id}-{send.span_id}-0")
    assert headers == {"tenant": "acme"}


async def test_what_follows_is_in_the_trace_of_its_attempt(
    pool: Pool[Any], database_url: str, received: Collector, provider: TracerProvider
) -> None:
    """Unless it names one itself; also if the handler completes its job."""
    await create_queue(pool, "next")
    own = f"00-{'a' * 32}-{'b' * 16}-01"

    async def handler(job: Job[Any]) -> object:
        if job.payload == "completes":
            async with pool.acquire() as connection, connection.transaction():
                await job.complete(connection=connection, then=FollowUp("next"))
            return None
        return Done(then=[FollowUp("next"), FollowUp("next", headers={"traceparent": own})])

    queue = QueueService[Any](pool, "jobs", tracer_provider=provider)
    for payload in ("returns", "completes"):
        await queue.enqueue(payload)
    async with make_worker(
        database_url, handler, tracer_provider=provider, concurrency=1
    ) as worker:
        await eventually(lambda: worker.get_stats().processed == 2)
    await eventually(lambda: len(received.named("process jobs")) == 2)
    rows = await pool.fetch("select headers ->> 'traceparent' as parent from pgmq.q_next")
    parents = [row["parent"] for row in rows]
    assert parents.count(own) == 1
    spans = [f"00-{span.trace_id}-{span.span_id}" for span in received.named("process jobs")]
    assert sorted(each[:-3] for each in parents if each != own) == sorted(spans)


async def test_without_spans_the_trace_of_the_producer_goes_on(
    pool: Pool[Any], database_url: str
) -> None:
    """A worker without a provider hands it to what follows, and a group to its callback."""
    await create_queue(pool, "next")
    headers = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "tracestate": "a=1", "tenant": "x"}
    trace_headers = {name: headers[name] for name in ("traceparent", "tracestate")}

    async def handler(_: Job[Any]) -> object:
        return Done(then=FollowUp("next", headers={"own": 1}))

    queue = QueueService[Any](pool, "jobs")
    await queue.enqueue_many([{}], headers=headers, on_complete=FollowUp("next"))
    await run_one(database_url, handler, None)
    found = [
        json.loads(row["headers"]) for row in await pool.fetch("select headers from pgmq.q_next")
    ]
    for each in found:
        each.pop("meshhook-finished-group", None)
    assert sorted(found, key=len) == [trace_headers, trace_headers | {"own": 1}]


async def test_a_trace_that_the_producer_names_is_kept(
    pool: Pool[Any], database_url: str, received: Collector, provider: TracerProvider
) -> None:
    """A traceparent among the headers given is what the attempt is linked to."""
    queue = QueueService[Any](pool, "jobs", tracer_provider=provider)
    await queue.enqueue({}, headers={"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"})
    await run_one(database_url, nothing, provider)
    process = await one(received, "process jobs")
    assert process.links == [("a" * 32, "b" * 16)]


@pytest.mark.parametrize("traceparent", [5, None, {}, "nonsense", f"00-{'0' * 32}-{'0' * 16}-01"])
async def test_a_header_that_is_no_trace_links_to_nothing(
    pool: Pool[Any],
    database_url: str,
    received: Collector,
    provider: TracerProvider,
    traceparent: object,
) -> None:
    """Whatever another client wrote under that name, the job runs."""
    await QueueService[Any](pool, "jobs").enqueue({}, headers={"traceparent": traceparent})
    await run_one(database_url, nothing, provider)
    assert (await one(received, "process jobs")).links == []


async def test_a_batch_is_one_send(
    pool: Pool[Any], database_url: str, received: Collector, provider: TracerProvider
) -> None:
    """Its span says how many messages it has, and each attempt is linked to it."""
    await QueueService[Any](pool, "jobs", tracer_provider=provider).enqueue_many([{}] * 3)
    async with make_worker(database_url, nothing, tracer_provider=provider) as worker:
        await eventually(lambda: worker.get_stats().processed == 3)
    send = await one(received, "send jobs")
    assert send.attributes["messaging.batch.message_count"] == 3
    await eventually(lambda: len(received.named("process jobs")) == 3)
    for process in received.named("process jobs"):
        assert process.links == [(send.trace_id, send.span_id)]


async def test_what_a_handler_traces_is_below_the_attempt(
    pool: Pool[Any], database_url: str, received: Collector, provider: TracerProvider
) -> None:
    """Spans and sends of a handler, also after it has waited, are children of its attempt."""
    queue = QueueService[Any](pool, "jobs", tracer_provider=provider)

    async def handler(job: Job[Any]) -> None:
        await asyncio.sleep(0)
        if job.payload == 1:
            with provider.get_tracer("shop").start_as_current_span("charge"):
                await queue.enqueue({"payload": 2})

    await queue.enqueue({"payload": 1})
    async with make_worker(database_url, handler, tracer_provider=provider) as worker:
        await eventually(lambda: worker.get_stats().processed == 2)
    charge = await one(received, "charge")
    first = next(
        span
        for span in received.named("process jobs")
        if span.attributes["messaging.message.id"] == "1"
    )
    assert (charge.trace_id, charge.parent_span_id) == (first.trace_id, first.span_id)
    sends = {span.parent_span_id: span for span in received.named("send jobs")}
    assert sends[charge.span_id].trace_id == first.trace_id


async def test_a_plain_function_is_traced_in_its_thread(
    pool: Pool[Any], database_url: str, received: Collector, provider: TracerProvider
) -> None:
    """The span of the attempt is current there, too."""
    seen: list[int] = []

    def handler(_: Job[Any]) -> None:
        seen.append(trace.get_current_span().get_span_context().span_id)

    await QueueService[Any](pool, "jobs").enqueue({})
    await run_one(database_url, handler, provider)
    process = await one(received, "process jobs")
    assert process.span_id == trace.format_span_id(seen[0])


async def test_a_span_ends_with_its_attempt(
    pool: Pool[Any], database_url: str, received: Collector, provider: TracerProvider
) -> None:
    """Attempts that follow each other in one slot are no children of one another."""
    await QueueService[Any](pool, "jobs").enqueue_many([{}] * 3)
    with provider.get_tracer("shop").start_as_current_span("start of the program"):
        worker = make_worker(database_url, nothing, tracer_provider=provider, concurrency=1)
        await worker.start()
    await eventually(lambda: worker.get_stats().processed == 3)
    await worker.stop()
    await eventually(lambda: len(received.named("process jobs")) == 3)
    for span in received.named("process jobs") + received.named("settle jobs"):
        assert span.parent_span_id == ""


@pytest.mark.parametrize(
    ("ended", "expected"),
    [
        (ZeroDivisionError("no parts"), ("retried", "ZeroDivisionError", "no parts")),
        (RetryAfter(60, "busy", error_type="Busy"), ("retried", "Busy", "busy")),
        (Snooze(60), ("snoozed", None, "")),
        (Cancel("gone"), ("cancelled", None, "")),
    ],
    ids=["exception", "retry", "snooze", "cancel"],
)
async def test_how_an_attempt_ended(  # noqa: PLR0917 - fixtures and parameters
    pool: Pool[Any],
    database_url: str,
    received: Collector,
    provider: TracerProvider,
    ended: Exception,
    expected: tuple[str, str | None, str],
) -> None:
    """Only a failure is an error and has an error.type; a handler's exception is recorded."""

    async def handler(_: Job[Any]) -> None:
        raise ended

    await QueueService[Any](pool, "jobs").enqueue({})
    await run_one(database_url, handler, provider)
    process = await one(received, "process jobs")
    error_type = process.attributes.get("error.type")
    assert (process.attributes["meshhook.outcome"], error_type, process.status_message) == expected
    assert process.is_error == (error_type is not None)
    assert process.events == (["exception"] if isinstance(ended, ZeroDivisionError) else [])


async def test_a_job_that_never_ran_is_traced(
    pool: Pool[Any], database_url: str, received: Collector, provider: TracerProvider
) -> None:
    """A payload that the model rejects is an error of the attempt."""
    await set_queue_config(Database(pool), "jobs", dlq_enabled=False)
    await QueueService[Any](pool, "jobs").enqueue({"payload": "text"})
    await run_one(database_url, create_job_handler(nothing, payload_model=int), provider)
    process = await one(received, "process jobs")
    assert process.attributes["error.type"] == "InvalidPayload"
    assert process.attributes["meshhook.outcome"] == "archived"


async def test_a_job_that_is_given_back_is_traced(
    pool: Pool[Any], database_url: str, received: Collector, provider: TracerProvider
) -> None:
    """At a shutdown that does not wait, the attempt ends as released, and is no error."""
    runs = asyncio.Event()

    async def handler(_: Job[Any]) -> None:
        runs.set()
        await asyncio.Event().wait()

    await QueueService[Any](pool, "jobs").enqueue({})
    async with make_worker(database_url, handler, tracer_provider=provider, grace_seconds=0.1):
        await asyncio.wait_for(runs.wait(), 60)
    process = await one(received, "process jobs")
    assert process.attributes["meshhook.outcome"] == "released"
    assert not process.is_error


async def test_completing_in_a_transaction_is_a_settle_below_the_attempt(
    pool: Pool[Any], database_url: str, received: Collector, provider: TracerProvider
) -> None:
    """`job.complete()` settles within the attempt."""

    async def handler(job: Job[Any]) -> None:
        async with pool.acquire() as connection, connection.transaction():
            await job.complete(connection=connection)

    await QueueService[Any](pool, "jobs").enqueue({})
    await run_one(database_url, handler, provider)
    process = await one(received, "process jobs")
    await eventually(lambda: len(received.named("settle jobs")) == 2)
    parents = {span.parent_span_id for span in received.named("settle jobs")}
    assert parents == {process.span_id, ""}


async def test_a_send_that_fails_is_an_error(
    pool: Pool[Any], received: Collector, provider: TracerProvider
) -> None:
    """A job that is refused gives its span the type of the error, and no message id."""
    queue = QueueService[Any](pool, "jobs", tracer_provider=provider)
    with pytest.raises(InvalidJobError):
        await queue.enqueue({"n": float("nan")})
    with pytest.raises(InvalidJobError, match="headers are a mapping"):
        await queue.enqueue({}, headers=[])  # type: ignore[call-overload]
    await eventually(lambda: len(received.named("send jobs")) == 2)
    for send in received.named("send jobs"):
        assert send.is_error
        assert send.attributes["error.type"] == "InvalidJobError"
        assert "messaging.message.id" not in send.attributes


async def test_settling_by_hand_is_traced(
    pool: Pool[Any], received: Collector, provider: TracerProvider
) -> None:
    """A job that was claimed without a worker and acknowledged has its settle span."""
    queue = QueueService[Any](pool, "jobs", tracer_provider=provider)
    await queue.enqueue({})
    job = await queue.dequeue()
    assert job is not None
    await queue.acknowledge(job)
    assert (await one(received, "settle jobs")).kind == "CLIENT"


async def test_histograms_have_exemplars(
    pool: Pool[Any], database_url: str, received: Collector, provider: TracerProvider
) -> None:
    """Duration, wait and age of an attempt lead to its trace."""
    registry = CollectorRegistry()
    await QueueService[Any](pool, "jobs").enqueue({})
    await run_one(database_url, nothing, provider, registry=registry)
    process = await one(received, "process jobs")
    labels = f'# {{span_id="{process.span_id}",trace_id="{process.trace_id}"}}'
    lines = [
        line.split("_bucket")[0]
        for line in openmetrics.generate_latest(registry).decode().split("\n")
        if labels in line
    ]
    assert sorted(lines) == [
        "meshhook_worker_message_age_seconds",
        "meshhook_worker_message_duration_seconds",
        "meshhook_worker_message_wait_seconds",
    ]


async def test_a_trace_that_is_not_sampled_is_no_exemplar(
    pool: Pool[Any], database_url: str
) -> None:
    """What no collector has is not pointed to."""
    registry = CollectorRegistry()
    provider = TracerProvider(sampler=ALWAYS_OFF)
    await QueueService[Any](pool, "jobs", tracer_provider=provider).enqueue({})
    await run_one(database_url, nothing, provider, registry=registry)
    assert " # {" not in openmetrics.generate_latest(registry).decode()


async def test_without_a_provider_there_are_no_spans(
    pool: Pool[Any], connection: Connection[Any], database_url: str
) -> None:
    """No tracer is found, no header is written, and a handler sees no span."""
    seen: list[bool] = []

    async def handler(_: Job[Any]) -> None:
        seen.append(trace.get_current_span() is trace.INVALID_SPAN)

    assert TracerFinder().find() is None
    assert TracerFinder(trace.NoOpTracerProvider()).find() is None
    await QueueService[Any](pool, "jobs").enqueue({})
    assert await connection.fetchval("select headers from pgmq.q_jobs") is None
    worker = make_worker(database_url, handler)
    async with worker:
        await eventually(lambda: worker.get_stats().processed == 1)
        assert worker._parts is not None
        assert worker._parts.lanes[0].executor.attempts.tracer is None
    assert seen == [True]


def test_a_global_provider_that_comes_later_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A producer that was made before the provider was set uses it soon after."""
    monkeypatch.setattr("meshhook.observability.tracing.tracer_finder.LOOK_AGAIN_SECONDS", 0.0)
    finder = TracerFinder()
    assert finder.find() is None
    monkeypatch.setattr(trace, "get_tracer_provider", TracerProvider)
    assert finder.find() is not None


async def test_a_processor_of_spans_that_fails_harms_no_job(
    pool: Pool[Any], database_url: str
) -> None:
    """Jobs run and are settled whatever the tracing does."""

    class Broken(SpanProcessor):
        def on_start(self, *_: Any, **__: Any) -> None:
            raise ZeroDivisionError

    provider = TracerProvider()
    provider.add_span_processor(Broken())
    ran: list[int] = []

    async def handler(job: Job[Any]) -> None:
        ran.append(job.msg_id)

    await QueueService[Any](pool, "jobs").enqueue({})
    async with make_worker(database_url, handler, tracer_provider=provider) as worker:
        await eventually(lambda: ran)
        # The span of the settle fails as well; what it is about is recorded all the same.
        await eventually(lambda: worker.get_stats().succeeded == 1)


async def test_an_error_that_cannot_be_shown_harms_no_job(
    pool: Pool[Any], database_url: str, received: Collector, provider: TracerProvider
) -> None:
    """The attempt is settled and its span ends, whatever the exception's own text does."""

    class UnspeakableError(Exception):
        def __str__(self) -> str:
            raise ZeroDivisionError

    async def handler(_: Job[Any]) -> None:
        raise UnspeakableError

    await QueueService[Any](pool, "jobs").enqueue({})
    await run_one(database_url, handler, provider)
    process = await one(received, "process jobs")
    assert process.attributes["error.type"].endswith("UnspeakableError")


async def test_odd_texts_of_an_error_are_exported_as_escapes(
    pool: Pool[Any], database_url: str, received: Collector, provider: TracerProvider
) -> None:
    """Lone surrogates and controls cost no attribute, and no program that shows them obeys them."""
    odd = "\ud800\x1b[2J\0\u202e\r"
    shown = r"\ud800\x1b[2J\x00\u202e\r"
    odd_error = type("OddError", (Exception,), {"__module__": f"shop{odd}"})

    async def handler(_: Job[Any]) -> None:
        raise odd_error(f"no {odd} parts\nleft")

    await QueueService[Any](pool, "jobs").enqueue({})
    await run_one(database_url, handler, provider)
    (exception,) = (await one(received, "process jobs")).exceptions
    assert exception["exception.type"] == f"shop{shown}.OddError"
    assert exception["exception.message"] == f"no {shown} parts\nleft"
    stack = exception["exception.stacktrace"]
    assert stack.endswith(f"no {shown} parts\nleft\n")
    assert "raise odd_error" in stack


async def test_an_odd_status_costs_no_batch(
    pool: Pool[Any], database_url: str, received: Collector, provider: TracerProvider
) -> None:
    """Type and message of a failure that the handler names are exported, whatever they hold."""

    async def handler(_: Job[Any]) -> None:
        raise RetryAfter(60, "busy \ud800\x1b[2J", error_type="Busy\udfff")

    await QueueService[Any](pool, "jobs").enqueue({})
    await run_one(database_url, handler, provider)
    process = await one(received, "process jobs")
    assert process.is_error
    assert is_safe_line(process.attributes["error.type"])
    assert is_safe_line(process.status_message)


async def test_a_send_whose_error_is_odd_is_exported(
    received: Collector, provider: TracerProvider
) -> None:
    """A span that ends in an exception of such a name is no exception to that."""
    odd_error = type("OddError", (Exception,), {"__qualname__": "Odd\ud800Error"})

    with pytest.raises(odd_error), sending(provider.get_tracer("shop"), "jobs", None):
        raise odd_error
    send = await one(received, "send jobs")
    assert send.attributes["error.type"] == r"Odd\ud800Error"


def _send_in_a_child(url: str, provider: TracerProvider) -> None:
    async def send() -> None:
        connection = await asyncpg.connect(url)
        await QueueService[Any](connection, "jobs", tracer_provider=provider).enqueue({})
        await connection.close()

    asyncio.run(send())
    provider.force_flush()


async def test_traces_work_across_a_fork(
    pool: Pool[Any], database_url: str, received: Collector
) -> None:
    """A provider that was there before the fork exports the spans of parent and children."""
    provider = TracerProvider()
    provider.add_span_processor(
        BatchSpanProcessor(OTLPSpanExporter(f"{received.endpoint}/v1/traces"))
    )
    context = multiprocessing.get_context("fork")
    children = [
        context.Process(target=_send_in_a_child, args=(database_url, provider)) for _ in range(2)
    ]
    for child in children:
        child.start()
    await QueueService[Any](pool, "jobs", tracer_provider=provider).enqueue({})
    for child in children:
        await asyncio.to_thread(child.join)
    assert [child.exitcode for child in children] == [0, 0]
    await asyncio.to_thread(provider.force_flush)
    await eventually(lambda: len(received.named("send jobs")) == 3)
    assert len({span.trace_id for span in received.named("send jobs")}) == 3
    provider.shutdown()


def test_a_wrong_way_of_belonging_together() -> None:
    """The error gives the values and the one received."""
    with pytest.raises(InvalidSettingError, match="producer_trace is link or parent, got 'child'"):
        make_worker("postgresql://localhost/x", nothing, producer_trace="child")


def test_the_process_has_no_provider() -> None:
    """No test leaves a global provider behind: the others would be traced."""
    assert os.environ.get("OTEL_TRACES_EXPORTER") is None
    assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
