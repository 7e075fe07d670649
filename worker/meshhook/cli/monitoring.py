"""The port for metrics and health, of commands that run until they are stopped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from prometheus_client import disable_created_metrics

from meshhook.arguments import MAX_PORT
from meshhook.errors import InvalidSettingError
from meshhook.observability.health import HealthSource
from meshhook.observability.monitoring_server import MonitoringServer

MetricsPortOption = Annotated[
    int | None,
    typer.Option(
        metavar="PORT",
        envvar="MESHHOOK_METRICS_PORT",
        min=0,
        max=MAX_PORT,
        help="Serve /metrics, /healthz and /readyz on this port; 0 picks a free one and logs it.",
    ),
]
MetricsAddressOption = Annotated[
    str,
    typer.Option(
        metavar="ADDRESS",
        envvar="MESHHOOK_METRICS_ADDRESS",
        help="The address to serve metrics on; :: is all of IPv6 and IPv4.",
    ),
]
DEFAULT_METRICS_ADDRESS = "0.0.0.0"  # noqa: S104 - Prometheus and the kubelet connect from other machines


def port_of_process(port: int | None, process_index: int) -> int | None:
    """Return the port of one of several processes, counted up from the given one.

    None (no port) and 0 (any free port) apply to all of them.

    Raises:
        InvalidSettingError: if there is no such port.
    """
    if not port:
        return port
    if port + process_index > MAX_PORT:
        raise InvalidSettingError(
            f"--metrics-port {port}: process {process_index} would have port "
            f"{port + process_index}, and {MAX_PORT} is the last one"
        )
    return port + process_index


@contextmanager
def monitored(port: int | None, address: str, health: HealthSource) -> Iterator[None]:
    """Serve the process's metrics and health while the block runs, if a port is given.

    Raises:
        PortUnavailableError: if the port is taken, or the address is not of this machine.
    """
    if port is None:
        yield
        return

    # They would double the number of series, and no rule or panel reads them.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    with MonitoringServer(port, address=address, health=[health]):
        yield
