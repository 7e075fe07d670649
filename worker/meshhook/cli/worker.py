"""`meshhook worker`: one process's part in draining a queue."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from meshhook.cli.monitoring import (
    DEFAULT_METRICS_ADDRESS,
    MetricsAddressOption,
    MetricsPortOption,
    monitored,
)
from meshhook.cli.options import QueueArgument, example
from meshhook.cli.tracing import flush_traces, traced

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshhook.cli.connecting import Target
    from meshhook.worker import Worker


def add_to(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command(
        "worker",
        short_help="Work on the jobs of a queue until SIGTERM or Ctrl-C.",
        epilog=example(
            "meshhook worker workflow_jobs --handler webhook_delivery:deliver --concurrency 100"
        ),
    )(worker)


def worker(
    context: typer.Context,
    queue: QueueArgument,
    *,
    handler: Annotated[
        str,
        typer.Option(
            metavar="MODULE:FUNCTION",
            help="The function that does a job; the current directory is searched first.",
        ),
    ],
    concurrency: Annotated[int, typer.Option(help="How many jobs run at once, 1 to 10000.")] = 50,
    grace_seconds: Annotated[
        float,
        typer.Option(help="How long jobs that run may take to finish at the end, 0 to 3600."),
    ] = 25,
    name: Annotated[
        str | None,
        typer.Option(help="Its name in the history. Default: host, process and a random part."),
    ] = None,
    metrics_port: MetricsPortOption = None,
    metrics_address: MetricsAddressOption = DEFAULT_METRICS_ADDRESS,
    stall_seconds: Annotated[
        float,
        typer.Option(
            envvar="MESHHOOK_STALL_SECONDS",
            help="How long its event loop may stand still until /healthz fails, 10 to 86400.",
        ),
    ] = 60,
    producer_trace: Annotated[
        str,
        typer.Option(
            metavar="link|parent",
            envvar="MESHHOOK_PRODUCER_TRACE",
            help="How a job's trace belongs to that of its producer; see OTEL_* below.",
        ),
    ] = "link",
) -> None:
    """Work on the jobs of a queue until SIGTERM or SIGINT (Ctrl-C).

    It then claims nothing more, lets jobs finish within the grace period, gives back what is left,
    ready at once and with its attempt unspent, and exits with 0. A second Ctrl-C ends it at once.

    It logs to standard error: MESHHOOK_LOG_FORMAT is json, console or auto, and
    MESHHOOK_LOG_LEVEL debug, info, warning or error.

    It exports traces if OTEL_TRACES_EXPORTER or OTEL_EXPORTER_OTLP_ENDPOINT is set, as the standard
    OTEL_* variables say; OTLP needs the extra otlp: pip install 'meshhook-queue[otlp]'.
    """
    from meshhook.cli.connecting import target
    from meshhook.cli.handler_loader import load_handler
    from meshhook.names import validate_queue_name
    from meshhook.worker import Worker

    queue_name = validate_queue_name(queue)
    with target(context) as found:
        library_worker = Worker(
            found.url,
            queue_name,
            load_handler(handler),
            concurrency=concurrency,
            grace_seconds=grace_seconds,
            pooled=found.pooled,
            name=name,
            stall_seconds=stall_seconds,
            producer_trace=producer_trace,
        )
        with (
            traced("meshhook-worker"),
            monitored(metrics_port, metrics_address, library_worker),
            asyncio.Runner(loop_factory=_loop_factory()) as runner,
        ):
            runner.run(_work(found, library_worker))
            if library_worker.has_stuck_jobs:
                # They take no notice of being cancelled, and the loop's end would wait for them.
                flush_traces()
                _exit_at_once(0)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # there is none for Windows
        return None
    return uvloop.new_event_loop


async def _work(found: Target, worker: Worker) -> None:
    stopping = asyncio.Event()

    def stop(number: int) -> None:
        if stopping.is_set() and number == signal.SIGINT:
            sys.stderr.write("stopped at once; jobs that ran come back when their leases end\n")
            _exit_at_once(130)
        if number == signal.SIGINT and sys.stderr.isatty():
            sys.stderr.write("stopping; Ctrl-C again stops at once\n")
        stopping.set()
        worker.request_stop()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    async with found.open():
        pass  # checked: it is there, and migrated
    if not stopping.is_set():
        await worker.run(handle_signals=False)


def _exit_at_once(code: int) -> NoReturn:
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
