"""`SyncQueueAccess`: what all that a service without an event loop does has in common."""

from __future__ import annotations

import os
import threading
import weakref
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Self

from meshhook.arguments import checked_flag, checked_seconds
from meshhook.drivers.lending import check_sync, sync_connection
from meshhook.encryption.key_ring import checked_ring
from meshhook.errors import InvalidSettingError
from meshhook.jobs import PayloadT
from meshhook.names import DEFAULT_QUEUE_NAME, validate_queue_name
from meshhook.observability.tracing import TracerFinder
from meshhook.postgres.database import Database
from meshhook.postgres.url import parse_database_url
from meshhook.queues import QueueService
from meshhook.store.body_decoder import BodyDecoder
from meshhook.sync.loop_thread import LoopThread
from meshhook.sync.recent_settings import RecentSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from opentelemetry.trace import TracerProvider

    from meshhook.drivers.driver_connection import SyncDriverConnection
    from meshhook.encryption.key_ring import KeyRing

POOL_SIZE = 4
"""The most connections that are opened for a URL."""


@dataclass(frozen=True, slots=True)
class _Opened:
    """What is used in the thread with the connections."""

    database: Database
    service: QueueService[Any]


@dataclass
class _Process:
    """What belongs to one process: a forked one must not use connections of its parent."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    thread: LoopThread[_Opened] | None = None


class SyncQueueAccess(Generic[PayloadT]):
    """One queue, its settings, and the thread that has connections to it."""

    def __init__(
        self,
        source: Any = None,
        queue: str = DEFAULT_QUEUE_NAME,
        *,
        payload_model: Any = None,
        tracer_provider: TracerProvider | None = None,
        pooled: bool = False,
        answer_timeout_seconds: float | None = None,
        encryption: KeyRing | None = None,
    ) -> None:
        """Take where the queue is, and its name.

        Args:
            source: a URL, to which at most 4 connections are opened when they are needed; they
                live in a thread of their own, and `close` closes them. Or a connection of psycopg,
                SQLAlchemy or Django that is not asynchronous, or a session: the caller still owns
                it, and jobs are part of the transaction on it. Default: none, for a service that
                is only called with `connection=`.
            queue: the queue; see `meshhook.names`. Default `workflow_jobs`.
            payload_model: the type of the payload; other payloads are refused. Default: anything
                that JSON can hold.
            tracer_provider: creates the spans of sends and puts their trace into the headers.
                Default: OpenTelemetry's global provider, once one is set; otherwise no spans.
            pooled: whether the URL leads through a pooler in transaction mode. Default false.
            answer_timeout_seconds: how long a statement on a connection to the URL may take before
                it counts as broken, 0.001 to 86,400 seconds. Default 30.
            encryption: the keys with which jobs are encrypted. Default: none.

        Raises:
            InvalidQueueNameError: if the name is not a valid queue name.
            InvalidSettingError: if `source` is none of these, or another argument is not valid.
        """
        self.queue = validate_queue_name(queue)
        if isinstance(source, str):
            parse_database_url(source)
        elif source is not None:
            check_sync(source)
        self._source = source
        self._payload_model = payload_model
        self._tracer_provider = tracer_provider
        self._pooled = checked_flag("pooled", pooled)
        if answer_timeout_seconds is not None:
            checked_seconds("answer_timeout_seconds", answer_timeout_seconds, 0.001, 86_400)
        self._answer_timeout_seconds = answer_timeout_seconds
        self._decoder: BodyDecoder[PayloadT] = BodyDecoder(payload_model)
        self._tracing = TracerFinder(tracer_provider)
        self._encryption = checked_ring(encryption)
        self._settings = RecentSettings(self.queue)
        self._follow_up_settings: dict[str, RecentSettings] = {}
        """Those of queues in which jobs follow the dead letters of this one."""
        self._processes: dict[int, _Process] = {}
        # Also at the end of the program, for connections that nobody closes.
        weakref.finalize(self, _close, self._processes)

    def _own_connection(self, connection: object) -> SyncDriverConnection | None:
        if connection is not None:
            return sync_connection(connection)
        if isinstance(self._source, str):
            return None
        if self._source is None:
            raise InvalidSettingError(
                "the service has no database: pass connection=, or make it with a URL: "
                "SyncQueueService('postgresql://user:password@host:5432/name', 'orders')"
            )
        return sync_connection(self._source)

    def _opened_for(self, method: str) -> LoopThread[_Opened]:
        if not isinstance(self._source, str):
            raise InvalidSettingError(
                f"{method} needs connections of its own: make the service with a URL"
            )
        return self._opened()

    def _opened(self) -> LoopThread[_Opened]:
        """Return the thread that has this process's connections; the first call starts it."""
        # What a parent process had stays untouched: to let go of it would end its sessions.
        process = self._processes.setdefault(os.getpid(), _Process())
        with process.lock:
            if process.thread is None:
                process.thread = LoopThread(self._open, name=f"meshhook-enqueue-{self.queue}")
            return process.thread

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[_Opened]:
        database = await Database.connect(
            self._source,
            min_size=0,
            max_size=POOL_SIZE,
            pooled=self._pooled,
            answer_timeout_seconds=self._answer_timeout_seconds,
        )
        try:
            async with QueueService[Any](
                database,
                self.queue,
                payload_model=self._payload_model,
                tracer_provider=self._tracer_provider,
                encryption=self._encryption,
            ) as service:
                yield _Opened(database, service)
        finally:
            await database.close()

    def close(self) -> None:
        """Wait for enqueues that are under way, and close connections to a URL.

        The next call opens them again. A source that is a connection stays open.
        """
        _close(self._processes)

    def __enter__(self) -> Self:
        """Return the service itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close connections to a URL."""
        self.close()


def _close(processes: dict[int, _Process]) -> None:
    process = processes.get(os.getpid())
    if process is None:
        return
    with process.lock:
        thread, process.thread = process.thread, None
    if thread is not None:
        thread.stop()
