"""The checked arguments of a worker."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from meshhook.arguments import check_range, checked_seconds
from meshhook.encryption.key_ring import checked_ring
from meshhook.errors import InvalidSettingError
from meshhook.escaping import quoted
from meshhook.names import host_name, validate_worker_name
from meshhook.observability.tracing import ProducerTrace
from meshhook.postgres.url import parse_database_url
from meshhook.worker.assignments import assignments
from meshhook.worker.batch_options import checked_batch

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

    from meshhook.encryption.key_ring import KeyRing
    from meshhook.worker.assignments import Assignment

MAX_CONCURRENCY = 10_000
MIN_MESSAGE_BYTES = 1_024
MAX_MESSAGE_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """The checked arguments of a worker; `Worker` describes them."""

    url: str = field(repr=False)
    listen_url: str | None = field(repr=False)
    assignments: tuple[Assignment, ...]
    concurrency: int
    grace_seconds: float
    pooled: bool
    name: str
    stall_seconds: float
    tracer_provider: TracerProvider | None
    encryption: KeyRing | None
    producer_trace: ProducerTrace
    max_message_bytes: int | None

    @property
    def queue_names(self) -> tuple[str, ...]:
        """The names of its queues."""
        return tuple(assignment.queue_name for assignment in self.assignments)

    @property
    def queues_shown(self) -> str:
        """The names of its queues, as text."""
        return ", ".join(self.queue_names)

    @property
    def listens(self) -> bool:
        """Whether the connection that claims hears notifications."""
        return self.listen_url is not None or not self.pooled


def checked_options(
    *,
    url: str,
    listen_url: str | None,
    queues: Any,
    handler: Any,
    batch: Any,
    batch_wait_seconds: Any,
    concurrency: Any,
    name: str | None,
    producer_trace: ProducerTrace | str,
    grace_seconds: float,
    stall_seconds: float,
    max_message_bytes: int | None,
    pooled: bool,
    tracer_provider: TracerProvider | None,
    encryption: KeyRing | None,
) -> WorkerOptions:
    """Check the arguments of a worker, and return them.

    Raises:
        InvalidQueueNameError, InvalidHandlerError, InvalidSettingError: naming the argument.
    """
    assigned = tuple(assignments(queues, handler, checked_batch(batch, batch_wait_seconds)))
    _check_concurrency(concurrency, len(assigned))
    if name is None:
        name = f"{host_name()}-{os.getpid()}-{secrets.token_hex(3)}"
    else:
        validate_worker_name(name)
    for each in (url,) if listen_url is None else (url, listen_url):
        parse_database_url(each)
    grace_seconds = checked_seconds("grace_seconds", grace_seconds, 0, 3_600)
    stall_seconds = checked_seconds("stall_seconds", stall_seconds, 10, 86_400)
    if producer_trace not in list(ProducerTrace):
        raise InvalidSettingError(
            f"producer_trace is {' or '.join(ProducerTrace)}, got {quoted(producer_trace)}"
        )
    if max_message_bytes is not None:
        check_range("max_message_bytes", max_message_bytes, MAX_MESSAGE_BYTES, MIN_MESSAGE_BYTES)
    return WorkerOptions(
        url=url,
        listen_url=listen_url,
        assignments=assigned,
        concurrency=concurrency,
        grace_seconds=grace_seconds,
        pooled=pooled,
        name=name,
        stall_seconds=stall_seconds,
        tracer_provider=tracer_provider,
        encryption=checked_ring(encryption),
        producer_trace=ProducerTrace(producer_trace),
        max_message_bytes=max_message_bytes,
    )


def _check_concurrency(concurrency: Any, queues: int) -> None:
    if not isinstance(concurrency, int) or not 1 <= concurrency <= MAX_CONCURRENCY:
        raise InvalidSettingError(
            f"concurrency is a whole number from 1 to {MAX_CONCURRENCY}, got {quoted(concurrency)}"
        )
    if concurrency < queues:
        raise InvalidSettingError(
            f"concurrency is {concurrency}, but the worker has {queues} queues; each "
            "needs a slot, or it could wait for ever"
        )
