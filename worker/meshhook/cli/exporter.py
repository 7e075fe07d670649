"""`meshhook exporter`: the metrics of all queues, for Prometheus."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Annotated

import typer

from meshhook.cli.connecting import Target, target
from meshhook.cli.failures import DatabaseNotOpenedError
from meshhook.cli.monitoring import (
    DEFAULT_METRICS_ADDRESS,
    MetricsAddressOption,
    MetricsPortOption,
    monitored,
)
from meshhook.cli.options import command_app, example
from meshhook.exporter import QueueExporter
from meshhook.observability.loggers import get_logger
from meshhook.postgres.database import Database
from meshhook.worker.signal_handlers import stop_signals

DEFAULT_PORT = 9464


app = command_app()


@app.command(
    "exporter",
    epilog=example("meshhook exporter --metrics-port 9464"),
)
def exporter(
    context: typer.Context,
    *,
    metrics_port: MetricsPortOption = DEFAULT_PORT,
    metrics_address: MetricsAddressOption = DEFAULT_METRICS_ADDRESS,
    interval_seconds: Annotated[
        float, typer.Option(help="How often to read the queues, 0.1 to 3600.")
    ] = 10,
    count_limit: Annotated[
        int,
        typer.Option(
            help="The highest count of a queue and group of states; counting stops there."
        ),
    ] = 10_000,
    statement_timeout_seconds: Annotated[
        float, typer.Option(help="How long reading them may take, 0.1 to 60.")
    ] = 2,
) -> None:
    """Export the metrics of all queues of the database until SIGTERM or SIGINT (Ctrl-C).

    Run one per database, unless the operator runs, which exports the same. It needs no worker, and
    waits for a database that it cannot reach.
    """
    make = partial(
        QueueExporter,
        interval_seconds=interval_seconds,
        count_limit=count_limit,
        statement_timeout_seconds=statement_timeout_seconds,
    )
    with target(context) as found:
        asyncio.run(_export(found, make, metrics_port, metrics_address))


async def _export(
    found: Target, make: Callable[[Database], QueueExporter], port: int | None, address: str
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in stop_signals():
        loop.add_signal_handler(number, stop.set)
    try:
        await found.check()
    except DatabaseNotOpenedError as error:
        get_logger("meshhook.exporter").warning("waiting for the database", error=str(error))
    database = await Database.connect(found.url, min_size=0, max_size=1, pooled=found.pooled)
    try:
        exporter = make(database)
        with monitored(port, address, exporter):
            async with exporter:
                await stop.wait()
    finally:
        await database.close()
