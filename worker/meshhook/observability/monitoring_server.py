"""The HTTP port that a process is watched through: `/metrics`, `/healthz` and `/readyz`."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from io import BytesIO
from socketserver import TCPServer
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from prometheus_client import REGISTRY, CollectorRegistry, MetricsHandler

from meshhook.errors import InvalidSettingError, PortUnavailableError
from meshhook.limits import MAX_PORT
from meshhook.observability.health import Check, HealthSource, report
from meshhook.observability.loggers import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_log = get_logger("meshhook.monitoring")

DEFAULT_ADDRESS = "0.0.0.0"  # noqa: S104 - Prometheus and the kubelet come from elsewhere
MAX_CONNECTIONS = 32
CLIENT_SECONDS = 10.0
"""How long a client may take in all; then its connection is cut."""


class MonitoringServer:
    """Serves metrics and health on one port, from threads of its own.

    It answers while a handler blocks the event loop, and no client holds up another. `start` and
    `stop` are idempotent.

    - `/metrics`: as Prometheus text, or as OpenMetrics with exemplars where the scraper takes
      it; compressed where it takes that.
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
            port: 1 to 65535, or 0 for a free one, which `port` then tells. Default 0.
            address: the address to listen on; `::` is all of IPv6 and IPv4. Default 0.0.0.0, all
                of IPv4.
            registry: the metrics. Default: the process's own.
            health: what is asked for its health, such as workers and exporters. Default: nothing,
                and both paths answer 200.

        Raises:
            InvalidSettingError: if the port is out of range.
        """
        if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= MAX_PORT:
            raise InvalidSettingError(f"the metrics port is 0 to {MAX_PORT}, got {port!r}")
        self._port = port
        self._address = address
        self._registry = registry
        self._health = tuple(health)
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The port that it listens on; before the start, the one that was asked for."""
        return self._port if self._server is None else int(self._server.server_address[1])

    def start(self) -> None:
        """Begin to listen.

        Raises:
            PortUnavailableError: if the port is taken, or the address is not of this machine.
        """
        if self._server is not None:
            return
        handler = type("_BoundHandler", (_Handler,), {"registry": self._registry})
        try:
            self._server = _Server((self._address, self._port), handler, self._health)
        except OSError as error:
            reason = error.strerror or str(error)
            raise PortUnavailableError(self._address, self._port, reason) from error
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="meshhook-monitoring", daemon=True
        )
        self._thread.start()
        _log.info("metrics and health are served", address=self._address, port=self.port)

    def stop(self) -> None:
        """Listen no more; answers under way are cut."""
        server, self._server = self._server, None
        if server is None or self._thread is None:
            return
        server.shutdown()
        self._thread.join()
        server.server_close()

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(
        self, address: tuple[str, int], handler: type[_Handler], health: Sequence[HealthSource]
    ) -> None:
        self.health = health
        self._open: dict[int, tuple[socket.socket, float]] = {}
        self._open_lock = threading.Lock()
        family, *_, found = socket.getaddrinfo(
            *address, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        self.address_family = family
        super().__init__(found[:2], handler)  # type: ignore[arg-type]

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # Not HTTPServer's: it asks the name service for this machine's name, and may wait for it.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "localhost", self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._open_lock:
            is_full = len(self._open) >= MAX_CONNECTIONS
            if not is_full:
                self._open[id(request)] = request, time.monotonic() + CLIENT_SECONDS
        if is_full:
            self.shutdown_request(request)
        else:
            super().process_request(request, client_address)

    def service_actions(self) -> None:
        """Cut the connections of clients that take too long; called twice a second."""
        now = time.monotonic()
        with self._open_lock:
            late = [each for each, deadline in self._open.values() if deadline < now]
        for each in late:
            _cut(each)

    def shutdown_request(self, request: Any) -> None:
        with self._open_lock:
            self._open.pop(id(request), None)
        super().shutdown_request(request)

    def server_close(self) -> None:
        super().server_close()
        with self._open_lock:
            left = [each for each, _ in self._open.values()]
        for each in left:
            _cut(each)

    def handle_error(self, request: Any, client_address: Any) -> None:
        del request, client_address
        _log.debug("a client has left", exc_info=True)


def _cut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it may have gone by itself
        connection.shutdown(socket.SHUT_RDWR)


class _Handler(MetricsHandler):
    server: _Server
    timeout = CLIENT_SECONDS
    server_version = "meshhook"
    sys_version = ""

    def do_GET(self) -> None:  # noqa: N802 - the name of the method
        path = urlsplit(self.path).path.rstrip("/")
        if path == "/metrics":
            self._send_metrics()
        elif path == "/healthz":
            self._send_health(lambda source: source.liveness())
        elif path == "/readyz":
            self._send_health(lambda source: source.readiness())
        else:
            self._send(HTTPStatus.NOT_FOUND, "there are /metrics, /healthz and /readyz\n")

    def do_HEAD(self) -> None:  # noqa: N802 - the same
        self.do_GET()

    def _refuse(self) -> None:
        self._send(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD\n", allow="GET, HEAD")

    do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _refuse  # noqa: N815 - names of methods

    def _send_metrics(self) -> None:
        try:
            super().do_GET()
        except OSError:
            raise  # the client's
        except Exception as error:  # noqa: BLE001 - whatever a collector raises
            _log.error("metrics not collected", exc_info=error)
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, "the metrics could not be collected\n")

    def _send_health(self, checks_of: Callable[[HealthSource], Iterable[Check]]) -> None:
        try:
            checks = [check for source in self.server.health for check in checks_of(source)]
        except Exception as error:  # noqa: BLE001 - health that cannot be told is not well
            _log.error("health not told", exc_info=error)
            checks = [Check("health", f"could not be told: {type(error).__name__}")]
        is_well, text = report(checks)
        self._send(HTTPStatus.OK if is_well else HTTPStatus.SERVICE_UNAVAILABLE, text)

    def _send(self, status: HTTPStatus, text: str, *, allow: str | None = None) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        if allow is not None:
            self.send_header("Allow", allow)
        self.end_headers()
        self.wfile.write(body)

    def end_headers(self) -> None:
        super().end_headers()
        if self.command == "HEAD":
            self.wfile.flush()
            self.wfile = BytesIO()
