"""`meshhook-operator`, or `python -m meshhook_operator`: the operator as a process."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING

import kopf
from lightkube import ConfigError
from prometheus_client import REGISTRY, disable_created_metrics

from meshhook.errors import InvalidSettingError, MeshHookError
from meshhook.observability.loggers import get_logger
from meshhook.observability.logs import configure_logging
from meshhook.observability.monitoring_server import MonitoringServer
from meshhook_operator.cluster.client import ALL_NAMESPACES, Cluster
from meshhook_operator.cluster.leases import Leases
from meshhook_operator.handlers import configure, make_registry
from meshhook_operator.leadership.leadership import Leadership
from meshhook_operator.metrics import OperatorMetrics
from meshhook_operator.operator import Operator
from meshhook_operator.settings import describe_operator_settings, load_operator_settings

if TYPE_CHECKING:
    from meshhook_operator.settings import OperatorSettings

_log = get_logger("meshhook_operator")


def main() -> None:
    """Run the operator until SIGTERM or SIGINT; its only argument is `--help`."""
    argparse.ArgumentParser(
        prog="meshhook-operator",
        description="Run the queues and workers of JobQueues until SIGTERM or SIGINT.",
        epilog=f"Settings are environment variables:\n{describe_operator_settings()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    # kopf asks for the user's name, which a container's user may not have.
    os.environ.setdefault("USER", "meshhook-operator")
    try:
        settings = load_operator_settings()
        configure_logging(settings.log_format, settings.log_level)
        if settings.log_level != "debug":
            # A line for each request to the API server and for each event would be too much.
            for chatty in ("httpx2", "kopf.objects"):
                logging.getLogger(chatty).setLevel(logging.WARNING)
        disable_created_metrics()  # type: ignore[no-untyped-call]
        asyncio.run(run(settings))
    except InvalidSettingError as error:
        sys.exit(f"meshhook-operator: {error}")
    except ConfigError as error:
        sys.exit(
            f"meshhook-operator: no cluster is configured ({error}); run it in a pod with a "
            "service account, or set KUBECONFIG"
        )
    except MeshHookError as error:
        _log.error("stopped", error=str(error))
        sys.exit(1)


async def run(settings: OperatorSettings) -> None:
    """Run the operator until a signal, or until something essential has failed.

    Raises:
        lightkube.ConfigError: if no cluster is configured.
        ClusterError: if what is watched cannot be listed, or the Lease cannot be read.
        PortUnavailableError: if the port for metrics and health is not available.
    """
    leases = Leases.connect()
    metrics = OperatorMetrics(REGISTRY)
    lease = settings.lease_in(leases.own_namespace)
    leadership = Leadership(leases=leases, key=lease, identity=settings.identity, metrics=metrics)
    cluster = Cluster.connect(seconds_left=leadership.seconds_left)
    namespaces = settings.namespaces or [ALL_NAMESPACES]
    operator = Operator(
        cluster=cluster,
        registry=REGISTRY,
        namespaces=namespaces,
        leadership=leadership,
        metrics=metrics,
        hosts=settings.database_hosts,
    )
    server = MonitoringServer(
        settings.metrics_port, address=settings.metrics_address, health=[operator]
    )
    try:
        for namespace in namespaces:
            await cluster.check_rights(namespace)
        await leases.read(lease)
        with server:
            await _run_both(operator, settings)
    finally:
        await leases.close()
        await cluster.close()


async def _run_both(operator: Operator, own_settings: OperatorSettings) -> None:
    """Run the operator and kopf, which watches for it, until a signal."""
    settings = kopf.OperatorSettings()
    configure(settings, watch_silence_seconds=own_settings.watch_silence_seconds)
    namespaces = own_settings.namespaces
    is_watching, is_asked_to_end, has_ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def report_when_watching() -> None:
        await is_watching.wait()
        operator.on_watches_started()

    async with asyncio.TaskGroup() as tasks:
        own = tasks.create_task(operator.run(), name="operator")
        readiness = tasks.create_task(report_when_watching(), name="readiness")

        async def end_in_order() -> None:
            await is_asked_to_end.wait()
            # First, so that another process can lead at once. Besides, kopf takes every task that
            # was started after it for its own, and waits five seconds for those that do not end.
            own.cancel()
            await asyncio.wait([own])
            has_ended.set()

        ending = tasks.create_task(end_in_order(), name="end")
        watching = await kopf.spawn_tasks(
            registry=make_registry(operator),
            settings=settings,
            standalone=True,
            clusterwide=not namespaces,
            namespaces=namespaces,
            ready_flag=is_watching,
            stop_flag=has_ended,
        )
        for number in (signal.SIGINT, signal.SIGTERM):  # in place of kopf's handlers
            asyncio.get_running_loop().add_signal_handler(number, is_asked_to_end.set)
        await kopf.run_tasks(watching, ignored=frozenset({own, readiness, ending, _this_task()}))
        for task in (own, readiness, ending):
            task.cancel()


def _this_task() -> asyncio.Task[None]:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - called by a coroutine
    return task


if __name__ == "__main__":
    main()
