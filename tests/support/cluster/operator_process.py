"""The operator as a process of its own, with the rights of a service account and no others."""

from __future__ import annotations

import contextlib
import re
import secrets
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

from meshhook.embedded.postmaster import free_port
from support.cluster.api import Api, Object
from support.cluster.components import Component
from support.cluster.control_plane import ControlPlane
from support.cluster.objects import OWN_LEASE, grant, operator_rules, own_lease_rules

READY_SECONDS = 100
ACCOUNT = "operator"
_HTTP_SECONDS = 30


class OperatorProcess:
    """`python -m meshhook_operator`, which can be killed and started again.

    Attributes:
        log: the file with what it logs.
    """

    def __init__(
        self, *, kubeconfig: Path, directory: Path, namespace: str | None, **variables: str
    ) -> None:
        """Describe it; nothing runs yet.

        Args:
            kubeconfig: who it is, and where the API server is.
            directory: for its log.
            namespace: the one that it serves; None means all.
            variables: more of its environment.
        """
        self._port = free_port()
        self._environment = {
            "KUBECONFIG": str(kubeconfig),
            "MESHHOOK_METRICS_PORT": str(self._port),
            "MESHHOOK_METRICS_ADDRESS": "127.0.0.1",
            "MESHHOOK_OPERATOR_NAMESPACES": namespace or "",
            # As that of a pod, it stays the same when the container starts again.
            "MESHHOOK_OPERATOR_IDENTITY": f"operator-{secrets.token_hex(4)}",
            **variables,
        }
        self.log = directory / f"operator-{secrets.token_hex(4)}.log"
        self._component = Component(
            "the operator",
            [sys.executable, "-m", "meshhook_operator"],
            log=self.log,
            directory=directory,
        )

    @property
    def running(self) -> bool:
        """Whether the process runs."""
        return self._component.running

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._component.pid

    @property
    def exit_status(self) -> int | None:
        """The status with which it ended last; negative: the signal that ended it."""
        return self._component.exit_status

    def launch(self) -> None:
        """Start it, and wait for nothing: it may be one that can't become ready."""
        self._component.start(self._environment)

    async def start(self) -> None:
        """Start it, and wait until it says that it is ready; a proxy of the test may go on."""
        self._component.start(self._environment)
        await self._component.until(self._is_ready, seconds=READY_SECONDS)

    def stop(self) -> None:
        """Ask it to end, as Kubernetes does, and wait until it has."""
        self._component.stop(seconds=90)

    def kill(self) -> None:
        """Kill it, as a lost node would."""
        self._component.kill()

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._component.send_signal(number)

    def metrics(self) -> str:
        """Return its metrics, as Prometheus would read them."""
        return self.page("/metrics")

    def metric(self, name: str, **labels: str) -> float | None:
        """Return a value from its metrics, or None if there is no such series."""
        return metric_value(self.metrics(), name, **labels)

    def page(self, path: str) -> str:
        """Return what it serves at a path, as whoever reaches its port may read it."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{self._port}{path}", timeout=_HTTP_SECONDS) as response:
            text: str = response.read().decode()
            return text

    def _is_ready(self) -> bool:
        with contextlib.suppress(urllib.error.URLError, OSError):
            self.page("/readyz")
            return True
        return False


StartOperator: TypeAlias = Callable[..., Awaitable[OperatorProcess]]
"""Starts an operator: `start(url, **variables)`."""


def metric_value(text: str, name: str, **labels: str) -> float | None:
    """Return a value from metrics in Prometheus' text format, or None if there is no such series.

    Args:
        text: the metrics.
        name: of the metric.
        labels: those that the series must have; it may have others.
    """
    for line in text.splitlines():
        match = re.fullmatch(rf"{name}(?:{{(.*)}})? (\S+)", line)
        if match is None:
            continue
        found = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', match[1] or ""))
        if labels.items() <= found.items():
            return float(match[2])
    return None


async def operator_kubeconfig(
    api: Api,
    control_plane: ControlPlane,
    directory: Path,
    *,
    account: str = ACCOUNT,
    lease: str = OWN_LEASE,
    rules: list[Object] | None = None,
    cluster_wide: bool = False,
    url: str | None = None,
) -> Path:
    """Make the operator's service account and its rights, and return a kubeconfig for it.

    Args:
        api: an administrator, and the namespace of the account.
        control_plane: where.
        directory: for the file.
        account: what the service account is called.
        lease: the name of the operator's own Lease.
        rules: what it may do; by default what is installed.
        cluster_wide: whether it may do so in all namespaces.
        url: the address of a proxy before the API server.
    """
    granted = operator_rules() if rules is None else rules
    await grant(api, account, granted + own_lease_rules(lease), cluster_wide=cluster_wide)
    return control_plane.write_kubeconfig(
        directory / f"{api.namespace}-{account}.kubeconfig",
        token=await api.token_of(account),
        namespace=api.namespace,
        url=url,
    )
