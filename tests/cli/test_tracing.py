"""Traces of commands, configured by the standard environment variables."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from opentelemetry import trace

from meshhook.cli.tracing import exporter_names
from meshhook.errors import InvalidSettingError
from meshhook.observability.trace_export import exported_traces
from support.otlp import collector
from support.waiting import eventually

OTLP = "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.mark.parametrize(
    ("environment", "names"),
    [
        ({}, []),
        ({OTLP: "http://collector:4318"}, ["otlp"]),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, ["otlp"]),
        ({OTLP: "http://collector:4318", "OTEL_TRACES_EXPORTER": "none"}, []),
        ({OTLP: "http://collector:4318", "OTEL_SDK_DISABLED": "TRUE"}, []),
        ({"OTEL_TRACES_EXPORTER": "otlp, console"}, ["otlp", "console"]),
    ],
    ids=str,
)
def test_which_exporters_are_asked_for(environment: dict[str, str], names: list[str]) -> None:
    """An endpoint or a name enables exporting; by default nothing is exported."""
    assert exporter_names(environment) == names


@pytest.mark.parametrize(
    ("name", "protocol", "message"),
    [
        ("jaeger", "", "trace exporter 'jaeger' is not installed"),
        ("otlp", "grpc", "'otlp_proto_grpc' is not installed.*OTEL_EXPORTER_OTLP_PROTOCOL=http"),
        ("otlp", "http/json", "trace exporter 'http/json' is not installed"),
    ],
)
def test_an_exporter_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, name: str, protocol: str, message: str
) -> None:
    """The message names it and what to install; no provider is set."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    with pytest.raises(InvalidSettingError, match=message), exported_traces([name], "shop"):
        pass
    assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


async def test_a_job_is_traced_through_two_processes(
    database_url: str, queue_name: str, tmp_path: Path
) -> None:
    """`enqueue` sends its span before it ends; the span of `worker` is linked to it."""
    (tmp_path / "handlers.py").write_text("async def done(job):\n    pass\n")
    with collector() as received:
        environment = os.environ | {
            "MESHHOOK_DATABASE_URL": database_url,
            OTLP: received.endpoint,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }
        command = [sys.executable, "-m", "meshhook"]
        await asyncio.to_thread(
            subprocess.run,
            [*command, "enqueue", queue_name, '{"n": 1}'],
            check=True,
            capture_output=True,
            env=environment | {"OTEL_SERVICE_NAME": "shop"},
        )
        (send,) = received.named("send jobs")
        assert send.resource["service.name"] == "shop"
        worker = await asyncio.create_subprocess_exec(
            *(*command, "worker", queue_name, "--handler", "handlers:done"),
            cwd=tmp_path,
            env=environment,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            await eventually(lambda: received.named("process jobs"))
            worker.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(worker.wait(), 60) == 0
        finally:
            if worker.returncode is None:
                worker.kill()
            await worker.wait()
        (process,) = received.named("process jobs")
        assert process.links == [(send.trace_id, send.span_id)]
        assert process.resource["service.name"] == "meshhook-worker"
        assert received.named("settle jobs")


def test_the_console_exporter_writes_to_standard_error(database_url: str, queue_name: str) -> None:
    """Standard output contains only data."""
    done = subprocess.run(
        [sys.executable, "-m", "meshhook", "enqueue", queue_name, "{}", "--json"],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"MESHHOOK_DATABASE_URL": database_url, "OTEL_TRACES_EXPORTER": "console"},
    )
    assert '"name": "send jobs"' in done.stderr
    assert '"send jobs"' not in done.stdout


def test_a_collector_that_does_not_answer_holds_nothing_up(
    database_url: str, queue_name: str
) -> None:
    """The job is stored and the command ends; missing spans are logged."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        done = subprocess.run(
            [sys.executable, "-m", "meshhook", "enqueue", queue_name, "{}"],
            check=True,
            capture_output=True,
            text=True,
            timeout=100,
            env=os.environ
            | {
                "MESHHOOK_DATABASE_URL": database_url,
                OTLP: f"http://127.0.0.1:{silent.getsockname()[1]}",
                "OTEL_EXPORTER_OTLP_TIMEOUT": "3600",
            },
        )
    assert "the last spans were not exported" in done.stderr
