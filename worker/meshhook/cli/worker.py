"""`meshhook worker`: run jobs in one process, or in several."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any

import typer

from meshhook.cli.applications import Application, application_target
from meshhook.cli.connecting import Target, log_to_stderr, target
from meshhook.cli.encryption_keys import key_ring
from meshhook.cli.failures import ExitCode, UsageError
from meshhook.cli.handler_loader import load_application
from meshhook.cli.monitoring import (
    DEFAULT_METRICS_ADDRESS,
    MetricsAddressOption,
    MetricsPortOption,
    monitored,
    port_of_process,
)
from meshhook.cli.options import ProgramOptions, command_app, example, program_options
from meshhook.cli.tracing import end_traces, traced
from meshhook.cli.worker_queues import (
    batch_options,
    check_sources,
    queue_handlers,
    queue_weights,
    queues_of,
)
from meshhook.environment import load_settings
from meshhook.worker import Worker
from meshhook.worker.process import LoopThreads, end_process, leave_program_alone
from meshhook.worker.signal_handlers import stop_signals
from meshhook.worker.supervisor import Supervisor
from meshhook.worker.supervisor_link import SupervisorLink

_new_event_loop: Callable[[], asyncio.AbstractEventLoop]
try:
    from uvloop import new_event_loop as _new_event_loop
except ImportError:  # there is no uvloop for Windows
    from asyncio import new_event_loop as _new_event_loop

MAX_PROCESSES = 256
MAX_EMBEDDED_PROCESSES = 30
"""How many may share the embedded server: each has three of its 100 connections."""
DEFAULT_CONCURRENCY = 50


app = command_app()


@app.command(
    "worker",
    epilog=example(
        "meshhook worker workflow_jobs --handler webhook_delivery:deliver --concurrency 100",
        "meshhook worker orders:3 mails --handler shop.jobs:handle --processes 4",
        "meshhook worker clicks --handler shop.clicks:store --batch 100",
        "meshhook worker --app shop.jobs:app",
    ),
)
def worker(
    context: typer.Context,
    queue: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="QUEUE[:WEIGHT]",
            help=(
                "The queues, each with its share of the slots while all have work: 1 to 1000. "
                "Default: all queues of the app with the app's weights; without an app "
                "workflow_jobs, and 1."
            ),
        ),
    ] = None,
    *,
    queues: Annotated[
        list[str] | None,
        typer.Option("--queue", metavar="NAME[:WEIGHT]", help="Another queue. May be repeated."),
    ] = None,
    application: Annotated[
        str | None,
        typer.Option(
            "--app",
            metavar="MODULE:APP",
            help=(
                "The meshhook.App whose handlers run the jobs; the current directory is searched "
                "first."
            ),
        ),
    ] = None,
    handlers: Annotated[
        list[str] | None,
        typer.Option(
            "--handler",
            metavar="[QUEUE=]MODULE:FUNCTION",
            help=(
                "Without an app: the function that runs a job, of all queues or of one; the "
                "current directory is searched first. May be repeated."
            ),
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            help=(
                "Without an app: the most jobs that the function takes at once, as a list, 1 to "
                "1000. Default: one, not in a list."
            )
        ),
    ] = None,
    batch_wait_seconds: Annotated[
        float | None,
        typer.Option(
            help="With --batch: how long a batch waits for more jobs, 0 to 60. Default: 0."
        ),
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(
            help=(
                "How many jobs, or batches, a process runs at once, 1 to 10000. Default: the "
                "app's own; without an app 50."
            )
        ),
    ] = None,
    grace_seconds: Annotated[
        float,
        typer.Option(help="How long running jobs may take to finish after a stop, 0 to 3600."),
    ] = 25,
    processes: Annotated[
        int,
        typer.Option(min=1, max=MAX_PROCESSES, help="How many worker processes to run, 1 to 256."),
    ] = 1,
    name: Annotated[
        str | None,
        typer.Option(
            help=(
                "The worker's name in the history, with a number appended if there are several "
                "processes. Default: host, process and a random part."
            )
        ),
    ] = None,
    metrics_port: MetricsPortOption = None,
    metrics_address: MetricsAddressOption = DEFAULT_METRICS_ADDRESS,
    stall_seconds: Annotated[
        float,
        typer.Option(
            envvar="MESHHOOK_STALL_SECONDS",
            help="How long the event loop may be blocked before /healthz fails, 10 to 86400.",
        ),
    ] = 60,
    max_message_bytes: Annotated[
        int | None,
        typer.Option(
            envvar="MESHHOOK_MAX_MESSAGE_BYTES",
            help=(
                "The largest message to run, in bytes of JSON, 1024 to 268435456; a larger one "
                "becomes a dead letter. Default: 16 MiB, or twice the queue's max_payload_bytes "
                "if that is more."
            ),
        ),
    ] = None,
    producer_trace: Annotated[
        str,
        typer.Option(
            metavar="link|parent",
            envvar="MESHHOOK_PRODUCER_TRACE",
            help="How a job's trace relates to its producer's: linked to it, or part of it.",
        ),
    ] = "link",
) -> None:
    """Run the jobs of queues until SIGTERM, SIGINT (Ctrl-C) or SIGHUP.

    It then stops claiming, lets running jobs finish within the grace period, releases the others
    (ready at once, with the attempt not counted), and exits with 0. A second Ctrl-C stops it at
    once.

    With --processes it starts that many worker processes, forwards signals to them, and restarts
    those that crash. Each has --concurrency slots, three connections and, with --metrics-port, a
    port of its own: the given one and those after it. With --embedded there can be up to 30.

    It logs to standard error: MESHHOOK_LOG_FORMAT is json, console or auto, and
    MESHHOOK_LOG_LEVEL debug, info, warning or error.

    It exports traces if OTEL_TRACES_EXPORTER or OTEL_EXPORTER_OTLP_ENDPOINT is set, as configured
    by the standard OTEL_* variables. OTLP needs an extra: pip install 'meshhook-queue[otlp]'.
    """
    app = program_options(context).application
    if app is None:
        check_sources(application, handlers or [])
    batches = batch_options(batch, batch_wait_seconds, has_app=bool(app or application))
    given = queue_weights([*(queue or []), *(queues or [])])
    process_index = load_settings().process_index
    if processes > 1 and process_index is None:
        raise typer.Exit(_supervise(program_options(context), processes))
    if app is None and application is not None:
        app = load_application(application)
    with application_target(context, app) if app else target(context, runs_handlers=True) as found:
        weights = queues_of(app, given)
        make = app.worker if app else partial(_worker, found, handlers or [])
        library_worker = make(
            weights,
            concurrency=concurrency,
            grace_seconds=grace_seconds,
            name=name if name is None or process_index is None else f"{name}-{process_index}",
            stall_seconds=stall_seconds,
            producer_trace=producer_trace,
            max_message_bytes=max_message_bytes,
            **batches,
        )
        port = port_of_process(metrics_port, process_index or 0)
        with (
            traced("meshhook-worker"),
            monitored(port, metrics_address, library_worker),
            asyncio.Runner(loop_factory=_new_event_loop) as runner,
        ):
            link = SupervisorLink.from_environment()
            threads = runner.run(_work(found, library_worker, link, app, list(weights)))
            if library_worker.has_stuck_jobs or threads.are_busy:
                # They ignore being cancelled, and closing the loop would wait for them.
                end_traces()
                end_process(0)


def _worker(
    found: Target,
    handlers: Sequence[str],
    weights: Mapping[str, int],
    *,
    concurrency: int | None,
    **options: Any,
) -> Worker:
    """Return a worker with the handlers that the command was given."""
    return Worker(
        found.url,
        weights,
        queue_handlers(list(weights), handlers),
        concurrency=DEFAULT_CONCURRENCY if concurrency is None else concurrency,
        pooled=found.pooled,
        listen_url=found.listen_url,
        encryption=key_ring(),
        **options,
    )


def _supervise(options: ProgramOptions, processes: int) -> int:
    """Run this same command in several processes, and return the exit code."""
    if options.embedded and processes > MAX_EMBEDDED_PROCESSES:
        raise UsageError(
            f"--processes {processes}: the embedded PostgreSQL has connections for at most "
            f"{MAX_EMBEDDED_PROCESSES} worker processes; for more, use a server of your own: "
            "export MESHHOOK_DATABASE_URL=..."
        )
    log_to_stderr(load_settings())
    command = [sys.executable, "-m", "meshhook", *options.arguments]

    async def supervise() -> int:
        return await Supervisor(command, processes=processes).run()

    return asyncio.run(supervise())


async def _work(
    found: Target,
    worker: Worker,
    supervisor: SupervisorLink,
    app: Application | None,
    queues: Sequence[str],
) -> LoopThreads:
    stopping = asyncio.Event()

    def request_stop() -> None:
        stopping.set()
        worker.request_stop()

    def stop(number: int) -> None:
        if stopping.is_set() and number == signal.SIGINT:
            sys.stderr.write("stopped at once; running jobs return when their leases expire\n")
            end_process(ExitCode.INTERRUPTED)
        if number == signal.SIGINT and sys.stderr.isatty():
            sys.stderr.write("stopping; press Ctrl-C again to stop at once\n")
        request_stop()

    threads = LoopThreads.install()
    loop = asyncio.get_running_loop()
    for number in stop_signals():
        loop.add_signal_handler(number, stop, number)
    supervisor.watch(request_stop)
    try:
        await found.check()
        if app is not None:
            await app.prepare(queues)
            await app.close()  # until a handler enqueues, the worker's own connections are enough
        if not stopping.is_set():
            leave_program_alone()
            await worker.start()
            supervisor.say_ready()
            await worker.run(handle_signals=False)
    finally:
        if app is not None:
            await app.close()
        supervisor.close()
    return threads
