"""`meshhook-operator`, or `python -m meshhook_operator`: the operator as a process."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from typing import TYPE_CHECKING

import kopf
from lightkube import ConfigError
from prometheus_client import REGISTRY, start_http_server

from meshhook.errors import InvalidSettingError, MeshHookError
from meshhook.observability.loggers import get_logger
from meshhook.observability.logs import configure_logging
from meshhook_operator.cluster import Cluster
from meshhook_operator.handlers import configure, make_registry
from meshhook_operator.metrics import OperatorMetrics
from meshhook_operator.operator import Operator
from meshhook_operator.settings import load_operator_settings

if TYPE_CHECKING:
    from meshhook_operator.settings import OperatorSettings

_log = get_logger("meshhook_operator")

STALLED_SECONDS = 60.0


def main() -> None:
    """Run the operator until SIGTERM or SIGINT."""
    # kopf asks for the name of the user, and a container may run as one that has none.
    os.environ.setdefault("USER", "meshhook-operator")
    try:
        settings = load_operator_settings()
        configure_logging(settings.log_format, settings.log_level)
        asyncio.run(run(settings))
    except (InvalidSettingError, ConfigError) as error:
        sys.exit(f"meshhook-operator: {error}")
    except MeshHookError as error:
        _log.error("stopped", error=str(error))
        sys.exit(1)


async def run(settings: OperatorSettings) -> None:
    """Run the operator until kopf ends: at a signal, or when something essential has failed.

    Raises:
        lightkube.ConfigError: if there is no way to a cluster.
        ClusterError: if JobQueues cannot be listed.
    """
    cluster = Cluster.connect()
    operator = Operator(cluster=cluster, metrics=OperatorMetrics(REGISTRY))
    namespaces = settings.namespace_list
    try:
        for namespace in namespaces or [None]:
            await cluster.check_jobqueues(namespace)
        if settings.metrics_port:
            start_http_server(settings.metrics_port)
        await _run_both(operator, settings, namespaces)
    finally:
        await cluster.close()


async def _run_both(operator: Operator, settings: OperatorSettings, namespaces: list[str]) -> None:
    def is_healthy() -> None:
        silent_seconds = time.time() - operator.last_turn_at
        if silent_seconds > STALLED_SECONDS:
            raise RuntimeError(f"the loop has not turned for {silent_seconds:.0f} seconds")

    kopf_settings = kopf.OperatorSettings()
    configure(kopf_settings)
    health = f"http://0.0.0.0:{settings.health_port}/healthz" if settings.health_port else None
    async with asyncio.TaskGroup() as tasks:
        work = tasks.create_task(operator.run(), name="operator")
        await kopf.operator(
            registry=make_registry(operator, is_healthy),
            settings=kopf_settings,
            standalone=True,
            clusterwide=not namespaces,
            namespaces=namespaces,
            liveness_endpoint=health,
        )
        work.cancel()


if __name__ == "__main__":
    main()
