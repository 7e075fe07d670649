"""The monitoring port of a process over HTTP: `/metrics`, `/healthz` and `/readyz`."""

from __future__ import annotations

import socket
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Self

from prometheus_client import REGISTRY, CollectorRegistry, make_wsgi_app

from meshhook.arguments import MAX_PORT
from meshhook.errors import InvalidSettingError, PortUnavailableError
from meshhook.escaping import quoted
from meshhook.observability.health import Check, HealthSource, report
from meshhook.observability.http_listener import HttpListener
from meshhook.observability.http_messages import Request, Response, plain
from meshhook.observability.loggers import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_log = get_logger("meshhook.monitoring")

DEFAULT_ADDRESS = "0.0.0.0"  # noqa: S104 - Prometheus and the kubelet come from elsewhere


class MonitoringServer:
    """Serves metrics and health on one port, from threads of its own.

    It answers even while a handler blocks the event loop, and no client delays another: probes are
    answered while metrics are collected, and however many slow clients are connected. `start` and
    `stop` are idempotent.

    - `/metrics`: Prometheus text, or OpenMetrics with exemplars if the scraper accepts it;
      compressed if the scraper accepts that.
    - `/healthz`: 200, or 503 with the loop that has stalled: a restart helps.
    - `/readyz`: 200, or 503 with what is not ready: the database, the migrations, draining.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        address: str = DEFAULT_ADDRESS,
        registry: CollectorRegistry = REGISTRY,
        health: Iterable[HealthSource] = (),
    ) -> None:
        """Take where to listen and what to show.

        Args:
            port: 1 to 65535, or 0 for a free one, which `port` then returns. Default 0.
            address: the address to listen on; `::` means all IPv6 and IPv4 addresses. Default
                0.0.0.0, all IPv4 addresses.
            registry: the metrics. Default: the process's global registry.
            health: objects that report their health, such as workers and exporters. Default: none,
                and both paths answer 200.

        Raises:
            InvalidSettingError: if the port is out of range.
        """
        if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= MAX_PORT:
            raise InvalidSettingError(f"the metrics port is 0 to {MAX_PORT}, got {quoted(port)}")
        self._port = port
        self._address = address
        self._answers = _Answers(registry, health)
        self._listener: HttpListener | None = None
        self._bound_port = port

    @property
    def port(self) -> int:
        """The port that it listens on; before the start, the requested one."""
        return self._port if self._listener is None else self._bound_port

    def start(self) -> None:
        """Begin to listen.

        Raises:
            PortUnavailableError: if the port is taken, or the address is invalid or belongs to
                another machine.
        """
        if self._listener is not None:
            return
        try:
            listening = _bound_socket(self._address, self._port)
        except (OSError, ValueError) as error:
            # A ValueError: no host can have such a name.
            reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
            raise PortUnavailableError(self._address, self._port, reason) from error
        self._bound_port = int(listening.getsockname()[1])
        self._listener = HttpListener(
            listening, quick=self._answers.at_once, slow=self._answers.metrics
        )
        self._listener.start()
        _log.info("metrics and health are served", address=self._address, port=self.port)

    def stop(self) -> None:
        """Stop listening; responses in progress are cut off."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.stop()

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()


def _bound_socket(address: str, port: int) -> socket.socket:
    family, kind, protocol, _, found = socket.getaddrinfo(
        address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    bound = socket.socket(family, kind, protocol)
    try:
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(found)
        bound.listen()  # so that a port that is taken is found out here
    except OSError:
        bound.close()
        raise
    return bound


class _Answers:
    """What each path says."""

    def __init__(self, registry: CollectorRegistry, health: Iterable[HealthSource]) -> None:
        self._metrics: Any = make_wsgi_app(registry)
        self._health = tuple(health)

    def at_once(self, request: Request) -> Response | None:
        """Return the answer, or None for the metrics, which take time."""
        if request.method not in {"GET", "HEAD"}:
            return plain(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD\n", Allow="GET, HEAD")
        if request.path == "/metrics":
            return None
        if request.path == "/healthz":
            return self._told(lambda source: source.liveness())
        if request.path == "/readyz":
            return self._told(lambda source: source.readiness())
        return plain(HTTPStatus.NOT_FOUND, "there are /metrics, /healthz and /readyz\n")

    def metrics(self, request: Request) -> Response:
        """Return the metrics in the format that was asked for."""
        headers: list[tuple[str, str]] = []
        environment = {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": request.path,
            "QUERY_STRING": request.query,
            "HTTP_ACCEPT": request.headers.get("accept", ""),
            "HTTP_ACCEPT_ENCODING": request.headers.get("accept-encoding", ""),
        }
        try:
            body = b"".join(self._metrics(environment, lambda _, found: headers.extend(found)))
        except Exception as error:  # noqa: BLE001 - whatever a collector raises
            _log.error("metrics not collected", exc_info=error)
            return plain(HTTPStatus.INTERNAL_SERVER_ERROR, "the metrics could not be collected\n")
        return Response(HTTPStatus.OK, body, dict(headers))

    def _told(self, checks_of: Callable[[HealthSource], Iterable[Check]]) -> Response:
        try:
            checks = [check for source in self._health for check in checks_of(source)]
        except Exception as error:  # noqa: BLE001 - health that cannot be told is not well
            _log.error("health not told", exc_info=error)
            checks = [Check("health", f"could not be told: {type(error).__name__}")]
        is_well, text = report(checks)
        return plain(HTTPStatus.OK if is_well else HTTPStatus.SERVICE_UNAVAILABLE, text)
