"""Traces of commands that enqueue or run jobs, if the environment asks for them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


@contextmanager
def traced(service_name: str) -> Iterator[None]:
    """Export the traces of this process while the block runs, if the environment asks for it.

    It does if OTEL_TRACES_EXPORTER names an exporter (`otlp`, `console`, or another that is
    installed), or if an OTLP endpoint is set, unless OTEL_SDK_DISABLED is true.

    Args:
        service_name: the service's name, unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES
            has one.

    Raises:
        InvalidSettingError: if an exporter is not installed or is misconfigured.
    """
    names = exporter_names(os.environ)
    if not names:
        yield
        return
    with _trace_export().exported_traces(names, service_name):
        yield


def end_traces() -> None:
    """Send the remaining spans, for a process that ends without leaving the block."""
    if exporter_names(os.environ):
        _trace_export().end_traces()


def _trace_export() -> ModuleType:
    from meshhook.observability import trace_export  # noqa: PLC0415 - loading the SDK takes a while

    return trace_export


def exporter_names(environment: Mapping[str, str]) -> list[str]:
    """Return the trace exporters that an environment asks for."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return []
    default = "otlp" if any(environment.get(name) for name in _ENDPOINTS) else "none"
    wanted = environment.get("OTEL_TRACES_EXPORTER", "").strip() or default
    names = [name.strip() for name in wanted.split(",")]
    return [name for name in names if name not in ("", "none")]
