"""Exporting traces, configured by OpenTelemetry's standard environment variables.

It loads the SDK, so it is imported only if traces are exported.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING
from urllib.parse import unquote

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
from opentelemetry.trace import NoOpTracerProvider, ProxyTracerProvider

from meshhook.errors import InvalidSettingError
from meshhook.known_secrets import known_secrets
from meshhook.observability.loggers import get_logger

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

_log = get_logger("meshhook.tracing")

END_SECONDS = 5.0

_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_HEADERS = ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS")
_OTLP = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}


@contextmanager
def exported_traces(exporter_names: Sequence[str], service_name: str) -> Iterator[None]:
    """Export the traces of this process while the block runs.

    Sampler, resource, batches and the exporters follow their own OTEL_* variables. A provider that
    is there already, as `opentelemetry-instrument` sets one, is left alone. A process that forks
    does so before, or within: each child exports its own.

    Args:
        exporter_names: `otlp`, `console`, or others that are installed.
        service_name: the service, where the environment names none.

    Raises:
        InvalidSettingError: if an exporter is not installed, or is set up wrongly.
    """
    if not isinstance(trace.get_tracer_provider(), ProxyTracerProvider | NoOpTracerProvider):
        yield
        return
    resource = Resource.create()
    if str(resource.attributes.get("service.name", "")).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": service_name}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    for name in exporter_names:
        provider.add_span_processor(BatchSpanProcessor(_exporter(name)))
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        end_traces()


def end_traces() -> None:
    """Send the remaining spans, within five seconds, and stop tracing.

    It runs in a thread, since neither flushing nor shutting down has a time limit: a collector
    that does not answer would delay the end of the process.
    """
    provider = trace.get_tracer_provider()
    if not isinstance(provider, TracerProvider):
        return
    ending = threading.Thread(target=provider.shutdown, name="meshhook-traces", daemon=True)
    ending.start()
    ending.join(END_SECONDS)
    if ending.is_alive():
        _log.warning("the last spans were not exported: no answer in time", seconds=END_SECONDS)


def _exporter(name: str) -> SpanExporter:
    if name == "console":
        return ConsoleSpanExporter(out=sys.stderr)
    _remember_headers()
    entry_point = _entry_point(name)
    try:
        exporter: SpanExporter = entry_point.load()()
    except Exception as error:
        raise InvalidSettingError(f"OTEL_TRACES_EXPORTER={name}: {error}") from error
    return exporter


def _remember_headers() -> None:
    """Register the values of the collector's headers, which are keys, as secrets."""
    for variable in _HEADERS:
        for header in os.environ.get(variable, "").split(","):
            value = header.partition("=")[2].strip()
            known_secrets.remember(value)
            known_secrets.remember(unquote(value))
            known_secrets.remember(unquote(value).rpartition(" ")[2])


def _entry_point(name: str) -> EntryPoint:
    wanted = name
    if name == "otlp":
        protocol = next((os.environ[each] for each in _PROTOCOLS if os.environ.get(each)), None)
        wanted = _OTLP.get(protocol or "http/protobuf", str(protocol))
    for entry_point in entry_points(group="opentelemetry_traces_exporter", name=wanted):
        return entry_point
    way_out = (
        "install it: pip install 'meshhook-queue[otlp]'"
        if wanted == "otlp_proto_http"
        else "install the package that has it, or use OTEL_TRACES_EXPORTER=otlp with "
        "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf"
    )
    raise InvalidSettingError(f"the trace exporter {wanted!r} is not installed; {way_out}")
