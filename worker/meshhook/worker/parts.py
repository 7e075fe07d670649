"""What a started worker is made of, and what these parts do together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshhook.errors import DatabaseUnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from meshhook.observability.loops import WatchedLoop
    from meshhook.queue_config import QueueConfig
    from meshhook.worker.connections import WorkerConnection
    from meshhook.worker.housekeeping import Housekeeper
    from meshhook.worker.lane import Lane
    from meshhook.worker.lease_keeper import LeaseKeeper
    from meshhook.worker.reporting import Reporter
    from meshhook.worker.schema_watch import SchemaWatch


@dataclass(slots=True)
class Parts:
    """What a started worker is made of."""

    main_connection: WorkerConnection
    settle_connection: WorkerConnection
    read_connection: WorkerConnection
    lanes: list[Lane]
    leases_loop: WatchedLoop
    schema_watch: SchemaWatch
    lease_keeper: LeaseKeeper
    housekeeper: Housekeeper
    reporter: Reporter

    def sockets(self) -> list[int]:
        """Return the descriptors of the connections that are open."""
        connections = (
            self.main_connection,
            self.settle_connection,
            self.read_connection,
            self.lease_keeper.connection,
        )
        numbers = (None if each is None else each.socket_number for each in connections)
        return [number for number in numbers if number is not None]

    def start_nothing(self) -> None:
        """Start no more jobs: this is a process that a job has forked."""
        for lane in self.lanes:
            lane.executor.forked()


def note_fleet(lanes: list[Lane], workers: dict[str, int]) -> None:
    """Tell lanes how many workers their queue has."""
    for lane in lanes:
        lane.note_workers(workers.get(lane.queue_name, 1))


async def open_all(*openings: Callable[[], Awaitable[None]]) -> None:
    """Open connections, one after the other.

    Raises:
        DatabaseUnavailableError: the server has no room for all that a worker takes.
        DatabaseError: one was refused.
    """
    for opening in openings:
        try:
            await opening()
        except DatabaseUnavailableError as error:
            raise DatabaseUnavailableError(f"{error} (a worker takes three connections)") from error


def config_of(lane: Lane) -> QueueConfig:
    """Return the settings of a lane's queue now."""
    return lane.config
