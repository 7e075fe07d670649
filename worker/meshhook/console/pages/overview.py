"""The overview: what waits, runs and has failed in each queue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshhook.administration import QueueSnapshot, list_queues
from meshhook.console.context import Console, console_of
from meshhook.live_workers import LiveWorker, list_workers
from meshhook.queue_scaling import QueueScaling, known_queue_scaling
from meshhook.store import queries

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.requests import Request
    from starlette.responses import Response

_SCHEMA_SECONDS = 30.0
COUNT_LIMIT = 1_000
"""Where counts of the overview stop: beyond, it says `1,000+`."""


@dataclass(frozen=True, slots=True)
class QueueLine:
    """A queue as the overview shows it."""

    queue: QueueSnapshot
    workers: int
    running_capacity: int
    """How many jobs its workers may run at once."""
    arrivals_per_second: float | None
    """None until two snapshots have been taken."""
    scaling: tuple[QueueScaling, ...]
    """How JobQueues scale it; none without any."""
    target_seconds: float
    """After how long a waiting job is late: by its JobQueue, else by the console's settings."""

    @property
    def is_late(self) -> bool:
        """Whether its oldest job has waited for longer than it may."""
        return self.queue.oldest_ready_seconds > self.target_seconds

    @property
    def waiting(self) -> int:
        """Jobs that may start, lost ones included."""
        return self.queue.ready + self.queue.lost

    @property
    def later(self) -> int:
        """Jobs that fall due later."""
        return self.queue.scheduled + self.queue.retrying


@dataclass(frozen=True, slots=True)
class Overview:
    """All queues at one moment."""

    lines: tuple[QueueLine, ...]

    @property
    def has_scaling(self) -> bool:
        """Whether a JobQueue scales any of them."""
        return any(each.scaling for each in self.lines)


async def show(request: Request) -> Response:
    """Show the overview."""
    console = console_of(request)
    overview = await read_overview(console)
    every_seconds = console.read_every_seconds(len(overview.lines))
    return console.page(
        request,
        "overview.html",
        overview=overview,
        every_seconds=every_seconds if every_seconds > console.settings.refresh_seconds else None,
        is_live=True,
    )


async def read_overview(console: Console) -> Overview:
    """Return the overview that all viewers share."""

    async def read() -> Overview:
        queues = await list_queues(console.database, count_limit=COUNT_LIMIT)
        workers = await read_workers(console)
        scaling = await read_scaling(console)
        console.arrivals.keep_only({each.queue for each in queues})
        return Overview(tuple(_line(console, each, workers, scaling) for each in queues))

    return await console.snapshots.get(
        "overview", read, for_seconds=lambda found: console.kept_seconds(len(found.lines))
    )


async def read_workers(console: Console) -> list[LiveWorker]:
    """Return the workers that are alive, which all viewers share."""
    return await console.snapshots.get(
        "workers",
        lambda: list_workers(console.database),
        for_seconds=console.kept_seconds(),
    )


async def read_scaling(console: Console) -> list[QueueScaling]:
    """Return how JobQueues scale queues, which all viewers share."""
    return await console.snapshots.get(
        "scaling",
        lambda: known_queue_scaling(console.database),
        for_seconds=console.kept_seconds(),
    )


async def read_schema_version(console: Console) -> int:
    """Return the newest migration of the database, which all viewers share."""

    async def read() -> int:
        return int(await console.database.fetchval(queries.load("examine_migrations")))

    return await console.snapshots.get("schema version", read, for_seconds=_SCHEMA_SECONDS)


def target_of(console: Console, scaling: Iterable[QueueScaling]) -> float:
    """Return how long a job of a queue may wait: by its JobQueues, or by the console's setting.

    Of a queue with priorities, its oldest job may be of any: it is late by the longest target.
    """
    targets = [each.longest_target_seconds for each in scaling if not each.is_stale]
    return min(targets, default=console.settings.target_seconds)


def _line(
    console: Console,
    queue: QueueSnapshot,
    workers: list[LiveWorker],
    scaling: list[QueueScaling],
) -> QueueLine:
    own_scaling = tuple(each for each in scaling if each.queue == queue.queue)
    of_queue = [each for each in workers if each.queue == queue.queue]
    return QueueLine(
        queue=queue,
        workers=len(of_queue),
        running_capacity=sum(each.concurrency for each in of_queue),
        arrivals_per_second=console.arrivals.note(queue),
        scaling=own_scaling,
        target_seconds=target_of(console, own_scaling),
    )
