"""`QueueAccess`: what all that a service does to its queue has in common."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Generic

from meshhook import administration
from meshhook.encryption.key_ring import checked_ring
from meshhook.errors import SchemaMissingError
from meshhook.job_ends import EndWaiter
from meshhook.jobs import PayloadT
from meshhook.names import DEFAULT_QUEUE_NAME, validate_queue_name, validate_worker_name
from meshhook.observability.tracing import TracerFinder
from meshhook.postgres.database import Database
from meshhook.queues.follow_up_queues import FollowUpQueues
from meshhook.settings_cache import SettingsCache
from meshhook.store.body_decoder import BodyDecoder
from meshhook.store.send_buffer import SendBuffer
from meshhook.store.unique_sending import insert_unique

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from opentelemetry.trace import TracerProvider

    from meshhook.encryption.key_ring import KeyRing
    from meshhook.queue_config import QueueConfig
    from meshhook.store import queries
    from meshhook.store.messages import Message
    from meshhook.store.unique_sending import UniqueMessage


class QueueAccess(Generic[PayloadT]):
    """One queue of a database, its settings and tables, and what is on the way to it."""

    def __init__(
        self,
        source: Any,
        queue: str = DEFAULT_QUEUE_NAME,
        *,
        payload_model: Any = None,
        worker_name: str | None = None,
        tracer_provider: TracerProvider | None = None,
        answer_timeout_seconds: float | None = None,
        encryption: KeyRing | None = None,
    ) -> None:
        """Take an asyncpg pool or connection, and the queue's name.

        Args:
            source: an asyncpg Pool or Connection, or a Database, which the caller still owns; or a
                URL, to which a pool of at most 4 connections is opened when it is needed, and
                closed by `close`.
            queue: the queue; see `meshhook.names`. Default `workflow_jobs`.
            payload_model: the type of `Job.payload`, both enqueued and dequeued; other payloads
                are refused. Default: plain JSON, and anything may be enqueued.
            worker_name: the name recorded in the history for jobs settled here, up to 200
                characters. Default: none.
            tracer_provider: creates the spans of sends and puts their trace into the headers.
                Default: OpenTelemetry's global provider, once one is set; otherwise no spans.
            answer_timeout_seconds: how long a statement may take before its connection counts as
                broken, 0.001 to 86,400 seconds. It applies to the caller's connections too, unless
                they have a `command_timeout`. Default: that of the given Database, or 30.
            encryption: the keys with which jobs are encrypted when they are enqueued, and decrypted
                when they are claimed. Default: none; jobs are enqueued as they are.

        Raises:
            InvalidQueueNameError: if the name is not a valid queue name.
            InvalidSettingError: if `source` is no pool or connection, or a limit is out of range.
        """
        self.queue = validate_queue_name(queue)
        self._encryption = checked_ring(encryption)
        self._database = Database(source, answer_timeout_seconds=answer_timeout_seconds)
        self._answer_timeout_seconds = answer_timeout_seconds
        self._decoder: BodyDecoder[PayloadT] = BodyDecoder(payload_model)
        self._worker_name = worker_name and validate_worker_name(worker_name)
        self._tracing = TracerFinder(tracer_provider)
        self._tables: queries.QueueTables | None = None
        self._settings = SettingsCache(self._database, self.queue)
        self._follow_up_queues = FollowUpQueues(self._database)
        self._send_buffer: SendBuffer[Message] = SendBuffer(self._database, self.queue)
        self._unique_buffer: SendBuffer[UniqueMessage] = SendBuffer(
            self._database, self.queue, insert_unique
        )
        self._ends = EndWaiter(self._database, self.queue, encryption=self._encryption)

    async def get_config(self) -> QueueConfig:
        """Return the queue's settings, at most five seconds old.

        Raises:
            QueueNotFoundError: if the queue does not exist.
        """
        return await self._settings.fresh()

    @asynccontextmanager
    async def _existing_tables(self) -> AsyncIterator[queries.QueueTables]:
        """Yield the queue's tables; raise QueueNotFoundError if it was dropped in the meantime."""
        if self._tables is None:
            self._tables = await administration.describe_tables(self._database, self.queue)
        try:
            yield self._tables
        except SchemaMissingError:
            self._tables = None
            await administration.describe_tables(self._database, self.queue)
            raise
